"""Files that take their names only when they are whole, and the errors of writing them."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, cast

from vitcli.errors import ClosedPipe, WriteError

PARTIAL = ".partial"


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file that has its name only when it is whole and on the disk. Raises WriteError."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open `<path>.partial`, and rename it to `path` when all is on the disk.

    The new file keeps the owner and mode of the one it replaces. After an error the partial file
    is removed, and the old one stays. A pipe or a device is written directly. Raises WriteError.
    """
    if is_special(path):
        with explained(path), path.open("wb") as file:
            yield file
        return
    target = real(path)
    partial = target.with_name(target.name + PARTIAL)
    with explained(partial):
        raw = cast(io.RawIOBase, create(partial, regular(target) or regular(partial)))
        with io.BufferedRandom(raw) as whole:
            try:
                yield whole
                whole.flush()
                os.fsync(whole.fileno())
                check_ours(whole.fileno(), partial)
            except BaseException:
                with suppress(OSError, WriteError):
                    check_ours(whole.fileno(), partial)
                    partial.unlink()
                raise
        take_name(partial, target)


def write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    """Write all of `data`: an unbuffered file may take only a part of it at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """Turn the system's errors in writing a file, or standard output, into WriteError."""
    try:
        yield
    except BrokenPipeError:
        raise ClosedPipe("the reader of the output has gone away") from None
    except OSError as error:
        if path is None:
            raise WriteError(f"write error on standard output: {error.strerror}") from None
        hint = "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        raise WriteError(f"cannot write to {path}: {error.strerror}", hint) from None


def create(path: Path, like: os.stat_result | None = None) -> IO[bytes]:
    """Create a file to write and read, with the owner and mode of `like`.

    A file of that name is removed first. A symbolic link is refused: it may point to anything, and
    vitcli makes none. Raises WriteError, OSError.
    """
    if path.is_symlink():
        raise _linked(path)
    path.unlink(missing_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666 if like is None else 0o600)
    file = os.fdopen(descriptor, "w+b", 0)
    if like is not None:
        keep_owner(file.fileno(), like)
    return file


def open_again(path: Path) -> IO[bytes]:
    """Open a file that an earlier run created. Raises WriteError for a link to another file."""
    if path.is_symlink():
        raise _linked(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    check_own(descriptor, path)
    return os.fdopen(descriptor, "r+b", 0)


def check_own(descriptor: int, path: Path) -> None:
    """Close an open file and raise WriteError if it is not regular, or has a second name."""
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return
    os.close(descriptor)
    what = "no regular file" if not stat.S_ISREG(found.st_mode) else "a file of another name, too"
    raise WriteError(f"{path} is {what}, and would be overwritten", "remove it")


def check_ours(descriptor: int, path: Path) -> None:
    """Raise WriteError if `path` is not the open file any more."""
    if not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
        raise WriteError(
            f"{path} is not the file any more that this run has written",
            "something else writes there: give another name",
        )


def refuse_link(path: Path) -> None:
    """Raise WriteError if `path` is a symbolic link."""
    if path.is_symlink():
        raise _linked(path)


def _linked(path: Path) -> WriteError:
    return WriteError(
        f"{path} is a symbolic link, and what it points to would be overwritten", "remove it"
    )


def keep_owner(descriptor: int, like: os.stat_result) -> None:
    """Give an open file the mode of `like`, and its owner and group where the system allows it."""
    ours = os.fstat(descriptor)
    if (ours.st_uid, ours.st_gid) != (like.st_uid, like.st_gid):
        with suppress(OSError):
            os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode) & 0o777)


def regular(path: Path) -> os.stat_result | None:
    """The status of a regular file; None for anything else."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read. Raises OSError for a pipe or a device too: it may never end."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return cast(BinaryIO, os.fdopen(file, "rb"))


def is_special(path: Path) -> bool:
    """Whether it is a pipe or a device: it can be written, but not replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def real(path: Path) -> Path:
    """The path without symbolic links: a link stays, and the file it points to is replaced."""
    return Path(os.path.realpath(path))


def take_name(partial: Path, real: Path) -> None:
    """Rename a whole file, and remove the partial file that it was made of."""
    partial.replace(real)
    real.with_name(real.name + PARTIAL).unlink(missing_ok=True)
    sync(real.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
