"""Choose the images of a run: files in directories by suffix, and images in archives and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from vitcli.errors import printable
from vitcli.images.archives import (
    ARCHIVES,
    MAX_IMAGE_BYTES,
    is_archive,
    iter_members,
    max_file_bytes,
)
from vitcli.images.kinds import passed_over, suffixes
from vitcli.images.members import UnreadableMember
from vitcli.images.remote import has_many, iter_members_at
from vitcli.images.system import system_folder
from vitcli.images.tables import count_rows, is_table, iter_rows
from vitcli.records import FoundImage, Limits
from vitcli.stores import is_remote

# A file of this name marks a folder of images that `vit` has drawn. Scans skip the folder.
DRAWN = ".drawn-by-vit"


def _ignore(text: str) -> None: ...


@dataclass(slots=True)
class Omissions:
    """Files and folders that the scans of a run have left out.

    unlisted: messages about folders and archives that could not be listed.
    skipped: pipes, sockets and devices with the name of an image.
    system: folders of an operating system or a network drive.
    unread: counts of images in formats that are not read, by suffix.
    """

    note: Callable[[str], None] = _ignore
    unlisted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        self.unlisted.clear()
        self.skipped.clear()
        self.system.clear()
        self.unread.clear()

    def add_unlisted(self, place: str, why: str) -> None:
        self.unlisted.append(f"cannot list {printable(place)}: {why}")
        self.note(self.unlisted[-1])

    def note_drawn(self, folder: str) -> None:
        self.note(f"{printable(folder)} holds images that vit has drawn: left out")

    def note_system(self) -> None:
        """Report which system folders were left out."""
        if count := len(self.system):
            names = sorted({folder.rpartition("/")[2] for folder in self.system})
            self.note(
                f"{count:,} system folder{'s' * (count > 1)} left out: {', '.join(names)} "
                f"(the first is {printable(self.system[0])}; name it to take its images)"
            )

    def note_unread(self) -> None:
        """Report how many images are in formats that are not read."""
        if self.unread:
            self.note(passed_over(self.unread))


@dataclass(frozen=True, slots=True)
class Scan:
    """The suffixes of the files that a run takes: `suffixes` in directories, `members` in archives.

    Without `members`, archives and tables are not opened. `max_bytes` limits an image that is read
    into memory. With `allow_outside`, tables may name files anywhere.
    """

    suffixes: frozenset[str]
    omissions: Omissions = field(default_factory=Omissions, compare=False)
    members: frozenset[str] = frozenset()
    max_bytes: int = MAX_IMAGE_BYTES
    allow_outside: bool = False

    @property
    def silent(self) -> Scan:
        """Return the same scan, but one that does not report omissions."""
        return replace(self, omissions=Omissions())

    @property
    def with_archives(self) -> Scan:
        """Return the same scan, but one that also takes archives in directories."""
        return replace(self, suffixes=self.suffixes | ARCHIVES)

    def images(self, path: str) -> Iterator[FoundImage]:
        """List the images in an archive or a table, or the file itself."""
        if self.members and is_table(path):
            images = iter_rows(path, self.max_bytes, allow_outside=self.allow_outside)
        elif self.members and is_remote(path) and has_many(path):
            members = iter_members_at(path, self.members, self.max_bytes)
            images = self._without_system(path, members)
        elif self.members and is_archive(path):
            members = iter_members(path, self.members, self.max_bytes)
            images = self._without_system(path, members)
        else:
            images = iter((FoundImage(path),))
        for image in images:
            if image.path == path and isinstance(image.member, UnreadableMember):
                self.omissions.add_unlisted(path, image.member.why)
            yield image

    def _without_system(self, archive: str, images: Iterator[FoundImage]) -> Iterator[FoundImage]:
        noted = ""
        for image in images:
            folder = system_folder(image.path[len(archive) :])
            if folder is None:
                yield image
            elif folder != noted:
                noted = folder
                self.omissions.system.append(archive + folder)

    def count(self, paths: Iterable[str]) -> int:
        """Count the images of all paths, without reporting omissions."""
        silent = self.silent
        return sum(
            count_rows(path)
            if self.members and is_table(path)
            else sum(1 for _ in silent.images(path))
            for path in paths
        )


def choose_scan(
    formats: str = "common",
    extensions: Collection[str] = (),
    limits: Limits = Limits(),
    omissions: Omissions | None = None,
    *,
    allow_outside: bool = False,
) -> Scan:
    """Return the scan for these file extensions or, without any, for the formats."""
    of_formats = suffixes(formats)
    taken = frozenset("." + e.lower().removeprefix(".") for e in extensions) or of_formats
    return Scan(
        taken,
        omissions or Omissions(),
        taken - ARCHIVES or of_formats,
        max_file_bytes(limits.max_pixels),
        allow_outside,
    )
