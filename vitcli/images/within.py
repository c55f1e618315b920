"""Check whether a path in a table stays within the folder of the table."""

from __future__ import annotations

import os
from functools import lru_cache

from vitcli.stores import is_remote


def is_within(path: str, folder: str) -> bool:
    """Whether `path` is below `folder` once links and `..` are resolved. A URL is below another
    URL if it begins with it, and never below a local folder."""
    if is_remote(folder):
        base = folder.rstrip("/") + "/"
        return path.startswith(base) and not _climbs(path.removeprefix(base))
    if is_remote(path) or "\0" in path:
        return False
    return _real(path).startswith(_real_folder(folder) + "/")


def _real(path: str) -> str:
    """Return os.path.realpath of a path; the links of each folder are resolved once."""
    folder, name = os.path.split(path)
    if name in ("", ".", "..") or os.path.islink(path):
        return os.path.realpath(path)
    return f"{_real_folder(folder)}/{name}"


def _real_folder(folder: str) -> str:
    return _followed(os.path.abspath(folder) if ".." not in folder else os.path.realpath(folder))


@lru_cache(maxsize=4096)
def _followed(folder: str) -> str:
    return os.path.realpath(folder).rstrip("/")


def _climbs(path: str) -> bool:
    return ".." in path.partition("?")[0].replace("%2e", ".").replace("%2E", ".").split("/")
