"""Read the headers of a tar in order: those of plain files by a pattern, others by tarfile.

tarfile's parsing of a header costs the main process more than all else it does for an image. Nearly
all headers are of files with ASCII names and octal numbers, perhaps after a pax header with a time
in fractions of a second. One pattern matches such headers. tarfile parses all others: other kinds,
other ways to write numbers, damage.
"""

from __future__ import annotations

import os
import re
import tarfile
import zlib
from typing import BinaryIO

MAX_HEADER_BYTES = 1 << 20  # of GNU's long names and of pax

_BLOCK = tarfile.BLOCKSIZE
_EIGHT = rb"(?:[0-7]{7}[\0 ]|[0-7]{6}(?: \0|\0 )|\0{8})"
_TWELVE = rb"[0-7]{11}[\0 ]"
# name; mode, owner, group; (size); time; (checksum); (kind); link, magic, names; device; prefix
_HEADER = re.compile(
    rb".{100}%b{3}(%b)%b(%b)([0\0x]).{172}%b{2}" % (_EIGHT, _TWELVE, _TWELVE, _EIGHT, _EIGHT),
    re.DOTALL,
)
_TIME = re.compile(rb"([0-9]{1,3}) (?:mtime|atime|ctime)=-?[0-9]+(?:\.[0-9]+)?\n")


class TarHeaders:
    """The headers of a tar from the current offset of its file. Raises the errors of tarfile.

    `descriptor` is None for a stream, which cannot seek. `offset` is where the next header is
    expected, `last` the last bytes that tarfile has read.
    """

    def __init__(self, file: BinaryIO, descriptor: int | None) -> None:
        self._file = _Headers(file)
        self._descriptor = descriptor
        self._has_begun = False
        self._tar = tarfile.TarFile(
            fileobj=self._file,  # type: ignore[arg-type]
            encoding="utf-8",
            errors="surrogateescape",
        )

    @property
    def offset(self) -> int:
        return self._tar.offset

    @property
    def last(self) -> bytes:
        return self._file.last

    def next(self) -> tarfile.TarInfo | None:
        """Return the next header, or None at the end and where there is no header."""
        tar = self._tar
        if self._has_begun and self._descriptor is not None and not tar.pax_headers:
            blocks = os.pread(self._descriptor, 3 * _BLOCK, tar.offset)
            if (info := _by_pattern(blocks, tar.offset)) is not None:
                tar.offset = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
                return info
        self._has_begun = True  # tarfile has read the first one, to open the file
        info = tar.next()
        tar.members.clear()  # type: ignore[attr-defined]  # it keeps all of them
        return info


class _Headers:
    """The file from which tarfile reads headers, with a limit on their size in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._file.read(size)
        return self.last


def _by_pattern(blocks: bytes, offset: int) -> tarfile.TarInfo | None:
    """Parse the header of a plain file in three blocks at `offset`; return None for another."""
    block = blocks[:_BLOCK]
    if (header := _plain(block)) is None:
        return None
    kind, size = header
    if kind == b"x":
        times, offset = blocks[_BLOCK : 2 * _BLOCK], offset + 2 * _BLOCK
        block = blocks[2 * _BLOCK :]
        if not _is_times_alone(times, size) or (header := _plain(block)) is None:
            return None
        kind, size = header
    name, prefix = (field.partition(b"\0")[0].decode() for field in (block[:100], block[345:500]))
    if kind == b"x" or (kind == b"\0" and name.endswith("/")):
        return None
    info = tarfile.TarInfo(f"{prefix}/{name}" if prefix else name)
    info.size, info.offset_data = size, offset + _BLOCK
    return info


def _plain(block: bytes) -> tuple[bytes, int] | None:
    """Return the kind and the size in a header that the pattern matches, or else None."""
    match = _HEADER.match(block)
    if match is None or len(block) != _BLOCK or not block.isascii():
        return None
    size, checksum, kind = match.groups()
    # The lower half of Adler-32 is 1 and the sum of the bytes, which is below 512 * 128.
    total = (zlib.adler32(block) & 0xFFFF) - 1 - sum(checksum) + 8 * ord(" ")
    if total != int(checksum.strip(b"\0 ") or b"0", 8):
        return None
    return kind, int(size[:-1], 8)


def _is_times_alone(block: bytes, size: int) -> bool:
    """Whether a pax header holds only times."""
    at = 0
    while (record := _TIME.match(block, at)) and len(record[0]) == int(record[1]):
        at = record.end()
    return at == size and len(block) == _BLOCK and not block[at:].strip(b"\0")
