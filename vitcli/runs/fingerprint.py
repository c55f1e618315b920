"""The fingerprint of a run: runs with equal fingerprints make equal rows from the same image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from vitcli.checkpoints.hashes import sha256
from vitcli.checkpoints.resolve import JSONS

ROWS = 1  # the version of the rows: their form, and the computation of their numbers
MAX_SHOWN = 8  # values of a list in a message


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything that a row depends on besides its image: JSON values by the names that users know.

    `values` omits options that have their default value; `defaults` records the defaults. An option
    that a later version adds is in neither, and counts as having its default.
    """

    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def difference(self, now: Fingerprint) -> str | None:
        """Describe the first value that differs in the fingerprint `now`; None if none does."""
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
    """The fingerprint of a run. `defaults` has the default values of some of its options."""
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
    """Options as JSON values, by their names on the command line. A file counts by its content."""
    plain = {f"--{name.replace('_', '-')}": _plain(value) for name, value in options.items()}
    return json.loads(json.dumps(plain))  # type: ignore[no-any-return]


def _plain(value: object) -> object:
    """A value for JSON. Fields that do not count in comparisons do not count here either."""
    if isinstance(value, Path):
        return hashlib.sha256(value.read_bytes()).hexdigest() if value.is_file() else str(value)
    if is_dataclass(value) and not isinstance(value, type):
        nested = asdict(value)
        return {f.name: nested[f.name] for f in fields(value) if f.compare}
    return value


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Split nested values into their fields, such as `--style.alpha`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _short(value: object) -> str:
    """Describe a value of a fingerprint in a few words."""
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

    `known` are the descriptions of an earlier run. Files that are unchanged since are not read.
    """
    hashes = {json.dumps(model["files"]): model["sha256"] for model in known}
    described = []
    for files in models:
        stats = [(file.resolve(), file.stat()) for file in files]
        stamps = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        digest = hashes.get(json.dumps(stamps)) or sha256(files)
        configs = [files[0].with_name(name) for name in JSONS]
        config = sha256([path for path in configs if path.is_file()])
        described.append({"files": stamps, "sha256": digest, "config": config})
    return described
