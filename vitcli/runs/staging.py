"""Outputs in a store: written to local files first, and sent when they are complete.

An object can neither grow nor be locked. So partial, journal and lock are local files, in a folder
of the cache named after the URL. A run into a store is as atomic as one into a file, and is resumed
in the same way. At its end the files are sent, the output itself last, and removed here. During the
run the object `<url>.partial` names the process that writes. Creating that object shows, before a
model is loaded, whether the store can be written to.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vitcli import stores
from vitcli.cache import OUTPUTS, cache_folder, hold
from vitcli.errors import Interrupted, OutputError, UsageError, in_bytes, printable
from vitcli.files import PARTIAL, explained
from vitcli.runs.finished import START_OVER
from vitcli.runs.journal import JOURNAL, journal_of, read_finished
from vitcli.runs.lock import LOCK, Lock, holder, this_process
from vitcli.runs.shard import Resuming, Shard
from vitcli.sinks.files import BESIDE, Target
from vitcli.stores import Place, Url

FETCHED = ".fetched"
_OBJECT = re.compile(r"[^:]+://[^/]+/(?:.*/)?[^/*?]+")


def check_place(url: str) -> None:
    """Raise UsageError for a URL that does not name a writable object."""
    if stores.is_web(url):
        hint = "write to a file, or to s3://, gs:// or hf://"
        raise UsageError(f"{printable(url)}: nothing can be written to an address of the web", hint)
    if _OBJECT.fullmatch(url) is None:
        raise UsageError(
            f"{printable(url)} names no object", "such as s3://bucket/folder/feats.npy"
        )


@contextmanager
def staged(
    out: Place | None,
    suffixes: Sequence[str] = (),
    asked: Resuming | None = None,
    *,
    overwrite: bool,
    note: Callable[[str], None],
    shards: Sequence[Shard] = (),
) -> Iterator[Path | None]:
    """Yield the file to write: `out` itself, or a local file if `out` is a URL. With `shards`, the
    caller writes the files of these shards instead, and they are sent.

    Raises UsageError for a URL that cannot be written, and OutputError if an object exists that may
    not be replaced, or if the store refuses.
    """
    if not isinstance(out, Url):
        yield out
        return
    check_place(out.text)
    stores.check_readable(out.text, OutputError)
    asked = asked or Resuming()
    stage = _Stage(out.text, note, shards)
    with explained(stage.folder):
        stage.folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(stage.folder / LOCK, out.text)
    try:
        try:
            for name in stage.names:
                stage.check(name, suffixes, replaces=overwrite or asked.resume)
            for name in stage.names:
                stage.claim(name, replaces=overwrite or asked.resume)
                if asked.resume:
                    stage.fetch(name)
            note(f"{out} is written to {stage.folder} first, and sent when it is complete")
            yield stage.folder / stage.name
        except BaseException:
            stage.leave()
            raise
        for name in stage.names:
            stage.deliver(name)
    finally:
        lock.release()
        with suppress(OSError):  # it is not empty
            stage.folder.rmdir()


@contextmanager
def brought(places: Sequence[Place]) -> Iterator[list[Path]]:
    """Yield finished outputs as local files. Objects at URLs, which may be patterns, are fetched,
    and removed at the end. Raises OutputError."""
    if all(isinstance(place, Path) for place in places):
        yield [place for place in places if isinstance(place, Path)]
        return
    within = cache_folder() / OUTPUTS
    with explained(within):
        within.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="shards-", dir=within) as folder:
        hold(Path(folder))
        for number, place in enumerate(places):
            if isinstance(place, Path):
                files.append(place)
                continue
            stores.check_readable(place.text, OutputError)
            for url in _matching(place.text):
                own = Path(folder, str(number))
                own.mkdir(exist_ok=True)
                files.append(_fetched(url, own))
        yield files


class _Stage:
    """A folder of the cache, and the folder in the store to which its files go."""

    def __init__(self, out: str, note: Callable[[str], None], shards: Sequence[Shard]) -> None:
        self._store, _, self.name = out.rpartition("/")
        self.names = [shard.named(Path(self.name)).name for shard in shards] or [self.name]
        whole = f"{self._store}/{self.names[0]}" if len(self.names) == 1 else f"{out} {shards[0]}"
        digest = hashlib.blake2b(whole.encode("utf-8", "surrogateescape"), digest_size=4)
        words = re.sub(r"[^\w.-]+", "-", whole.partition("://")[2], flags=re.ASCII)[-100:]
        self.folder = cache_folder() / OUTPUTS / f"{words.strip('-')}-{digest.hexdigest()}"
        self._note = note
        self._fetched: dict[str, tuple[int, ...]] = {}
        self._claimed: list[str] = []

    def check(self, name: str, suffixes: Sequence[str], *, replaces: bool) -> None:
        """Raise OutputError for a file here, or an object, that may not be replaced."""
        if replaces:
            return
        local = self.folder / name
        if local.exists():
            raise OutputError(
                f"{local} is whole, and was not sent to {printable(self._store)}",
                f"--resume sends it, {START_OVER}",
            )
        for path in (local, *map(Target(local).path, suffixes)):
            url = self._url(path.name)
            with _refused(url):
                is_there = stores.stamp(url) is not None
            if is_there:
                hint = "--overwrite replaces it, --resume brings it up to date"
                raise OutputError(f"{printable(url)} exists", hint)

    def claim(self, name: str, *, replaces: bool) -> None:
        """Name this process in the store. Raises OutputError if another process is named there, or
        if the store refuses."""
        url = self._url(name)
        me = this_process()
        with _refused(url):
            named = self._holder(name)
            if named and (named.get("host"), named.get("folder")) != (me["host"], str(self.folder)):
                other = holder(json.dumps(named).encode())
                if not replaces:
                    raise OutputError(
                        f"{printable(url)} was begun by {other}",
                        "--resume there continues it; --resume here starts over",
                    )
                if not self._partial(name).exists():
                    self._note(f"{url} was begun by {other}: what it has done is not here")
            stores.put_bytes(json.dumps({**me, "folder": str(self.folder)}).encode(), url + PARTIAL)
            self._claimed.append(name)

    def fetch(self, name: str) -> None:
        """Fetch the finished output, unless the local one is newer."""
        url, local = self._url(name), self.folder / name
        with _refused(url):
            if stores.stamp(url) is None:
                return
            if local.exists() and local.stat().st_mtime >= stores.modified(url):
                return
        self._fetched[name] = _identity(_fetched(url, self.folder))

    def deliver(self, name: str) -> None:
        """Send the output if it has changed: first the files next to it and its journal."""
        url, local = self._url(name), self.folder / name
        files = _files(local) if local.exists() else []
        journal = journal_of(local)
        is_journalled = journal in files
        again = (
            "the same command with --resume sends it" if is_journalled else "copy its files there"
        )
        try:
            if files and self._fetched.get(name) != _identity(local):
                self._note(f"sending {in_bytes(sum(f.stat().st_size for f in files))} to {url}")
                earlier = self._url(journal.name)
                if not is_journalled and stores.stamp(earlier) is not None:
                    stores.remove(earlier)  # of the output that is replaced
                for file in files:
                    stores.put(file, self._url(file.name))
        except OSError as error:
            raise OutputError(
                f"cannot send {local.name} to {printable(self._store)}: {error}",
                f"the output is whole in {self.folder}; {again}",
            ) from None
        except Interrupted as interrupted:
            rows = "images" if is_journalled else "rows"
            interrupted.after = f"all {rows}, on their way to {url}"
            interrupted.can_resume = is_journalled
            raise
        self._forget(name, files)

    def leave(self) -> None:
        """End an unfinished run: keep its files, and the name of this process in the store. If it
        has done nothing, remove both."""
        for name in self._claimed:
            local = self.folder / name
            if name in self._fetched and not self._partial(name).exists():
                if local.exists() and self._fetched[name] == _identity(local):
                    self._forget(name, _files(local))
            elif not self._partial(name).exists() and not local.exists():
                self._forget(name, [])

    def _forget(self, name: str, files: Sequence[Path]) -> None:
        with suppress(OSError):  # permission to write does not imply permission to remove
            stores.remove(self._url(name) + PARTIAL)
        for file in files:
            file.unlink(missing_ok=True)

    def _holder(self, name: str) -> Mapping[str, Any]:
        """The process that is named in the store; empty if none is."""
        try:
            named = json.loads(stores.read(self._url(name) + PARTIAL))
        except (FileNotFoundError, ValueError):
            return {}
        return named if isinstance(named, dict) else {}

    def _partial(self, name: str) -> Path:
        return self.folder / (name + PARTIAL + JOURNAL)

    def _url(self, name: str) -> str:
        return f"{self._store}/{name}"


def _files(local: Path) -> list[Path]:
    """All files of a finished output; the output itself is the last. One that was written in one go
    has no journal."""
    journal = journal_of(local)
    known = [Target(local).path(suffix) for suffix in BESIDE]
    if not journal.exists():
        return [*(file for file in known if file.exists()), local]
    finished = {whole.name for whole in read_finished(journal) or []}
    return [*(file for file in known if file.name in finished), journal, local]


def _fetched(url: str, folder: Path) -> Path:
    """Fetch a finished output with all its files into a folder. The output itself is the last: if
    it exists, so do the others. Raises OutputError."""
    store, _, name = url.rpartition("/")
    local = folder / name
    journal = journal_of(local)
    with _refused(url, "cannot read"):
        coming = journal.with_name(journal.name + FETCHED)
        try:
            stores.get(f"{store}/{journal.name}", coming)
        except FileNotFoundError:
            raise OutputError(
                f"{printable(url)} has no record of its run, {journal.name}", START_OVER
            ) from None
        coming.replace(journal)
        for file in _files(local):
            if file != journal:
                coming = file.with_name(file.name + FETCHED)
                stores.get(f"{store}/{file.name}", coming)
                coming.replace(file)
    return local


def _matching(url: str) -> list[str]:
    with _refused(url, "cannot list"):
        listing = stores.listing(url) if "*" in url else None
    if listing is not None and not listing.urls:
        raise OutputError(f"no object matches {printable(url)}")
    return [url] if listing is None else listing.urls


def _identity(file: Path) -> tuple[int, ...]:
    """The version of a file: it differs after the file has been written again."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def _refused(url: str, what: str = "cannot write to") -> Iterator[None]:
    """Turn the errors of a store into OutputError."""
    try:
        yield
    except FileNotFoundError:
        why = "there is no such bucket (404)" if "write" in what else "no such object (404)"
        raise OutputError(f"{what} {printable(url)}: {why}") from None
    except OSError as error:
        hint = "are the name and the credentials right?"
        raise OutputError(f"{what} {printable(url)}: {error}", hint) from None
