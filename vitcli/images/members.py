"""The kinds of archive members, and how each opens its image."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from vitcli.images.kinds import ImageError
from vitcli.records import ErrorType, Member, Pieces, Version

MAX_BYTES_AT_ONCE = 16 << 20  # a larger image in a tar is read piece by piece
CHANGED = "the archive has changed since it was listed"
ZIP_HEADER = b"PK\x03\x04"
_HEADER_BYTES = 30
_NAME_BYTES = 1 << 10  # nearly always enough for the file name and extra field of a zip's member


@dataclass(frozen=True, slots=True)
class TarMember(Member):
    """A file in a plain tar: `size` bytes from `start`."""

    start: int

    def open(self, archive: Callable[[], Pieces]) -> BinaryIO:
        if self.size <= MAX_BYTES_AT_ONCE:
            return io.BytesIO(archive().pread(self.size, self.start))
        return io.BufferedReader(_Part(archive(), self.start, self.size), 1 << 16)


@dataclass(frozen=True, slots=True)
class ZipMember(Member):
    """A file in a zip: its header begins at `start`, its compressed data have `packed` bytes."""

    start: int
    packed: int
    method: int
    crc: int

    def open(self, archive: Callable[[], Pieces]) -> BinaryIO:
        """Return the image, unpacked. Raises ValueError if the zip is damaged."""
        data = self._data(archive())
        if self.method == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise ValueError("damaged zip: the image is not what its CRC-32 says")
        return io.BytesIO(data)

    def _data(self, archive: Pieces) -> bytes:
        """Read the header and the data in one request, for archives in a store."""
        block = archive.pread(_HEADER_BYTES + _NAME_BYTES + self.packed, self.start)
        if len(block) < _HEADER_BYTES or not block.startswith(ZIP_HEADER):
            raise ValueError("damaged zip: no image where its directory says")
        names = sum(struct.unpack_from("<HH", block, 26))
        if names > _NAME_BYTES:
            return archive.pread(self.packed, self.start + _HEADER_BYTES + names)
        return block[_HEADER_BYTES + names :][: self.packed]


@dataclass(frozen=True, slots=True)
class StreamedMember(Member):
    """An image in a stream or a table. These are read only once, so it carries its bytes."""

    data: bytes = field(repr=False)

    @property
    def held(self) -> int:
        return len(self.data)

    def released(self) -> StreamedMember:
        return replace(self, data=b"")

    def open(self, archive: Callable[[], Pieces]) -> BinaryIO:
        return io.BytesIO(self.data)


@dataclass(frozen=True, slots=True)
class UnreadableMember(Member):
    """A member that cannot be read, or a whole damaged archive, with the reason."""

    type: ErrorType
    why: str

    def open(self, archive: Callable[[], Pieces]) -> BinaryIO:
        raise ImageError(self.type, self.why)


def unreadable(member: Member, type: ErrorType, why: str) -> UnreadableMember:
    """Return the member with a reason instead of its image."""
    return UnreadableMember(member.archive, member.size, member.key, member.version, type, why)


def version_of(status: os.stat_result) -> Version:
    """Return the version of a file with this status."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Archive:
    """A local archive, closed when the last reference to this object is gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def at(cls, path: str) -> Archive:
        return cls(os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))

    def pread(self, size: int, offset: int, /) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def version(self) -> Version:
        return version_of(os.fstat(self._descriptor))


class _Part(io.RawIOBase):
    """`size` bytes of an archive from `start`, as a file."""

    def __init__(self, archive: Pieces, start: int, size: int) -> None:
        self._archive, self._start, self._size = archive, start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        data = self._archive.pread(wanted, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
