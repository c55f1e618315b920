"""Folders that systems and network drives keep for themselves, which hold no photographs of
anybody: thumbnails, snapshots, what was deleted."""

from __future__ import annotations

SYSTEM = frozenset(
    (
        "@eadir",  # Synology
        "@sharebin",
        "@tmp",
        "#recycle",
        "#snapshot",
        "@__thumb",  # QNAP
        "@recycle",
        "@recently-snapshot",
        "@transcode",
        "~snapshot",  # NetApp
        "__macosx",  # macOS
        "network trash folder",
        "temporary items",
        "$recycle.bin",  # Windows
        "recycler",
        "system volume information",
        "lost+found",
        "ipynb_checkpoints",
        "__pycache__",
    )
)


def is_system(name: str) -> bool:
    """Whether a folder of this name is one, in any case. Hidden names are others' business."""
    return name.lower() in SYSTEM


def system_folder(path: str) -> str | None:
    """The first such folder on a path, with the path up to it."""
    lowered = path.lower().split("/")
    if SYSTEM.isdisjoint(lowered):
        return None
    place = next(n for n, name in enumerate(lowered) if name in SYSTEM)
    return "/".join(path.split("/")[: place + 1])
