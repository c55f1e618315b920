"""Fingerprints of runs: two runs with the same one make the same row of an image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from vitcli.checkpoints.resolve import JSONS, sha256

ROWS = 1  # the version of what a row looks like and how its numbers are made
MAX_SHOWN = 8  # values of a list in a message


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything that a row depends on besides its image: JSON values by the names that users know.

    `values` leaves out the options that have their default value, and `defaults` records those
    values. An option that a later version adds is in neither: the earlier run had its default.
    """

    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def difference(self, now: Fingerprint) -> str | None:
        """Describe the first value that differs from that of the run `now`."""
        usual_then, usual_now = _flat(self.defaults), _flat(now.defaults)
        then = {**usual_now, **usual_then, **_flat(self.values)}
        today = {**usual_then, **usual_now, **_flat(now.values)}
        for name in dict.fromkeys((*_flat(now.values), *then, *today)):
            if then.get(name) != today.get(name):
                return f"{_short(name)} {_short(then.get(name))} (now {_short(today.get(name))})"
        return None


def fingerprint(
    command: str,
    weights: Sequence[Mapping[str, Any]],
    options: Mapping[str, object],
    defaults: Mapping[str, object],
) -> Fingerprint:
    """The fingerprint of a run with these options, of which some have defaults."""
    given, usual = _flat(_named(options)), _flat(_named(defaults))
    values = {
        "command": command,
        "model": [model["sha256"] for model in weights],
        "config": [model["config"] for model in weights],
        **{n: v for n, v in given.items() if n not in usual or v != usual[n]},
        "rows of version": ROWS,
    }
    return Fingerprint(values, usual)


def _named(options: Mapping[str, object]) -> dict[str, Any]:
    """Options as JSON has them, by the names of the command line; a file counts by its content."""
    plain = {f"--{name.replace('_', '-')}": _plain(value) for name, value in options.items()}
    return json.loads(json.dumps(plain))  # type: ignore[no-any-return]


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return hashlib.sha256(value.read_bytes()).hexdigest() if value.is_file() else str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Split nested values into their fields, such as `--style.alpha`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            found[name] = value
    return found


def _short(value: object) -> str:
    """Shorten a value of a journal to what a line can show."""
    if isinstance(value, list):
        few = value[:MAX_SHOWN]
        return ", ".join(map(_short, few)) + ", …" * (len(value) > len(few)) or "none"
    if value is None:
        return "none"
    text = str(value)
    return text[:12] + "…" if len(text) == 64 else text if len(text) <= 200 else text[:200] + "…"


def describe_weights(
    models: Sequence[Sequence[Path]], known: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Describe each model: its files, the sha256 of all of them, and that of their JSON configs.

    Files that have not changed since an earlier run described them, `known`, are not read again.
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
