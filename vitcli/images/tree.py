"""The files of a directory tree, in the order of their whole paths, and holding little of it."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from vitcli.images.kinds import UNREAD
from vitcli.images.scan import DRAWN, Scan
from vitcli.images.system import is_system


@dataclass(frozen=True, slots=True)
class _Part:
    """What a pattern has between two slashes. `**` may stand for no name, and for many."""

    match: Callable[[bytes], object]
    repeats: bool
    may_be_missing: bool
    name: bytes | None = None  # of the one that it matches

    @classmethod
    def of(cls, text: str) -> _Part:
        visible = "" if text.startswith(".") else r"(?!\.)"
        match = re.compile(os.fsencode(visible + fnmatch.translate(text))).match
        name = None if glob.has_magic(text) else os.fsencode(text)
        return cls(match, text == "**", text in ("**", ""), name)  # "" stands behind a last slash


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
class Tree:
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
    def below(cls, folder: str, scan: Scan) -> Tree:
        return cls(os.fsencode(os.path.join(folder, "")), (), scan)

    @classmethod
    def matching(cls, pattern: str, scan: Scan) -> Tree:
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
            self.scan.omissions.note_drawn(os.fsdecode(prefix.rstrip(b"/")))
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
                        if not self._below(places, entry.name):
                            continue
                        if is_system(os.fsdecode(entry.name)) and not self._names_it(
                            places, entry.name
                        ):
                            self.scan.omissions.system.append(os.fsdecode(prefix + entry.name))
                        else:
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

    def _names_it(self, places: Places, name: bytes) -> bool:
        """Whether the pattern spells a folder's name."""
        return any(self.parts[place].name == name for place in places if place < len(self.parts))

    def _takes(self, places: Places, prefix: bytes, entry: os.DirEntry[bytes]) -> bool:
        """Whether a file is named by the last part, or is an image in a folder that is scanned."""
        name, end = entry.name, len(self.parts)
        if end and end - 1 in places and self.parts[-1].match(name):
            return True
        if end not in places or name.startswith(b"."):
            return False
        if (suffix := _suffix(name)) not in self.scan.suffixes:
            if suffix in UNREAD:
                self.scan.omissions.unread[suffix] += 1
            return False
        if _is_candidate(entry):
            return True
        self.scan.omissions.skipped.append(os.fsdecode(prefix + name))
        return False

    def _unlisted(self, prefix: bytes, error: OSError) -> None:
        folder = os.fsdecode(prefix.rstrip(b"/") or prefix or b".")
        self.scan.omissions.add_unlisted(folder, error.strerror or str(error))


def _suffix(name: bytes) -> str:
    return os.fsdecode(name[name.rfind(b".") :]).lower()


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
