"""System folders, in which systems and network drives keep thumbnails, snapshots, deleted files."""

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
    """Whether a name is that of a system folder, in upper or lower case."""
    return name.lower() in SYSTEM


def system_folder(path: str) -> str | None:
    """Return the path up to its first system folder, or None."""
    lowered = path.lower().split("/")
    if SYSTEM.isdisjoint(lowered):
        return None
    index = next(n for n, name in enumerate(lowered) if name in SYSTEM)
    return "/".join(path.split("/")[: index + 1])
