"""Remove entries of the cache that no run uses.

A run holds a lock on the export, the output or the shards that it uses, and each removal takes that
lock first. An entry is renamed before it is removed, so that no run sees a part of one. Links are
removed, never what they point to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from vitcli.cache import cache_folder
from vitcli.checkpoints.text.store import LOCK as TEXT_LOCK
from vitcli.errors import InputError, OutputError, UsageError, WriteError
from vitcli.runs.lock import LOCK, Lock
from vitcli.tasks.cache.entries import (
    KINDS,
    Entry,
    Kind,
    Outcome,
    entries,
    is_folder,
    measure,
    remarks,
    room_of,
)

ALL: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "outputs")
RECENT = 3600.0  # seconds: an unfinished file that was written since then is in use
NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOSYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheJob:
    """One run of `vit cache`: what to remove, if anything.

    clear: kinds, `all`, or single entries as KIND/NAME. older_than: seconds since the last use.
    """

    clear: tuple[str, ...] = ()
    older_than: float = 0.0
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True)
class CacheReport:
    """The content of the cache, or what became of the entries that were to be removed."""

    folder: Path
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries)

    @property
    def freed(self) -> int:
        """The bytes that were removed, or would be."""
        gone = ("removed", "would be removed")
        return sum(entry.bytes for entry in self.entries if entry.outcome in gone)


def cache(job: CacheJob) -> CacheReport:
    """List the entries of the cache that are old enough; remove those that `clear` names.

    Raises UsageError for an unknown kind, InputError for an entry that is not there. An entry that
    cannot be removed has the outcome `failed`.
    """
    chosen = _chosen(job.clear)
    before = time.time() - job.older_than
    found = [entry for entry in entries() if entry.used <= before or not job.older_than]
    notes = list(remarks())
    if not job.clear:
        return CacheReport(cache_folder(), tuple(found), tuple(notes))
    named = {(kind, name) for kind, name in chosen if name is not None}
    for kind, name in sorted(named):
        if not os.path.lexists(room_of(kind) / name):
            raise InputError(f"the cache has no {kind}/{name}", "vit cache lists what it has")
    kinds = {kind for kind, name in chosen if name is None}
    wanted = [entry for entry in found if entry.kind in kinds or (entry.kind, entry.name) in named]
    left = [entry for entry in found if entry.kind == "outputs" and entry not in wanted]
    if "all" in job.clear and left:
        notes.append(
            f"{len(left)} output{'s' * (len(left) != 1)} not sent yet: --clear outputs, "
            "or the run again with --resume, which sends them"
        )
    done = (_removed(entry, job.is_dry_run) for entry in wanted)
    return CacheReport(cache_folder(), tuple(done), tuple(notes))


def _chosen(words: tuple[str, ...]) -> set[tuple[Kind, str | None]]:
    """The kinds to clear, with the names of single entries."""
    chosen: set[tuple[Kind, str | None]] = set()
    for word in words:
        kind, slash, name = word.partition("/")
        if word == "all":
            chosen |= {(each, None) for each in ALL}
        elif kind in KINDS and bool(slash) == bool(name) and name not in (".", ".."):
            chosen.add((kind, name or None))
        else:
            raise UsageError(
                f"--clear {word} is nothing that can be cleared",
                f"give {', '.join(KINDS)}, all (without outputs), or one entry as KIND/NAME",
            )
    return chosen


class _InUse(Exception):
    """Another process uses an entry."""


def _removed(entry: Entry, is_dry_run: bool) -> Entry:
    """Remove an entry, and return it with its outcome. A dry run takes its locks alone."""
    done: Outcome = "would be removed" if is_dry_run else "removed"
    try:
        if entry.kind == "texts":
            freed = _clear_texts(entry.path, is_dry_run)
            return replace(entry, outcome=done, bytes=freed)
        is_output = entry.kind == "outputs" and not entry.name.startswith("shards-")
        with _locked_output(entry) if is_output and is_folder(entry.path) else nullcontext():
            _remove(entry, is_dry_run)
    except _InUse as error:
        return replace(entry, outcome="in use", why=str(error))
    except WriteError as error:
        return replace(entry, outcome="failed", why=error.message)
    except OSError as error:
        return replace(entry, outcome="failed", why=error.strerror or str(error))
    return replace(entry, outcome=done)


@contextmanager
def _locked_output(entry: Entry) -> Iterator[None]:
    """Hold the lock of an output that is on its way to a store. Raises _InUse, WriteError."""
    try:
        lock = Lock(entry.path / LOCK, entry.name)
    except WriteError:
        raise
    except OutputError as error:
        raise _InUse(error.message) from None
    try:
        yield
    finally:
        lock.release()


def _remove(entry: Entry, is_dry_run: bool) -> None:
    """Remove a file, a link or a folder. Raises _InUse, OSError."""
    room = os.open(room_of(entry.kind), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not is_folder(entry.path):
            if ".partial" in entry.name and time.time() - entry.used < RECENT:
                raise _InUse("it is being written")
            if not is_dry_run:
                os.unlink(entry.name, dir_fd=room)
            return
        with _alone(entry, room):
            if is_dry_run:
                return
            gone = f".partial-{os.getpid()}-{secrets.token_hex(8)}"
            os.rename(entry.name, gone, src_dir_fd=room, dst_dir_fd=room)
        shutil.rmtree(gone, dir_fd=room)
    finally:
        os.close(room)


@contextmanager
def _alone(entry: Entry, room: int) -> Iterator[None]:
    """Hold the only lock on a folder. Raises _InUse if a process uses it (see `hold`)."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    file = os.open(entry.name, flags, dir_fd=room)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _InUse("a run uses it") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            if time.time() - entry.used < RECENT:  # a file system without locks
                raise _InUse("it was used within the last hour") from None
        yield
    finally:
        os.close(file)


def _clear_texts(file: Path, is_dry_run: bool) -> int:
    """Empty the database of vectors, which other processes may have open; what is not a database is
    removed. Return how much smaller it is."""
    if file.is_symlink():
        if not is_dry_run:
            file.unlink()
        return 0
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(file.parent / TEXT_LOCK, flags, 0o600), "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _InUse("a run computes vectors") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        before, _, _ = measure(file)
        if is_dry_run:
            return before
        try:
            with closing(sqlite3.connect(file, timeout=1)) as base:
                with base:
                    base.execute("DROP TABLE IF EXISTS vectors")
                base.execute("VACUUM")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise OSError(str(error)) from None
            raise _InUse("a run writes to it") from None
        except sqlite3.DatabaseError:  # damaged, or of another program
            file.unlink()
            file.with_name(file.name + "-journal").unlink(missing_ok=True)
            return before
        return before - measure(file)[0]
