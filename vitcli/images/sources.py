"""What was typed into image refs: files, directories, globs, lists of paths, and the archives among
them; lazily, in order."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Protocol

from vitcli.errors import InputError, printable
from vitcli.images import remote
from vitcli.images.archives import Found, is_archive, iter_members
from vitcli.images.braces import expanded
from vitcli.images.decode import suffixes
from vitcli.images.remote import is_remote
from vitcli.images.tables import count_rows, is_table, iter_rows
from vitcli.records import ImageRef

READ_SIZE = 1 << 16

# A folder with a file of this name holds pictures that `vit` has drawn: no scan enters it.
DRAWN = ".drawn-by-vit"


class Source(Protocol):
    """Something that lists paths. The order is its own, and the same every time."""

    @property
    def scan(self) -> Scan: ...

    def __iter__(self) -> Iterator[str]: ...

    def check(self) -> None:
        """Raise InputError for what can be seen to be wrong before the run begins."""

    def count(self) -> int | None:
        """How many images there are, in silence; None where counting would use them up."""


def _ignore(text: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Which files of a directory count, and whom to tell what is not listed: a folder that
    cannot be read; what has the name of an image but is a pipe, a socket or a device; and a folder
    below the one that was named that holds pictures of ours (DRAWN). Which members of an archive
    count; where none do, archives are files like others."""

    suffixes: frozenset[str]
    unlisted: Callable[[str], None] = _ignore
    skipped: Callable[[str], None] = _ignore
    left_out: Callable[[str], None] = _ignore
    members: frozenset[str] = frozenset()

    @property
    def silent(self) -> Scan:
        return replace(self, unlisted=_ignore, skipped=_ignore, left_out=_ignore)

    def images(self, path: str) -> Iterator[Found]:
        """Those in an archive, or the one that the file is."""
        if self.members and is_remote(path) and remote.is_tar(path):
            found = remote.iter_tar_at(path, self.members)
        elif self.members and is_table(path):
            found = iter_rows(path)
        elif self.members and is_archive(path):
            found = iter_members(path, self.members)
        else:
            found = iter(((path, None),))
        for path_within, member in found:
            if member is not None and member.fault is not None and path_within == path:
                self.unlisted(f"cannot list {printable(path)}: {member.fault[1]}")
            yield path_within, member

    def count(self, paths: Iterable[str]) -> int:
        """The images of all of them, in silence."""
        silent = self.silent
        return sum(
            count_rows(path)
            if self.members and is_table(path)
            else sum(1 for _ in silent.images(path))
            for path in paths
        )


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
class RemoteSource:
    """An object in a store or on the web, which is always tried; all below a prefix; or those that
    a pattern matches. They are listed once."""

    url: str
    scan: Scan

    def __iter__(self) -> Iterator[str]:
        return iter(self._listing() or (self.url,))

    def check(self) -> None:
        """Raise InputError where a prefix cannot be listed, or has no images."""
        remote.check_installed(self.url)
        self._listing()

    def count(self) -> int | None:
        urls = self._listing() or [self.url]
        return None if any(map(remote.is_tar, urls)) else len(urls)

    def _listing(self) -> list[str] | None:
        return remote.listing(self.url, self.scan.suffixes - {".zip"})  # which are read in files


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """Every image below a directory, bytewise by the whole relative path."""

    path: str
    scan: Scan

    def __iter__(self) -> Iterator[str]:
        return _Tree.below(self.path, self.scan).walk()

    def check(self) -> None:
        unlisted: list[str] = []
        scan = replace(self.scan.silent, unlisted=unlisted.append)
        if _Tree.below(self.path, scan).is_empty():
            if unlisted:
                raise InputError(f"no images in {printable(self.path)}: {unlisted[0]}")
            looked = " ".join(sorted(self.scan.suffixes))
            raise InputError(
                f"no images in {printable(self.path)}{_others(self.path)}",
                f"looked below it for {looked}; --formats all or --ext widens the search",
            )

    def count(self) -> int:
        return _Tree.below(self.path, self.scan).count()


