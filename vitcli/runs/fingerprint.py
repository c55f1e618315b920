"""What a run is: two runs of one fingerprint make the same row of the same image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitcli.checkpoints.resolve import JSONS, sha256

ROWS = 1  # the version of what a row looks like and how its numbers are made


def describe_weights(
    models: Sequence[Sequence[Path]], known: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The files of each model, their sha256 together, and that of the JSON beside them.

    Files that are as they were when an earlier run described them, `known`, are not read again.
    """
    hashes = {json.dumps(model["files"]): model["sha256"] for model in known}
    described = []
    for files in models:
        stats = [(file.resolve(), file.stat()) for file in files]
        stamps = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        found = hashes.get(json.dumps(stamps)) or sha256(files)
        beside = [files[0].with_name(name) for name in JSONS]
        config = sha256([path for path in beside if path.is_file()])
        described.append({"files": stamps, "sha256": found, "config": config})
    return described


def fingerprint(
    command: str, weights: Sequence[Mapping[str, Any]], options: Mapping[str, object]
) -> dict[str, Any]:
    """Everything that a row depends on, besides its image, by the names that users know."""
    described = {
        "command": command,
        "model": [model["sha256"] for model in weights],
        "config": [model["config"] for model in weights],
        **{f"--{name.replace('_', '-')}": _plain(value) for name, value in options.items()},
        "rows of version": ROWS,
    }
    return json.loads(json.dumps(described))  # type: ignore[no-any-return]


def _plain(value: object) -> object:
    """A file counts by its content."""
    if isinstance(value, Path):
        return hashlib.sha256(value.read_bytes()).hexdigest() if value.is_file() else str(value)
    return value
