"""What was typed into image refs: files, directories, globs, lists of paths, and the archives among
them; lazily, in order."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import IO, Protocol

from vitcli import stores
from vitcli.errors import InputError, printable
from vitcli.images import remote
from vitcli.images.archives import Found
from vitcli.images.braces import expanded
from vitcli.images.decode import suffixes
from vitcli.images.kinds import passed_over
from vitcli.images.scan import Scan
from vitcli.images.tree import Tree
from vitcli.records import ImageRef, Member
from vitcli.stores import Listing, Stamp, is_remote

READ_SIZE = 1 << 16
LONGEST_ENTRY = 1 << 20  # bytes: no path or URL has as many


class Source(Protocol):
    """Something that lists paths. The order is its own, and the same every time."""

    @property
    def scan(self) -> Scan: ...

    def __iter__(self) -> Iterator[str]: ...

    def check(self) -> None:
        """Raise InputError for what can be seen to be wrong before the run begins."""

    def count(self) -> int | None:
        """How many images there are, in silence; None where counting would use them up."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file named explicitly: always tried, also when it is missing or has an odd name."""

    path: str
    scan: Scan = Scan(frozenset())

    def __iter__(self) -> Iterator[str]:
        yield self.path

    def check(self) -> None:
        """A missing file is a row of the result; an archive must hold an image."""
        if next(self.scan.silent.images(self.path), None) is None:
            looked = " ".join(sorted(self.scan.members))
            raise InputError(
                f"no images in {printable(self.path)}",
                f"looked in it for {looked}; --formats all or --ext widens the search",
            )

    def count(self) -> int:
        return self.scan.count((self.path,))


@dataclass(frozen=True, slots=True)
class FoundSource:
    """Images that somebody has found already: files and members of archives."""

    found: Sequence[Found]
    scan: Scan = Scan(frozenset())

    def __iter__(self) -> Iterator[str]:
        return (path for path, _ in self.found)

    def check(self) -> None:
        """What cannot be read is a row of the result."""

    def count(self) -> int:
        return len(self.found)


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """An object in a store or on the web, which is always tried; all below a prefix; or those that
    a pattern matches. They are listed once."""

    url: str
    scan: Scan

    def __iter__(self) -> Iterator[str]:
        found = self._listing()
        for folder in found.left_out if found else ():
            self.scan.system(folder)
        return iter((self.url,) if found is None else found.urls)

    def check(self) -> None:
        """Raise InputError where a prefix cannot be listed, or has no images."""
        stores.check_readable(self.url, InputError)
        self._listing()

    def count(self) -> int | None:
        urls = list(replace(self, scan=self.scan.silent))
        return None if any(map(remote.has_many, urls)) else len(urls)

    def stamp(self, url: str) -> Stamp | None:
        """The (size, version) of an object, taken from the listing where there is one."""
        found = self._listing()
        return remote.stamp(url) if found is None else found.stamp(url)

    def _listing(self) -> Listing | None:
        return remote.listing(self.url, self.scan.suffixes)


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """Every image below a directory, bytewise by the whole relative path."""

    path: str
    scan: Scan

    def __iter__(self) -> Iterator[str]:
        return Tree.below(self.path, self.scan).walk()

    def check(self) -> None:
        unlisted: list[str] = []
        passed: Counter[str] = Counter()
        scan = replace(
            self.scan.silent,
            unlisted=unlisted.append,
            passed=lambda suffix: passed.update((suffix,)),
        )
        if Tree.below(self.path, scan).is_empty():
            if unlisted:
                raise InputError(f"no images in {printable(self.path)}: {unlisted[0]}")
            looked = " ".join(sorted(self.scan.suffixes))
            raise InputError(
                f"no images in {printable(self.path)}{_others(self.path)}",
                passed_over(passed)
                if passed
                else f"looked below it for {looked}; --formats all or --ext widens the search",
            )

    def count(self) -> int:
        return Tree.below(self.path, self.scan).count()


