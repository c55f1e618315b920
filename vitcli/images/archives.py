"""List the images of tars and zips, each with its offset. Nothing is unpacked.

The main process reads headers only as far as images are needed, and each worker reads its image at
its offset. So an archive is read once from front to back, no image passes through the main process,
memory does not grow, and a run can resume in the middle of an archive. All workers read the same
archive, because rows are written in input order: if each worker read its own, as in WebDataset, all
rows but those of the first archive would have to wait. A compressed tar, or a tar in a store, is
read as a stream, and its refs carry the bytes of their images.

Members are named as in WebDataset: in `train-000.tar/a/b.jpg` the key is `a/b`, the name up to the
first dot. A name in an archive is never opened as a file, and links are not followed.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Any, BinaryIO

from vitcli.errors import in_bytes, printable
from vitcli.images.members import (
    CHANGED,
    ZIP_HEADER,
    StreamedMember,
    TarMember,
    UnreadableMember,
    ZipMember,
    version_of,
)
from vitcli.images.tar_headers import TarHeaders
from vitcli.records import ErrorType, FoundImage, Member, Version

ARCHIVES = frozenset((".tar", ".tgz", ".zip"))  # in a directory, a scan takes these
TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
NAMES = (*TARS, ".zip")
MAX_IMAGE_BYTES = 1 << 30  # of an image that is read into memory
BYTES_PER_PIXEL = 8  # at most: four channels of 16 bits, not compressed
METADATA_BYTES = 16 << 20  # at most, in addition to the pixels

_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# The errors of tarfile and zipfile for damaged files.
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


def max_file_bytes(max_pixels: int) -> int:
    """Return the size of the largest file that can be an image of `max_pixels`."""
    return min(MAX_IMAGE_BYTES, max_pixels * BYTES_PER_PIXEL + METADATA_BYTES)


def too_large(size: int, max_bytes: int) -> tuple[ErrorType, str]:
    """Return the reason to refuse an image of `size` bytes."""
    return ErrorType.TOO_LARGE, f"{in_bytes(size)}, limit {in_bytes(max_bytes)} (--max-pixels)"


def is_archive(path: str) -> bool:
    """Whether a file exists and has the name of an archive."""
    return path.lower().endswith(NAMES) and os.path.isfile(path)


def iter_members(
    archive: str, suffixes: Collection[str], max_bytes: int = MAX_IMAGE_BYTES
) -> Iterator[FoundImage]:
    """List the images of an archive in its order: members with these suffixes that are not hidden.

    An archive that cannot be read to its end gets a row of its own, after its images.
    """
    try:
        with open(archive, "rb") as file:
            version = version_of(os.fstat(file.fileno()))
            if archive.lower().endswith(".zip"):
                yield from iter_zip(archive, file, suffixes, version, max_bytes)
                return
            plain = decompressed(file)
            if plain is file:
                yield from iter_tar(archive, plain, suffixes, version[2], version)
                return
            for image in iter_tar(archive, plain, suffixes, None, version, max_bytes):
                if version_of(os.fstat(file.fileno())) != version:
                    yield broken(archive, ErrorType.UNREADABLE, CHANGED, version)
                    return
                yield image
    except OSError:  # a worker opens the archive, too, and reports the reason
        yield FoundImage(archive)


def decompressed(file: BinaryIO) -> BinaryIO:
    """Return the file, or a decompressing reader if its first bytes are those of a compression."""
    head = file.read(8)
    file.seek(0)
    for magic, opener in _DECOMPRESSORS.items():
        if head.startswith(magic):
            return opener(file)  # type: ignore[no-any-return]
    return file


def iter_tar(
    archive: str,
    file: BinaryIO,
    suffixes: Collection[str],
    size: int | None,
    version: Version | None = None,
    max_bytes: int = MAX_IMAGE_BYTES,
) -> Iterator[FoundImage]:
    """List the images of a tar of `size` bytes. `size` is None for a stream, whose images are read
    here, into their members."""
    end, last = 0, ""
    try:
        headers = TarHeaders(file, None if size is None else file.fileno())
    except _DAMAGE:
        if size is None:
            why = "damaged compressed tar: nothing can be read"
            yield broken(archive, ErrorType.DECODE_ERROR, why, version)
        else:
            yield FoundImage(archive)  # not a tar, despite its name
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
                if is_wanted and info.isreg() and info.size <= max_bytes:
                    file.seek(info.offset_data)
                    data = file.read(info.size)
                is_cut = data is not None and len(data) < info.size
                if data is not None and not is_cut:
                    file.read(headers.offset - file.tell())  # a stream must not seek backwards
            if is_wanted:
                fault = _fault(info, max_bytes if size is None else None, is_cut=is_cut)
                member = _tar_member(archive, key_of(last), info, data, version, fault)
                yield FoundImage(f"{archive}/{last}", member)
            if is_cut:
                break
        block = b"" if info else headers.last
        if block == bytes(tarfile.BLOCKSIZE):
            return
        why = "damaged" if len(block) == tarfile.BLOCKSIZE else "truncated"
    except _DAMAGE as error:
        why = "truncated" if _is_at_end(error, headers.offset, size) else "damaged"
    lost = f"everything after {printable(last)} is lost" if last else "nothing can be read"
    yield broken(archive, ErrorType.DECODE_ERROR, f"{why} tar: {lost}", version)


def _is_at_end(error: Exception, offset: int, size: int | None) -> bool:
    if size is None:
        return isinstance(error, EOFError) or "end of data" in str(error)
    return offset >= size


def _fault(
    info: tarfile.TarInfo, max_bytes: int | None, *, is_cut: bool
) -> tuple[ErrorType, str] | None:
    """Return why a member of a tar cannot be read; None if it can."""
    if info.issym() or info.islnk():
        return ErrorType.UNREADABLE, f"a link to {printable(info.linkname)}, which is not followed"
    if not info.isreg():
        return ErrorType.UNREADABLE, "not a regular file"
    if info.issparse():
        return ErrorType.UNREADABLE, "a sparse file, which is stored without its zeros"
    if max_bytes is not None and info.size > max_bytes:
        return too_large(info.size, max_bytes)
    return (ErrorType.DECODE_ERROR, "truncated: the tar ends within it") if is_cut else None


def _tar_member(
    archive: str,
    key: str,
    info: tarfile.TarInfo,
    data: bytes | None,
    version: Version | None,
    fault: tuple[ErrorType, str] | None,
) -> Member:
    if fault is not None:
        return UnreadableMember(archive, info.size, key, version, *fault)
    if data is not None:
        return StreamedMember(archive, info.size, key, version, data)
    return TarMember(archive, info.size, key, version, info.offset_data)


def key_of(name: str) -> str:
    """Return the name up to the first dot of its last part. A sample's files share it."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def iter_zip(
    archive: str,
    file: BinaryIO,
    suffixes: Collection[str],
    version: Version | None = None,
    max_bytes: int = MAX_IMAGE_BYTES,
) -> Iterator[FoundImage]:
    """List the images of a zip in the order of its directory."""
    is_zip = file.read(4) == ZIP_HEADER
    try:
        infos = zipfile.ZipFile(file).infolist()
    except _DAMAGE as error:
        if is_zip:
            why = f"damaged zip: {printable(str(error))}"
            yield broken(archive, ErrorType.DECODE_ERROR, why, version)
        else:
            yield FoundImage(archive)
        return
    for info in infos:
        is_utf8 = info.flag_bits & 0x800
        name = _name(info.orig_filename.encode("utf-8" if is_utf8 else "cp437"))
        if not name.endswith("/") and _is_wanted(name, suffixes):
            member = _zip_member(archive, info, version, max_bytes)
            yield FoundImage(f"{archive}/{name}", member)


