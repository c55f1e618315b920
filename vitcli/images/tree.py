"""Walk a directory tree in the order of full paths, in little memory."""

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
    """The part of a pattern between two slashes. The part `**` matches zero or more folders."""

    match: Callable[[bytes], object]
    repeats: bool
    may_be_missing: bool
    name: bytes | None = None  # the only name that the part matches; None with wildcards

    @classmethod
    def of(cls, text: str) -> _Part:
        visible = "" if text.startswith(".") else r"(?!\.)"
        match = re.compile(os.fsencode(visible + fnmatch.translate(text))).match
        name = None if glob.has_magic(text) else os.fsencode(text)
        return cls(match, text == "**", text in ("**", ""), name)  # "" follows a slash at the end


Places = frozenset[int]
"""Indices of the parts that the next name may match. len(parts) means that all parts have matched,
and every image below is taken."""


@dataclass(frozen=True, slots=True)
class _Level:
    """A folder on the current path, and the names in it that are still to visit."""

    prefix: bytes  # the path of the folder, with a slash at the end
    places: Places
    identity: tuple[int, int]
    names: Iterator[bytes]


def _in_order(names: Iterator[bytes]) -> Iterator[bytes]:
    """Return the names in order, and free the memory of each name once it is visited."""
    waiting = sorted(names, reverse=True)
    while waiting:
        yield waiting.pop()


def _folders_last(names: Iterator[bytes]) -> Iterator[bytes]:
    """Return files as they are listed, then folders; only the names of folders take memory."""
    folders = []
    for name in names:
        if name.endswith(b"/"):
            folders.append(name)
        else:
            yield name
    yield from folders


@dataclass(frozen=True, slots=True)
class Tree:
    """The files that `parts` match below `prefix`, and the images in the folders that they match.

    The names in each folder are sorted, with a `/` after the names of folders: this gives the order
    of full paths without sorting all paths. Only the names in the folders on the current path take
    memory, about 60 bytes each.
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
        """Split a pattern: `photos/*/a.jpg` is `*` and `a.jpg` below `photos/`."""
        texts = pattern.split("/")
        plain = next(i for i, text in enumerate(texts) if glob.has_magic(text))
        prefix = "".join(text + "/" for text in texts[:plain])
        return cls(os.fsencode(prefix), tuple(map(_Part.of, texts[plain:])), scan)

    def walk(self) -> Iterator[str]:
        """List the paths. A link to one of the folders that contain it is not followed."""
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
        """Return the level of a folder; [] if the folder cannot be read, is already one of `above`,
        or is marked as drawn by vit."""
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
        """List the names in a folder that may lead to a file, with a `/` after those of folders."""
        try:
            with os.scandir(prefix or b".") as entries:
                for entry in entries:
                    if _is_dir(entry):
                        if not self._below(places, entry.name):
                            continue
                        if is_system(os.fsdecode(entry.name)) and not self._spells_out(
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
        """Return the places for the names in the folder `name`, which is itself at `places`."""
        end = len(self.parts)
        below = {end} if end in places and not name.startswith(b".") else set()
        for place in places - {end}:
            part = self.parts[place]
            if part.match(name):
                below.add(place if part.repeats else place + 1)
        return below

    def _spells_out(self, places: Places, name: bytes) -> bool:
        """Whether the pattern spells out the name of a folder, without wildcards."""
        return any(self.parts[place].name == name for place in places if place < len(self.parts))

    def _takes(self, places: Places, prefix: bytes, entry: os.DirEntry[bytes]) -> bool:
        """Whether the last part of the pattern matches a file, or the file is an image in a folder
        that the pattern matches."""
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
    """Whether an entry is a regular file or a broken link (which gets a row), not a device."""
    try:
        return entry.is_file() or not os.path.exists(entry)
    except OSError:
        return True
