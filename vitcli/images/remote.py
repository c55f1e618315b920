"""Images in stores and on the web: listed once, archives among them read by ranges.

A worker reads an object in one piece, and of a zip the piece that its image is. A tar is read as a
stream, front to back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

from vitcli import stores
from vitcli.errors import InputError, printable
from vitcli.images.archives import MOST_UNPACKED, Found, broken, decompressed, iter_tar, iter_zip
from vitcli.images.system import system_folder
from vitcli.images.tables import TABLE
from vitcli.records import ErrorType, Member
from vitcli.stores import Listing, Stamp

TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
MANY = (*TARS, ".zip", TABLE)
# Bytes that the name and the extra field take in a zip before an image: nearly always, and at most.
BEFORE = (1 << 10, 2 << 16)


@cache
def listing(url: str, suffixes: frozenset[str]) -> Listing | None:
    """What `stores.listing` finds. Raises InputError where it cannot, or there are no images."""
    try:
        found = stores.listing(url, suffixes)
    except OSError as error:
        hint = "are the name and the credentials right?"
        raise InputError(f"cannot list {printable(url)}: {error}", hint) from None
    if found is not None and system_folder(url) is None:
        found = found.without(system_folder)
    if found is not None and not found.urls:
        looked = " ".join(sorted(suffixes))
        raise InputError(f"no images in {printable(url)}", f"looked there for {looked}")
    return found


@cache
def stamp(url: str) -> Stamp | None:
    """The stamp of an object that was named by itself, as of now; None where there is none."""
    try:
        return stores.stamp(url)
    except OSError:
        return None


def has_many(url: str) -> bool:
    """Whether it is a tar, a zip or a table of images, by its name."""
    return _name(url).endswith(MANY)


def iter_members_at(
    url: str, suffixes: Collection[str], largest: int = MOST_UNPACKED
) -> Iterator[Found]:
    """The images of a tar, which are read with it, or of a zip."""
    try:
        with stores.open_object(url) as file:
            if _name(url).endswith(TARS):
                yield from iter_tar(url, decompressed(file), suffixes, None, None, largest)
            else:
                yield from iter_zip(url, file, suffixes, None, largest)
    except Exception as error:  # a server without lengths or ranges: fsspec raises what it likes
        kind = ErrorType.NOT_FOUND if isinstance(error, FileNotFoundError) else ErrorType.UNREADABLE
        yield broken(url, kind, stores.words_of(error))


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of an object, those from `start`."""

    data: bytes
    start: int

    def pread(self, size: int, offset: int, /) -> bytes:
        at = offset - self.start
        return self.data[at : at + size]


def piece(url: str, member: Member) -> Piece:
    """The piece of a zip that holds a member. Raises as `stores.read` does."""
    assert member.packed is not None  # what is in a tar was read with it
    length = 30 + member.packed[0]
    for before in BEFORE:
        data = stores.read(url, member.start, member.start + length + before)
        names = int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
        if names <= before:
            break
    return Piece(data, member.start)


def _name(url: str) -> str:
    return url.partition("?")[0].lower()