def _zip_member(
    archive: str, info: zipfile.ZipInfo, version: Version | None, max_bytes: int
) -> Member:
    size, packed, method = info.file_size, info.compress_size, info.compress_type
    fault = None
    if stat.S_ISLNK(info.external_attr >> 16):
        fault = ErrorType.UNREADABLE, "a link, which is not followed"
    elif info.flag_bits & 1:
        fault = ErrorType.UNREADABLE, "encrypted"
    elif method not in _METHODS:
        fault = ErrorType.UNREADABLE, f"compressed by method {method}, not deflate"
    elif max(size, packed) > max_bytes:
        fault = too_large(max(size, packed), max_bytes)
    if fault is not None:
        return UnreadableMember(archive, size, "", version, *fault)
    return ZipMember(archive, size, "", version, info.header_offset, packed, method, info.CRC)


def broken(archive: str, type: ErrorType, why: str, version: Version | None = None) -> FoundImage:
    """Return the row of a whole archive that cannot be read."""
    return FoundImage(archive, UnreadableMember(archive, 0, "", version, type, why))


def _name(raw: bytes) -> str:
    return os.fsdecode(raw.partition(b"\0")[0])


def _is_wanted(name: str, suffixes: Collection[str]) -> bool:
    """Whether a member has one of the suffixes, and neither it nor a folder above it is hidden."""
    base = name[name.rfind("/") + 1 :]
    if base[base.rfind(".") :].lower() not in suffixes:
        return False
    return not any(p.startswith(".") and p not in (".", "..") for p in name.split("/"))
