"""The SHA-256 of weight files. Those of large files are kept in the cache, so that a file is hashed
again only after it has changed."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from vitcli.cache import HASHES, keep, kept
from vitcli.errors import CheckpointError, UsageError

LARGE = 16 << 20  # bytes; fewer are hashed in a hundredth of a second
SETTLED = 2.0  # seconds: a change that comes later has another time, on any file system
DIGEST = re.compile("[0-9a-f]{64}")

Stamp = tuple[int, ...]
"""The device, inode and size of a file, and the times in ns of the last changes of its bytes and of
its inode. A program can set the first time, but not the second."""


def sha256(files: Sequence[Path]) -> str:
    """The hash of the bytes of the files, in the order of their names."""
    return _known(_stamped(files))


def known_digest(name: str) -> str | None:
    """The hash that the cache has under a name; None if it has none, or a damaged one."""
    text = (kept(HASHES, name) or b"").decode("ascii", "replace")
    return text if DIGEST.fullmatch(text) else None


def check_sha256(files: Sequence[Path], expected: str) -> None:
    """Raise CheckpointError if the files have another hash, UsageError for a malformed one. The
    files are read, whatever the cache has."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise UsageError(f"--sha256 {expected} is not a SHA-256", "it has 64 hexadecimal digits")
    actual = _read([file for file, _ in _stamped(files)])
    if actual != expected.lower():
        shown = f"{files[0]}" + f" and {len(files) - 1} more" * (len(files) > 1)
        raise CheckpointError(
            f"{shown}: the sha256 is {actual}, expected {expected.lower()}", "it is another file"
        )


def _stamped(files: Sequence[Path]) -> tuple[tuple[Path, Stamp], ...]:
    ordered = sorted(files, key=lambda path: path.name)
    return tuple((path, _stamp(path)) for path in ordered)


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times


@lru_cache
def _known(stamped: tuple[tuple[Path, Stamp], ...]) -> str:
    """The hash from the cache, or else of the files."""
    files, stamps = [file for file, _ in stamped], [stamp for _, stamp in stamped]
    if sum(size for _, _, size, *_ in stamps) < LARGE:
        return _read(files)
    name = hashlib.sha256(f"files {stamps}".encode()).hexdigest()
    if (known := known_digest(name)) is not None:
        return known
    started = time.time()
    digest = _read(files)
    newest = max(time_ns for _, _, _, *times in stamps for time_ns in times)
    if newest < (started - SETTLED) * 1e9 and _stamped(files) == stamped:
        keep(HASHES, name, digest.encode())
    return digest


def _read(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
