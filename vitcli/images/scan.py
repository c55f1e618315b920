"""Which files count as images, and the images within them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from vitcli.errors import printable
from vitcli.images.archives import MOST_UNPACKED, Found, is_archive, iter_members
from vitcli.images.remote import has_many, iter_members_at
from vitcli.images.system import system_folder
from vitcli.images.tables import count_rows, is_table, iter_rows
from vitcli.stores import is_remote

# A folder with a file of this name holds pictures that `vit` has drawn: no scan enters it.
DRAWN = ".drawn-by-vit"


def _ignore(text: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Which files of a directory count, and whom to tell what is not listed: a folder that
    cannot be read; what has the name of an image but is a pipe, a socket or a device; and a folder
    below the one that was named that holds pictures of ours (DRAWN), or is the system's. Which
    members of an archive count; where none do, archives are files like others. `largest` are the
    bytes of an image that is held in memory, `allow_outside` whether tables may name any file.
    `passed` hears of the suffix of an image that is of no format that is read."""

    suffixes: frozenset[str]
    unlisted: Callable[[str], None] = _ignore
    skipped: Callable[[str], None] = _ignore
    left_out: Callable[[str], None] = _ignore
    members: frozenset[str] = frozenset()
    system: Callable[[str], None] = _ignore
    largest: int = MOST_UNPACKED
    allow_outside: bool = False
    passed: Callable[[str], None] = _ignore

    @property
    def silent(self) -> Scan:
        return replace(
            self,
            unlisted=_ignore,
            skipped=_ignore,
            left_out=_ignore,
            system=_ignore,
            passed=_ignore,
        )

    def images(self, path: str) -> Iterator[Found]:
        """The images in an archive, or the one that the file is."""
        if self.members and is_table(path):
            found = iter_rows(path, self.largest, allow_outside=self.allow_outside)
        elif self.members and is_remote(path) and has_many(path):
            members = iter_members_at(path, self.members, self.largest)
            found = self._without_system(path, members)
        elif self.members and is_archive(path):
            found = self._without_system(path, iter_members(path, self.members, self.largest))
        else:
            found = iter(((path, None),))
        for path_within, member in found:
            if member is not None and member.fault is not None and path_within == path:
                self.unlisted(f"cannot list {printable(path)}: {member.fault[1]}")
            yield path_within, member

    def _without_system(self, archive: str, found: Iterator[Found]) -> Iterator[Found]:
        told = ""
        for path, member in found:
            folder = system_folder(path[len(archive) :])
            if folder is None:
                yield path, member
            elif folder != told:
                told = folder
                self.system(archive + folder)

    def count(self, paths: Iterable[str]) -> int:
        """The images of all of them, in silence."""
        silent = self.silent
        return sum(
            count_rows(path)
            if self.members and is_table(path)
            else sum(1 for _ in silent.images(path))
            for path in paths
        )
