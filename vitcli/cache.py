"""The folder for files that can be made again, and whether its content can be trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def cache_folder() -> Path:
    """The folder of VIT_CACHE, else `vitcli` in the user's cache."""
    if own := os.environ.get("VIT_CACHE"):
        return Path(own)
    return user_cache()


def user_cache() -> Path:
    """The folder `vitcli` in the user's own cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitcli"


def is_trusted(path: Path) -> bool:
    """Whether only this user or root can have written a regular file or folder (links are not
    trusted). A folder that everyone may write to must be sticky, like /tmp."""
    try:
        found = path.lstat()
    except OSError:
        return False
    is_plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    is_open = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
    return is_plain and found.st_uid in (os.geteuid(), 0) and not is_open
