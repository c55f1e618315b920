"""Whether a path that a table names stays within the folder of that table."""

from __future__ import annotations

import os

from vitcli.stores import is_remote


def is_within(path: str, folder: str) -> bool:
    """Whether `path` lies below `folder`, links and `..` followed. A URL lies below another one
    that its whole beginning spells, and never below a local folder."""
    if is_remote(folder):
        base = folder.rstrip("/") + "/"
        return path.startswith(base) and not _climbs(path.removeprefix(base))
    if is_remote(path) or "\0" in path:
        return False
    base = os.path.join(os.path.realpath(folder), "")
    return os.path.realpath(path).startswith(base)


def _climbs(path: str) -> bool:
    return ".." in path.partition("?")[0].replace("%2e", ".").replace("%2E", ".").split("/")
