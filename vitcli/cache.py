"""The folder for files that can be made again: its place, whether a file in it can be trusted, and
which files a process uses."""

from __future__ import annotations

import fcntl
import functools
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from vitcli.errors import OutputError

# The folders of the cache.
EXPORTS, TEXTS, FEATURES, OUTPUTS = "engines", "texts", "features", "outputs"
RATES, HASHES = "rates", "hashes"  # of small files
MAX_KEPT = 4096  # bytes of a small file


def cache_folder() -> Path:
    """Return the folder that VIT_CACHE names, or else `vitcli` in the user's cache. Raises
    OutputError for a user without a home folder."""
    if folder := os.environ.get("VIT_CACHE"):
        return Path(folder)
    return user_cache()


def user_cache() -> Path:
    """Return the folder `vitcli` in the user's own cache. Raises OutputError for a user without a
    home folder, as a number in a container may be."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "vitcli"
    try:
        return Path.home() / ".cache" / "vitcli"
    except RuntimeError:
        raise OutputError(
            "there is no folder for the cache: this user has no home folder",
            "VIT_CACHE names a folder for it, HF_HOME one for models of the hub",
        ) from None


def trusted_folders(name: str) -> Iterator[Path]:
    """The folders `name`, in order of preference: in the cache, then in this user's own cache.
    Folders that another user controls are left out; one may not exist yet."""
    caches = []
    for find in (cache_folder, user_cache):
        with suppress(OutputError):
            caches.append(find())
    for cache in dict.fromkeys(caches):
        folder = cache / name
        if not os.path.lexists(folder) or is_trusted(folder):
            yield folder


def is_trusted(path: Path) -> bool:
    """Whether a path is a regular file or folder, not a link, that only this user or root can have
    written. A folder that everyone may write to must be sticky, like /tmp."""
    try:
        status = path.lstat()
    except OSError:
        return False
    is_plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    is_open = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
    return is_plain and status.st_uid in (os.geteuid(), 0) and not is_open


def kept(room: str, name: str) -> bytes | None:
    """The content of a small file in a folder of the cache; None without such a file, or if another
    user can have written it."""
    for folder in trusted_folders(room):
        file = folder / name
        with suppress(OSError):
            if is_trusted(file) and file.stat().st_size <= MAX_KEPT:
                return file.read_bytes()
    return None


def keep(room: str, name: str, content: bytes) -> None:
    """Write a small file as a whole, in the first folder of the cache that can be written."""
    for folder in trusted_folders(room):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=folder, prefix=".", delete=False) as written:
                written.write(content)
            Path(written.name).replace(folder / name)
        except OSError:
            continue
        return


def hold(folder: Path) -> bool:
    """Keep `vit cache` from removing a folder until this process ends, and record that the folder
    is used. Return whether the folder is there."""
    try:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return False
        file = _locked(folder, status.st_dev, status.st_ino)
        mark_used(folder)
        return os.path.samestat(os.fstat(file), folder.lstat())
    except OSError:
        return False


@functools.cache  # a lock for each folder; the descriptor stays open, so that the lock lasts
def _locked(folder: Path, device: int, inode: int) -> int:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


def mark_used(path: Path) -> None:
    """Record that a file or folder is used now, as its time of modification."""
    with suppress(OSError):  # of another user
        os.utime(path)
