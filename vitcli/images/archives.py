"""Tars and zips as they are: where each image in them lies, and its bytes. Nothing is unpacked.

The headers are read only as far as images are wanted, a few ahead of the workers, and each worker
reads its image at its place in the file. So a shard is read once from front to back, no image
passes through the main process, memory does not grow, and a run is taken up in the middle of a
shard as it is between two files. All workers are in one shard at a time: a shard for each, as
WebDataset deals them out, would hold back the rows of all but the first. Only of a compressed tar,
or one in a store, is there no more than a stream: its images travel with their refs.

A member is named as WebDataset names it: `train-000.tar/a/b.jpg`, its key `a/b` is the name up to
the first dot. What is in an archive names no file here: links are not followed, whatever they are.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Any, BinaryIO, Protocol, TypeAlias

from vitcli.errors import in_bytes, printable
from vitcli.images.tar_headers import TarHeaders
from vitcli.records import ErrorType, Member, Version

ARCHIVES = frozenset((".tar", ".tgz", ".zip"))  # that are taken from directories
NAMES = (*ARCHIVES, ".tar.gz", ".tar.bz2", ".tar.xz")
IN_ONE_PIECE = 16 << 20  # bytes; what is larger is read as it is wanted
MOST_UNPACKED = 1 << 30  # bytes of one image that is held in memory
BYTES_A_PIXEL = 8  # of the largest file of an image: four colours of 16 bits, not compressed,
SLACK = 16 << 20  # and what else is in it

CHANGED = "the archive has changed since it was listed"

Found: TypeAlias = tuple[str, Member | None]
"""The path that a row has, and where its image is; None where it is the file itself."""

_DECOMPRESSED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_LOCAL = b"PK\x03\x04"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What tarfile and zipfile raise for files that were not made by them.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,
    ValueError,
    OverflowError,
    RecursionError,
    struct.error,
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
)


def largest_file(max_pixels: int) -> int:
    """The bytes of a file beyond which it can be no image of so many pixels; they are held in
    memory where a file cannot be read in pieces."""
    return min(MOST_UNPACKED, max_pixels * BYTES_A_PIXEL + SLACK)


def too_large(size: int, largest: int) -> tuple[ErrorType, str]:
    return ErrorType.TOO_LARGE, f"{in_bytes(size)}, limit {in_bytes(largest)} (--max-pixels)"


def is_archive(path: str) -> bool:
    """Whether a file is to be opened as one, by its name."""
    return path.lower().endswith(NAMES) and os.path.isfile(path)


def iter_members(
    archive: str, suffixes: Collection[str], largest: int = MOST_UNPACKED
) -> Iterator[Found]:
    """The images of an archive, told by their suffixes, in its order. Hidden names are left out.

    An archive that cannot be read, or not to its end, has a row of its own, the last one.
    """
    try:
        with open(archive, "rb") as file:
            version = version_of(os.fstat(file.fileno()))
            if archive.lower().endswith(".zip"):
                yield from iter_zip(archive, file, suffixes, version, largest)
                return
            plain = decompressed(file)
            if plain is file:
                yield from iter_tar(archive, plain, suffixes, version[2], version)
                return
            for found in iter_tar(archive, plain, suffixes, None, version, largest):
                if version_of(os.fstat(file.fileno())) != version:
                    yield broken(archive, ErrorType.UNREADABLE, CHANGED, version)
                    return
                yield found
    except OSError:  # whoever opens it for its row says why
        yield archive, None


def version_of(found: os.stat_result) -> Version:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Pieces(Protocol):
    """What gives any bytes of an archive."""

    def pread(self, size: int, offset: int, /) -> bytes: ...


class Archive:
    """An archive by its descriptor, which is open until nobody holds it any more."""

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


def opened(archive: Pieces, member: Member) -> BinaryIO:
    """An image of an open archive. Raises ValueError for damage in a zip."""
    if member.packed is None and member.size <= IN_ONE_PIECE:
        return io.BytesIO(archive.pread(member.size, member.start))
    if member.packed is None:
        return io.BufferedReader(_Part(archive, member.start, member.size), 1 << 16)
    length, method, crc = member.packed
    head = archive.pread(30, member.start)
    if len(head) < 30 or not head.startswith(_LOCAL):
        raise ValueError("damaged zip: no image where its directory says")
    name, extra = struct.unpack("<HH", head[26:])
    data = archive.pread(length, member.start + 30 + name + extra)
    if method == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
    if len(data) != member.size or zlib.crc32(data) != crc:
        raise ValueError("damaged zip: the image is not what its CRC-32 says")
    return io.BytesIO(data)


class _Part(io.RawIOBase):
    """`size` bytes of an open file from `start`, as a file."""

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


def decompressed(file: BinaryIO) -> BinaryIO:
    """What a compressed file holds, told by its first bytes; others as they are."""
    head = file.read(8)
    file.seek(0)
    for magic, opener in _DECOMPRESSED.items():
        if head.startswith(magic):
            return opener(file)  # type: ignore[no-any-return]
    return file


def iter_tar(
    archive: str,
    file: BinaryIO,
    suffixes: Collection[str],
    size: int | None,
    version: Version | None = None,
    largest: int = MOST_UNPACKED,
) -> Iterator[Found]:
    """The images of a tar of that many bytes. Where it can only be read from front to back, `size`
    is None, and the images are read here and travel with their refs."""
    end, last = 0, ""
    try:
        headers = TarHeaders(file, None if size is None else file.fileno())
    except _DAMAGE:
        is_compressed = size is None
        why = "damaged compressed tar: nothing can be read"
        # else it is no tar, whatever its name is
        what = broken(archive, ErrorType.DECODE_ERROR, why, version)
        yield what if is_compressed else (archive, None)
        return
    try:
        while info := headers.next():
            if info.size < 0 or info.offset_data <= end:
                raise tarfile.ReadError("a size below 0")
            end, last = info.offset_data, _name(info.name.encode("utf-8", "surrogateescape"))
            is_wanted = not info.isdir() and _is_wanted(last, suffixes)
            data = None
            if size is not None:
                is_cut = info.isreg() and info.offset_data + info.size > size
            else:
                if is_wanted and info.isreg() and info.size <= largest:
                    file.seek(info.offset_data)
                    data = file.read(info.size)
                is_cut = data is not None and len(data) < info.size
                if data is not None and not is_cut:
                    file.read(headers.offset - file.tell())  # so that nothing is sought backwards
            if is_wanted:
                yield (
                    f"{archive}/{last}",
                    _tar_member(
                        *(archive, last, info, data, version),
                        is_cut=is_cut,
                        largest=largest if size is None else None,
                    ),
                )
            if is_cut:
                break
        block = b"" if info else headers.last
        if block == bytes(tarfile.BLOCKSIZE):
            return
        why = "damaged" if len(block) == tarfile.BLOCKSIZE else "truncated"
    except _DAMAGE as error:
        why = "truncated" if _is_at_end(error, headers.offset, size) else "damaged"
    where = f"behind {printable(last)}" if last else "at its beginning"
    yield broken(
        archive, ErrorType.DECODE_ERROR, f"{why} tar: what follows {where} is lost", version
    )


def _is_at_end(error: Exception, offset: int, size: int | None) -> bool:
    if size is None:
        return isinstance(error, EOFError) or "end of data" in str(error)
    return offset >= size


def _tar_member(
    archive: str,
    name: str,
    info: tarfile.TarInfo,
    data: bytes | None,
    version: Version | None,
    *,
    is_cut: bool,
    largest: int | None,
) -> Member:
    fault = None
    if info.issym() or info.islnk():
        target = printable(info.linkname)
        fault = ErrorType.UNREADABLE, f"a link to {target}, which is not followed"
    elif not info.isreg():
        fault = ErrorType.UNREADABLE, "not a regular file"
    elif info.issparse():
        fault = ErrorType.UNREADABLE, "a sparse file, which is not as it was packed"
    elif largest is not None and info.size > largest:
        fault = too_large(info.size, largest)
    elif is_cut:
        fault = ErrorType.DECODE_ERROR, "truncated: the tar ends within it"
    key = key_of(name)
    return Member(archive, info.offset_data, info.size, key, None, data, fault, version)


def key_of(name: str) -> str:
    """What the files of one sample have in common: the name up to the first dot."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def iter_zip(
    archive: str,
    file: BinaryIO,
    suffixes: Collection[str],
    version: Version | None = None,
    largest: int = MOST_UNPACKED,
) -> Iterator[Found]:
    """The images of a zip, as its directory lists them."""
    is_zip = file.read(4) == _LOCAL
    try:
        infos = zipfile.ZipFile(file).infolist()
    except _DAMAGE as error:
        why = f"damaged zip: {printable(str(error))}"
        yield broken(archive, ErrorType.DECODE_ERROR, why, version) if is_zip else (archive, None)
        return
    for info in infos:
        is_utf8 = info.flag_bits & 0x800
        name = _name(info.orig_filename.encode("utf-8" if is_utf8 else "cp437"))
        if name.endswith("/") or not _is_wanted(name, suffixes):
            continue
        fault = None
        if stat.S_ISLNK(info.external_attr >> 16):
            fault = ErrorType.UNREADABLE, "a link, which is not followed"
        elif info.flag_bits & 1:
            fault = ErrorType.UNREADABLE, "encrypted"
        elif info.compress_type not in _METHODS:
            fault = ErrorType.UNREADABLE, f"compressed by method {info.compress_type}, not deflate"
        elif max(info.file_size, info.compress_size) > largest:
            fault = too_large(max(info.file_size, info.compress_size), largest)
        packed = info.compress_size, info.compress_type, info.CRC
        yield (
            f"{archive}/{name}",
            Member(archive, info.header_offset, info.file_size, "", packed, None, fault, version),
        )


def broken(archive: str, type: ErrorType, why: str, version: Version | None = None) -> Found:
    """The row of an archive itself."""
    return archive, Member(archive, 0, 0, fault=(type, why), version=version)


def _name(raw: bytes) -> str:
    return os.fsdecode(raw.partition(b"\0")[0])


def _is_wanted(name: str, suffixes: Collection[str]) -> bool:
    """As a directory is scanned: by the suffix, and without what is hidden."""
    base = name[name.rfind("/") + 1 :]
    if base[base.rfind(".") :].lower() not in suffixes:
        return False
    return not any(p.startswith(".") and p not in (".", "..") for p in name.split("/"))
