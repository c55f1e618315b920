"""JSON Schemas of everything that vit writes as JSON: a file for each kind of record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitcli.errors import UsageError

SCHEMA = 1
"""The version of the schemas, which meta files and summaries carry. It changes if a field is
removed or changes its meaning, not if one is added."""

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of all schemas, such as `classify`."""
    return sorted(file.name.removesuffix(".json") for file in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """A schema, by its name. Raises UsageError for an unknown name."""
    if name not in names():
        raise UsageError(f"there is no schema {name}", f"schemas: {', '.join(names())}")
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))  # type: ignore[no-any-return]