@dataclass(frozen=True, slots=True)
class GlobSource:
    """A quoted pattern. A file that it matches counts as named explicitly, whatever its suffix;
    a directory that it matches is scanned. `**` stands for any number of directories."""

    pattern: str
    scan: Scan

    def __iter__(self) -> Iterator[str]:
        return Tree.matching(self.pattern, self.scan).walk()

    def check(self) -> None:
        if Tree.matching(self.pattern, self.scan.silent).is_empty():
            raise InputError(f"no file matches {printable(self.pattern)}")

    def count(self) -> int:
        return Tree.matching(self.pattern, self.scan).count()


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
                yield from Tree.below(path, self.scan).walk()
            else:
                yield path

    def check(self) -> None:
        """Nothing that does not use up the list: a missing file is found when it is opened."""
        if isinstance(self.file, str) and not os.path.exists(self.file):
            raise InputError(
                f"no such file: {printable(self.file)}", "it was given as a list of paths"
            )

    def count(self) -> int | None:
        if not (isinstance(self.file, str) and os.path.isfile(self.file)):
            return None  # a pipe gives its paths once
        if any(remote.has_many(url) for url in map(os.fsdecode, self._entries()) if is_remote(url)):
            return None
        paths = map(os.fsdecode, self._entries())
        return sum(
            Tree.below(path, self.scan).count() if os.path.isdir(path) else self.scan.count((path,))
            for path in paths
        )

    def _entries(self) -> Iterator[bytes]:
        separator = b"\0" if self.null else b"\n"
        rest = b""
        for chunk in _chunks(self.file):
            *entries, rest = (rest + chunk).split(separator)
            yield from filter(None, map(self._trim, entries))
            if len(rest) > LONGEST_ENTRY:
                name = "standard input" if isinstance(self.file, int) else printable(self.file)
                raise InputError(
                    f"{name} holds an entry of more than {LONGEST_ENTRY:,} bytes",
                    "expected a path a line" + (", or --null (-0)" if not self.null else ""),
                )
        if last := self._trim(rest):
            yield last

    def _trim(self, entry: bytes) -> bytes:
        return entry if self.null else entry.removesuffix(b"\r")


def _chunks(file: str | int) -> Iterator[bytes]:
    name = "standard input" if isinstance(file, int) else printable(file)
    try:
        with open(file, "rb", buffering=0, closefd=isinstance(file, str)) as opened:
            if _is_endless(opened.fileno()):
                raise InputError(f"{name} is a device, not a list", "give a file or a pipe")
            while chunk := os.read(opened.fileno(), READ_SIZE):
                yield chunk
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None


def _is_endless(descriptor: int) -> bool:
    """Whether it is a device such as /dev/zero: not a terminal, and not /dev/null."""
    found = os.fstat(descriptor)
    is_device = stat.S_ISCHR(found.st_mode) and not os.isatty(descriptor)
    return is_device and found.st_rdev != os.stat(os.devnull).st_rdev


def copy_stdin(copy: IO[bytes]) -> None:
    """A list that comes through a pipe can be read once: who reads it again, or in several
    processes, reads a copy. Raises InputError."""
    for chunk in _chunks(0):
        copy.write(chunk)
    copy.flush()


def open_sources(
    inputs: Sequence[str],
    *,
    files_from: str | None = None,
    null: bool = False,
    scan: Scan | None = None,
) -> list[Source]:
    """The source for each input, checked. `-` is a list on standard input, as for `files_from`.

    Raises InputError for a directory without images and for a pattern without matches.
    """
    scan = scan or Scan(suffixes("common"))
    sources: list[Source] = []
    for text in chain.from_iterable(map(expanded, inputs)):
        if text == "-":
            sources.append(ListSource(0, null, scan))
        elif is_remote(text):
            sources.append(RemoteSource(text, scan))
        elif os.path.isdir(text):
            sources.append(DirectorySource(text, scan))
        elif glob.has_magic(text) and not os.path.lexists(text):
            sources.append(GlobSource(text, scan))
        else:
            sources.append(FileSource(text, scan))
    if files_from is not None:
        sources.append(ListSource(0 if files_from == "-" else files_from, null, scan))
    for source in sources:
        source.check()
    return sources


def all_absent(sources: Sequence[Source]) -> list[str]:
    """The paths of the sources, where none of them is there; else nothing."""
    named = [source.path for source in sources if isinstance(source, FileSource)]
    if len(named) < len(sources) or any(map(os.path.lexists, named)):
        return []
    return named


def iter_refs(sources: Sequence[Source], *, stamped: bool = False) -> Iterator[ImageRef]:
    """Number the images of all sources, in order; with `stamped`, those of stores have stamps."""
    found = (image for source in sources for image in _images(source, stamped=stamped))
    for index, (path, stamp, member) in enumerate(found):
        yield ImageRef(index, path, stamp, member)


def _images(source: Source, *, stamped: bool) -> Iterator[tuple[str, Stamp | None, Member | None]]:
    if isinstance(source, FoundSource):
        yield from ((path, None, member) for path, member in source.found)
        return
    for named in source:
        whole = source.stamp(named) if stamped and isinstance(source, RemoteSource) else None
        for path, member in source.scan.images(named):
            if whole is not None and member is not None:
                yield path, (member.size, whole[1]), member
            else:
                yield path, whole if path == named else None, member


def count(sources: Sequence[Source]) -> int | None:
    """How many refs there will be, or None where counting would use the list up."""
    total = 0
    for source in sources:
        if (found := source.count()) is None:
            return None
        total += found
    return total


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