@dataclass(frozen=True, slots=True)
class GlobSource:
    """A quoted pattern. A file that it matches counts as named explicitly, whatever its suffix;
    a directory that it matches is scanned. `**` stands for any number of directories."""

    pattern: str
    scan: Scan

    def __iter__(self) -> Iterator[str]:
        return _Tree.matching(self.pattern, self.scan).walk()

    def check(self) -> None:
        if _Tree.matching(self.pattern, self.scan.silent).is_empty():
            raise InputError(f"no file matches {printable(self.pattern)}")

    def count(self) -> int:
        return _Tree.matching(self.pattern, self.scan).count()


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
                yield from _Tree.below(path, self.scan).walk()
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
        if any(remote.is_tar(url) for url in map(os.fsdecode, self._entries()) if is_remote(url)):
            return None
        paths = map(os.fsdecode, self._entries())
        return sum(
            _Tree.below(path, self.scan).count()
            if os.path.isdir(path)
            else self.scan.count((path,))
            for path in paths
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
        sources.append(ListSource(files_from, null, scan))
    for source in sources:
        source.check()
    return sources


def iter_refs(sources: Sequence[Source]) -> Iterator[ImageRef]:
    """Number the images of all sources, in order."""
    found = (image for source in sources for path in source for image in source.scan.images(path))
    for index, (path, member) in enumerate(found):
        yield ImageRef(index, path, member=member)


def count(sources: Sequence[Source]) -> int | None:
    """How many refs there will be, or None where counting would use the list up."""
    total = 0
    for source in sources:
        if (found := source.count()) is None:
            return None
        total += found
    return total


@dataclass(frozen=True, slots=True)
class _Part:
    """What a pattern has between two slashes. `**` may stand for no name, and for many."""

    match: Callable[[bytes], object]
    repeats: bool
    may_be_missing: bool

    @classmethod
    def of(cls, text: str) -> _Part:
        visible = "" if text.startswith(".") else r"(?!\.)"
        match = re.compile(os.fsencode(visible + fnmatch.translate(text))).match
        return cls(match, text == "**", text in ("**", ""))  # "" stands behind a last slash


Places = frozenset[int]  # of the parts that the next name may match; behind the last: scanned


@dataclass(frozen=True, slots=True)
class _Level:
    """A folder on the way down, and the names in it that are still to come."""

    prefix: bytes  # of its paths, up to and with the slash
    places: Places
    identity: tuple[int, int]
    names: Iterator[bytes]


def _in_order(names: Iterator[bytes]) -> Iterator[bytes]:
    """Sorted; each is given up when it has had its turn."""
    waiting = sorted(names, reverse=True)
    while waiting:
        yield waiting.pop()


def _folders_last(names: Iterator[bytes]) -> Iterator[bytes]:
    """As they come; no name is held but those of folders."""
    folders = []
    for name in names:
        if name.endswith(b"/"):
            folders.append(name)
        else:
            yield name
    yield from folders


@dataclass(frozen=True, slots=True)
class _Tree:
    """What `parts` match below `prefix`, and the images below each folder that they match.

    With `/` behind the names of folders, the sorted names of each folder give the order of the
    whole paths. So nothing is held but the names in the folders on the way down: as bytes, about
    60 of them for each name still to come.
    """

    prefix: bytes
    parts: tuple[_Part, ...]
    scan: Scan
    arrange: Callable[[Iterator[bytes]], Iterator[bytes]] = _in_order

    @classmethod
    def below(cls, folder: str, scan: Scan) -> _Tree:
        return cls(os.fsencode(os.path.join(folder, "")), (), scan)

    @classmethod
    def matching(cls, pattern: str, scan: Scan) -> _Tree:
        """`photos/*/a.jpg` is `*` and `a.jpg` below `photos/`."""
        texts = pattern.split("/")
        plain = next(i for i, text in enumerate(texts) if glob.has_magic(text))
        prefix = "".join(text + "/" for text in texts[:plain])
        return cls(os.fsencode(prefix), tuple(map(_Part.of, texts[plain:])), scan)

    def walk(self) -> Iterator[str]:
        """The paths. A folder that is on its own path already is not entered again."""
        levels = self._entered(self.prefix, {0})
        while levels:
            level = levels[-1]
            name = next(level.names, None)
            if name is None:
                levels.pop()
            elif name.endswith(b"/"):
                places = self._below(level.places, name[:-1])
                levels += self._entered(level.prefix + name, places, levels)
            else:
                yield os.fsdecode(level.prefix + name)

    def is_empty(self) -> bool:
        return next(replace(self, arrange=_folders_last).walk(), None) is None

    def count(self) -> int:
        unsorted = replace(self, arrange=_folders_last, scan=self.scan.silent)
        return self.scan.count(unsorted.walk())

    def _entered(
        self, prefix: bytes, places: Collection[int], above: Collection[_Level] = ()
    ) -> list[_Level]:
        """The level of a folder, or none where it cannot be read or is one of those above."""
        try:
            here = os.stat(prefix or b".")
        except OSError as error:
            self._unlisted(prefix, error)
            return []
        identity = (here.st_dev, here.st_ino)
        if any(level.identity == identity for level in above):
            return []
        if above and os.path.lexists(prefix + os.fsencode(DRAWN)):
            self.scan.left_out(os.fsdecode(prefix.rstrip(b"/")))
            return []
        ahead = set(places)
        for place, part in enumerate(self.parts):
            if place in ahead and part.may_be_missing:
                ahead.add(place + 1)
        names = self.arrange(self._names(prefix, frozenset(ahead)))
        return [_Level(prefix, frozenset(ahead), identity, names)]

    def _names(self, prefix: bytes, places: Places) -> Iterator[bytes]:
        """What is wanted of one folder, as the system lists it; `/` behind folders."""
        try:
            with os.scandir(prefix or b".") as entries:
                for entry in entries:
                    if _is_dir(entry):
                        if self._below(places, entry.name):
                            yield entry.name + b"/"
                    elif self._takes(places, prefix, entry):
                        yield entry.name
        except OSError as error:
            self._unlisted(prefix, error)

    def _below(self, places: Places, name: bytes) -> set[int]:
        """Where the pattern stands in a folder of this name."""
        end = len(self.parts)
        below = {end} if end in places and not name.startswith(b".") else set()
        for place in places - {end}:
            part = self.parts[place]
            if part.match(name):
                below.add(place if part.repeats else place + 1)
        return below

    def _takes(self, places: Places, prefix: bytes, entry: os.DirEntry[bytes]) -> bool:
        """Whether a file is named by the last part, or is an image in a folder that is scanned."""
        name, end = entry.name, len(self.parts)
        if end and end - 1 in places and self.parts[-1].match(name):
            return True
        if end not in places or name.startswith(b".") or not self._has_suffix(name):
            return False
        if _is_candidate(entry):
            return True
        self.scan.skipped(os.fsdecode(prefix + name))
        return False

    def _has_suffix(self, name: bytes) -> bool:
        return os.fsdecode(name[name.rfind(b".") :]).lower() in self.scan.suffixes

    def _unlisted(self, prefix: bytes, error: OSError) -> None:
        folder = printable(os.fsdecode(prefix.rstrip(b"/") or prefix or b"."))
        self.scan.unlisted(f"cannot list {folder}: {error.strerror}")


def _is_dir(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_candidate(entry: os.DirEntry[bytes]) -> bool:
    """A regular file, or a link to nowhere, which deserves a row. Never a FIFO or a device."""
    try:
        return entry.is_file() or not os.path.exists(entry)
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
