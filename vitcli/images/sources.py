"""What was typed into image refs: files, directories, globs, lists of paths; lazily, in order."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from vitcli.errors import InputError, printable
from vitcli.images.decode import suffixes
from vitcli.records import ImageRef

READ_SIZE = 1 << 16


class Source(Protocol):
    """Something that lists paths. The order is its own, and the same every time."""

    def __iter__(self) -> Iterator[str]: ...

    def check(self) -> None:
        """Raise InputError for what can be seen to be wrong before the run begins."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Which files of a directory count, and whom to tell of a folder that cannot be listed."""

    suffixes: frozenset[str]
    unlisted: Callable[[str], None] = lambda text: None


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file named explicitly: always tried, also when it is missing or has an odd name."""

    path: str

    def __iter__(self) -> Iterator[str]:
        yield self.path

    def check(self) -> None:
        """Nothing: a missing file is a row of the result."""


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """Every image below a directory, bytewise by the whole relative path."""

    path: str
    scan: Scan

    def __iter__(self) -> Iterator[str]:
        yield from _walk(self.path, self.scan, ())

    def check(self) -> None:
        unlisted: list[str] = []
        if next(_walk(self.path, Scan(self.scan.suffixes, unlisted.append), ()), None) is None:
            if unlisted:
                raise InputError(f"no images in {printable(self.path)}: {unlisted[0]}")
            looked = " ".join(sorted(self.scan.suffixes))
            raise InputError(
                f"no images in {printable(self.path)}{_others(self.path)}",
                f"looked below it for {looked}; --formats all or --ext widens the search",
            )


@dataclass(frozen=True, slots=True)
class GlobSource:
    """A quoted pattern. What it matches counts as named explicitly; directories are walked."""

    pattern: str
    scan: Scan

    def __iter__(self) -> Iterator[str]:
        for path in sorted(glob.iglob(self.pattern, recursive=True), key=os.fsencode):
            if os.path.isdir(path):
                if "**" not in self.pattern:  # ** has listed what is below
                    yield from _walk(path, self.scan, ())
            else:
                yield path

    def check(self) -> None:
        if next(iter(self), None) is None:
            raise InputError(f"no file matches {printable(self.pattern)}")


@dataclass(frozen=True, slots=True)
class ListSource:
    """Paths in a file or on standard input, one a line or NUL-separated; empty is fine."""

    file: str | int
    null: bool
    scan: Scan

    def __iter__(self) -> Iterator[str]:
        for entry in self._entries():
            path = os.fsdecode(entry)
            if os.path.isdir(path):
                yield from _walk(path, self.scan, ())
            else:
                yield path

    def check(self) -> None:
        """Nothing that does not use up the list: a missing file is found when it is opened."""
        if isinstance(self.file, str) and not os.path.exists(self.file):
            raise InputError(
                f"no such file: {printable(self.file)}", "it was given as a list of paths"
            )

    def _entries(self) -> Iterator[bytes]:
        separator = b"\0" if self.null else b"\n"
        rest = b""
        for chunk in self._chunks():
            *entries, rest = (rest + chunk).split(separator)
            yield from filter(None, map(self._trim, entries))
        if last := self._trim(rest):
            yield last

    def _chunks(self) -> Iterator[bytes]:
        name = "standard input" if isinstance(self.file, int) else printable(self.file)
        try:
            with open(self.file, "rb", buffering=0, closefd=isinstance(self.file, str)) as file:
                while chunk := os.read(file.fileno(), READ_SIZE):
                    yield chunk
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror}") from None

    def _trim(self, entry: bytes) -> bytes:
        return entry if self.null else entry.removesuffix(b"\r")


def open_sources(
    inputs: Sequence[str],
    *,
    files_from: str | None = None,
    null: bool = False,
    scan: Scan | None = None,
) -> list[Source]:
    """The source for each input, checked. `-` is a list on standard input.

    Raises InputError for a directory without images and for a pattern without matches.
    """
    scan = scan or Scan(suffixes("common"))
    sources: list[Source] = []
    for text in inputs:
        if text == "-":
            sources.append(ListSource(0, null, scan))
        elif os.path.isdir(text):
            sources.append(DirectorySource(text, scan))
        elif glob.has_magic(text) and not os.path.lexists(text):
            sources.append(GlobSource(text, scan))
        else:
            sources.append(FileSource(text))
    if files_from is not None:
        sources.append(ListSource(files_from, null, scan))
    for source in sources:
        source.check()
    return sources


def iter_refs(sources: Sequence[Source]) -> Iterator[ImageRef]:
    """Number the paths of all sources, in order."""
    paths = (path for source in sources for path in source)
    for index, path in enumerate(paths):
        yield ImageRef(index, path)


def count(sources: Sequence[Source]) -> int | None:
    """How many refs there will be, or None where counting would use the list up."""
    if any(isinstance(s, ListSource) and isinstance(s.file, int) for s in sources):
        return None
    return sum(1 for _ in iter_refs(sources))


def _walk(folder: str, scan: Scan, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Images below `folder`; a folder that is on its own path already is not entered again.

    Sorting each folder with `/` behind the names of directories gives the order of the whole
    paths, so nothing has to be held but one folder a level.
    """
    try:
        here = os.stat(folder)
        with os.scandir(folder) as entries:
            visible = [(e.name, _is_dir(e)) for e in entries if not e.name.startswith(".")]
    except OSError as error:
        scan.unlisted(f"cannot list {printable(folder)}: {error.strerror}")
        return
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    visible.sort(key=lambda entry: os.fsencode(entry[0]) + (b"/" if entry[1] else b""))
    for name, is_dir in visible:
        path = os.path.join(folder, name)
        if is_dir:
            yield from _walk(path, scan, (*above, identity))
        elif os.path.splitext(name)[1].lower() in scan.suffixes and _is_candidate(path):
            yield path


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_candidate(path: str) -> bool:
    """A regular file, or a link to nowhere, which deserves a row. Never a FIFO or a device."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def _others(folder: str) -> str:
    """What there is instead of images, by suffix."""
    everything = (
        os.path.splitext(name)[1].lower() or "no suffix"
        for _, _, names in os.walk(folder)
        for name in names
    )
    found = Counter(islice(everything, 100_000))
    if not found:
        return " (it is empty)"
    kinds = ", ".join(f"{suffix} {n}" for suffix, n in found.most_common(3))
    return f" ({found.total()} other files: {kinds})"
