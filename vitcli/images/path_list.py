"""Read lists of paths from files or standard input: a path a line, or separated by NUL."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import IO

from vitcli.errors import InputError, printable

READ_BYTES = 1 << 16
MAX_ENTRY_BYTES = 1 << 20  # paths and URLs are shorter


def iter_paths(file: str | int, *, null: bool) -> Iterator[str]:
    """Read the paths in a file, or from a descriptor.

    Raises InputError if it cannot be read, or is not a list.
    """
    separator = b"\0" if null else b"\n"
    rest = b""
    for chunk in _chunks(file):
        *entries, rest = (rest + chunk).split(separator)
        for entry in entries:
            if entry := _trimmed(entry, null=null):
                yield os.fsdecode(entry)
        if len(rest) > MAX_ENTRY_BYTES:
            raise InputError(
                f"{list_name(file)} holds an entry of more than {MAX_ENTRY_BYTES:,} bytes",
                "expected a path a line" + (", or --null (-0)" if not null else ""),
            )
    if last := _trimmed(rest, null=null):
        yield os.fsdecode(last)


def copy_stdin(copy: IO[bytes]) -> None:
    """Copy the list on standard input, which can be read only once. Raises InputError."""
    for chunk in _chunks(0):
        copy.write(chunk)
    copy.flush()


def _trimmed(entry: bytes, *, null: bool) -> bytes:
    return entry if null else entry.removesuffix(b"\r")


def list_name(file: str | int) -> str:
    """The name of a list of paths in messages."""
    return "standard input" if isinstance(file, int) else printable(file)


def _chunks(file: str | int) -> Iterator[bytes]:
    try:
        with open(file, "rb", buffering=0, closefd=isinstance(file, str)) as opened:
            if _is_endless(opened.fileno()):
                raise InputError(
                    f"{list_name(file)} is a device, not a list", "give a file or a pipe"
                )
            while chunk := os.read(opened.fileno(), READ_BYTES):
                yield chunk
    except OSError as error:
        raise InputError(f"cannot read {list_name(file)}: {error.strerror}") from None


def _is_endless(descriptor: int) -> bool:
    """Whether a descriptor is a device such as /dev/zero, but not a terminal or /dev/null."""
    status = os.fstat(descriptor)
    is_device = stat.S_ISCHR(status.st_mode) and not os.isatty(descriptor)
    return is_device and status.st_rdev != os.stat(os.devnull).st_rdev
