"""Write files that get their names only when they are complete."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import IO, BinaryIO, cast

from vitcli.errors import ClosedPipe, WriteError, listed, printable

PARTIAL = ".partial"


def at_home(path: str) -> Path:
    """Replace ~ at the beginning of a path, as a shell does. ~name stays if there is no such user,
    and ~ for a user without a home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser raises


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file that gets its name only when it is complete and on the disk. Raises
    WriteError."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open `<path>.partial`, and rename it to `path` once it is complete and on the disk.

    The new file keeps the owner and mode of the one it replaces. After an error the partial file
    is removed, and the old file stays. A pipe or a device is written directly. Raises WriteError.
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
    """Turn the OSErrors of writing a file, or standard output if `path` is None, into WriteErrors,
    and a broken pipe into ClosedPipe."""
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

    An existing file is removed first. A symbolic link is refused: vitcli makes none, so it may
    point anywhere. Raises WriteError, OSError.
    """
    refuse_link(path)
    path.unlink(missing_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666 if like is None else 0o600)
    file = os.fdopen(descriptor, "w+b", 0)
    if like is not None:
        keep_owner(file.fileno(), like)
    return file


def open_again(path: Path) -> IO[bytes]:
    """Open a file that an earlier run created. Raises WriteError for a symbolic or hard link."""
    refuse_link(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    check_own(descriptor, path)
    return os.fdopen(descriptor, "r+b", 0)


def check_own(descriptor: int, path: Path) -> None:
    """Close an open file and raise WriteError if it is not regular, or has a second hard link."""
    status = os.fstat(descriptor)
    is_regular = stat.S_ISREG(status.st_mode)
    if is_regular and status.st_nlink <= 1:
        return
    os.close(descriptor)
    why = "has another name, too (a hard link)" if is_regular else "is not a regular file"
    raise WriteError(f"{path} {why}, and would be overwritten", "remove it")


def check_ours(descriptor: int, path: Path) -> None:
    """Raise WriteError if `path` is no longer the open file."""
    if not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
        raise WriteError(
            f"{path} is no longer the file that this run has written",
            "another program writes there: give another name",
        )


def refuse_link(path: Path) -> None:
    """Raise WriteError if `path` is a symbolic link."""
    if path.is_symlink():
        raise WriteError(
            f"{path} is a symbolic link, and what it points to would be overwritten", "remove it"
        )


def keep_owner(descriptor: int, like: os.stat_result) -> None:
    """Give an open file the mode of `like`, and its owner and group where the system allows it."""
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (like.st_uid, like.st_gid):
        with suppress(OSError):
            os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode) & 0o777)


def regular(path: Path) -> os.stat_result | None:
    """Return the status of a regular file; None for anything else."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read. Raises OSError also for a pipe or a device, which may never end."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return cast(BinaryIO, os.fdopen(file, "rb"))


def is_special(path: Path) -> bool:
    """Whether a path is a pipe or a device, which can be written but not replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def real(path: Path) -> Path:
    """Resolve symbolic links, so that the target of a link is replaced, not the link."""
    return Path(os.path.realpath(path))


def take_name(partial: Path, real: Path) -> None:
    """Rename a complete file to `real`, and remove a `<real>.partial` of an earlier run."""
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


def instead_of(missing: str | Path) -> str:
    """The hint for a file that does not exist: the name that is spelled most like it, or what its
    folder holds."""
    text, path = str(missing), Path(missing)
    if "\\" in text or re.match(r"[A-Za-z]:", text):
        return (
            "this looks like a path of Windows: write / for \\, and quote it; WSL has /mnt/c for C:"
        )
    try:
        names = sorted(name for name in os.listdir(path.parent) if name[0] != ".")  # noqa: PTH208
    except OSError:
        return f"there is no folder {printable(str(path.parent))}: is it spelled right?"
    if near := get_close_matches(path.name, names, 1, 0.6):
        return f"did you mean {printable(str(path.with_name(near[0])))}?"
    folder = "this folder" if str(path.parent) == "." else printable(str(path.parent))
    return f"{folder} {holding(names)}: is the name right?"


def holding(names: Sequence[str]) -> str:
    """Say what a folder with these names holds."""
    return f"holds {printable(listed(names, 3))}" if names else "is empty"
