"""List what the cache holds, with the size of each entry and the time of its last use.

No link is followed, and only names that vitcli gives are listed: VIT_CACHE may be a folder that
holds other things, too.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vitcli.cache import (
    EXPORTS,
    FEATURES,
    HASHES,
    OUTPUTS,
    RATES,
    TEXTS,
    cache_folder,
    user_cache,
)
from vitcli.checkpoints.text.store import FILE as VECTORS
from vitcli.errors import OutputError

Kind = Literal["exports", "texts", "features", "rates", "hashes", "outputs"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Outcome = Literal["kept", "removed", "would be removed", "in use", "failed"]
MAX_ABOUT = 1 << 20  # bytes of an export's description


@dataclass(frozen=True, slots=True)
class Room:
    """A folder of the cache, what it is for, and the names of its entries."""

    folder: str
    use: str
    names: str


ROOMS: dict[Kind, Room] = {
    "exports": Room(
        EXPORTS, "models for --engine", r"[0-9a-f]{32}(-\d+)?|\.partial-\d+-[0-9a-z-]+"
    ),
    "texts": Room(TEXTS, "vectors of classes in words", re.escape(VECTORS)),
    "features": Room(
        FEATURES, "what vit finetune --train head reads", r"[0-9a-f]{32}\.npz(\.\d+\.partial)?"
    ),
    "rates": Room(RATES, "how fast this CPU is", r"[0-9a-f]{16}-[a-z0-9]+\.json|\.[a-z0-9_]{8}"),
    "hashes": Room(HASHES, "hashes of weight files", r"[0-9a-f]{64}|\.[a-z0-9_]{8}"),
    "outputs": Room(
        OUTPUTS, "outputs for a store, not sent yet", r".*-[0-9a-f]{8}|shards-[0-9a-z_]+"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that the cache holds, and what became of it. `used` is in seconds since 1970."""

    kind: Kind
    name: str
    path: Path
    bytes: int
    files: int
    used: float
    about: str = ""
    outcome: Outcome = "kept"
    why: str = ""


def entries(kinds: Sequence[Kind] = KINDS) -> Iterator[Entry]:
    """List the entries of the cache, by kind, the largest first."""
    for kind in kinds:
        room = room_of(kind)
        if is_folder(room):
            ours = (path for path in room.iterdir() if re.fullmatch(ROOMS[kind].names, path.name))
            found = [entry for path in ours if (entry := _entry(kind, path)) is not None]
            yield from sorted(found, key=lambda entry: (-entry.bytes, entry.name))


def room_of(kind: Kind) -> Path:
    """The folder of a kind, which need not exist."""
    return cache_folder() / ROOMS[kind].folder


def remarks() -> Iterator[str]:
    """Yield notes on what the list of entries does not show."""
    for kind in KINDS:
        room = room_of(kind)
        if room.is_symlink():
            yield f"{room} is a link, which is not followed"
    with suppress(OutputError):
        yield from _elsewhere(user_cache())


def _elsewhere(others: Path) -> Iterator[str]:
    if cache_folder() != others and any((others / ROOMS[kind].folder).is_dir() for kind in KINDS):
        yield f"{others} holds more, of runs without this VIT_CACHE or that could not write to it"


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _entry(kind: Kind, path: Path) -> Entry | None:
    """Measure one entry; None if it is gone."""
    try:
        status = path.lstat()
    except OSError:
        return None
    size, files, used = measure(path)
    # A folder is used when a file in it is written, or when its own time is set.
    used = max(used, status.st_mtime)
    return Entry(
        kind=kind,
        name=path.name,
        path=path,
        bytes=size,
        files=files,
        used=min(used, time.time()),
        about=_about(kind, path),
    )


def measure(path: Path) -> tuple[int, int, float]:
    """Return the bytes and the number of files in a file or folder, and when the newest file was
    written."""
    if not is_folder(path):
        status = path.lstat()
        return (status.st_size, 1, status.st_mtime)
    size = files = 0
    used = 0.0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                status = Path(folder, name).lstat()
            except OSError:
                continue
            size, files, used = size + status.st_size, files + 1, max(used, status.st_mtime)
    return size, files, used


def _about(kind: Kind, path: Path) -> str:
    """Describe an entry in a few words."""
    if path.is_symlink():
        return "a link"
    if ".partial" in path.name:
        return "unfinished"
    match kind:
        case "exports":
            return _export(path)
        case "texts":
            return _texts(path)
        case "outputs" if path.name.startswith("shards-"):
            return "shards that are being merged"
        case "outputs":
            is_partial = any(".partial" in file.name for file in path.glob("*"))
            return "unfinished" if is_partial else "complete, not sent"
        case _:
            return ""


def _export(folder: Path) -> str:
    """The engine of an export, and the model."""
    about = folder / "about.json"
    try:
        if not stat.S_ISREG(about.lstat().st_mode) or about.stat().st_size > MAX_ABOUT:
            return ""
        said = json.loads(about.read_bytes())
        words = [said["engine"], said["quantize"].strip("'"), said.get("model", "None")]
        return ", ".join(word for word in words if word != "None")
    except (OSError, ValueError, RecursionError, TypeError, LookupError, AttributeError):
        return ""


def _texts(file: Path) -> str:
    try:
        uri = f"{file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=1)) as base:
            [count] = base.execute("SELECT COUNT(*) FROM vectors").fetchone()
    except sqlite3.Error:
        return ""
    return f"{count:,} vectors"
