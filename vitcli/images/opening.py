"""Open image refs as files: a local file, an object in a store, or a member of an archive."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import BinaryIO

from vitcli import stores
from vitcli.errors import in_bytes
from vitcli.images.kinds import ImageError
from vitcli.images.members import CHANGED, Archive, version_of
from vitcli.records import ErrorType, ImageRef, Member, Pieces, Version
from vitcli.stores import is_remote


@contextmanager
def open_ref(ref: ImageRef, max_bytes: int) -> Iterator[BinaryIO]:
    """Open an image, wherever it is; an object in a store is read whole, up to `max_bytes`.

    Raises ImageError with the reason if the image cannot be opened.
    """
    if ref.member is not None:
        with ref.member.open(partial(_archive, ref.member)) as file:
            yield file
        return
    with _reasons(ref.path):
        opened = _file(ref.path, max_bytes)
    with opened as file:
        yield file


def _file(path: str, max_bytes: int) -> BinaryIO:
    if is_remote(path):
        data = stores.read_at_most(path, max_bytes)
        if len(data) > max_bytes:
            limit = f"limit {in_bytes(max_bytes)} (--max-pixels)"
            raise ImageError(ErrorType.TOO_LARGE, f"a larger object, {limit}")
        return io.BytesIO(data)
    _stat(path)
    return open(_descriptor(path), "rb")


def _archive(member: Member) -> Pieces:
    """Open the archive of a member. A local archive stays open until another is needed."""
    path = member.archive
    if is_remote(path):
        return _Object(path)
    with _reasons(path):
        version = version_of(_stat(path))
        if member.version not in (None, version):
            raise ImageError(ErrorType.UNREADABLE, CHANGED)
        return _local_archive(path, version)


@dataclass(frozen=True, slots=True)
class _Object:
    """An archive in a store, read by ranges."""

    url: str

    def pread(self, size: int, offset: int, /) -> bytes:
        with _reasons(self.url):
            return stores.read(self.url, offset, offset + size)


@lru_cache(maxsize=1)
def _local_archive(path: str, version: Version) -> Archive:
    archive = Archive(_descriptor(path))
    if archive.version() != version:
        raise ImageError(ErrorType.UNREADABLE, CHANGED)
    return archive


def _stat(path: str) -> os.stat_result:
    """Return the status of a regular file; refuse others, which may block forever."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(ErrorType.UNREADABLE, "not a regular file")
    return status


def _descriptor(path: str) -> int:
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags | getattr(os, "O_BINARY", 0))


@contextmanager
def _reasons(path: str) -> Iterator[None]:
    """Turn OSErrors and ValueErrors into ImageErrors that give the reason."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        message = str(error) if is_remote(path) else "no such file"
        raise ImageError(ErrorType.NOT_FOUND, message) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(ErrorType.UNREADABLE, reason) from None
