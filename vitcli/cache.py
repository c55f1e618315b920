"""The folder for files that can be made again, and whether a file in it can be trusted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder that VIT_CACHE names, or else `vitcli` in the user's cache."""
    if folder := os.environ.get("VIT_CACHE"):
        return Path(folder)
    return user_cache()


def user_cache() -> Path:
    """Return the folder `vitcli` in the user's own cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitcli"


def trusted_folders(name: str) -> Iterator[Path]:
    """The folders `name`, in order of preference: in the cache, then in this user's own cache.
    Folders that another user controls are left out; one may not exist yet."""
    for cache in dict.fromkeys((cache_folder(), user_cache())):
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
