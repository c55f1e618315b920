"""Read pairs of images that are known to be twins."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from vitcli.errors import InputError, printable

MAX_BYTES = 64 << 20
JSON_NAMES = (("path", "of"), ("a", "b"), ("first", "second"), ("left", "right"))


def read_pairs(file: Path) -> list[tuple[str, str]]:
    """Read a pair a line: two paths with a tab or a comma between them (CSV, with quotes where a
    path has a comma), a JSON array of two, or a row of `vit dedupe`, whose `path` and `of` are a
    pair. Odd bytes of paths are kept. Raises InputError, which names the line."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{printable(str(file))} is too large for a list of pairs")
        text = file.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"cannot read {printable(str(file))}: {error.strerror}") from None
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or (number == 1 and line.replace("\t", ",").strip() in _HEADS):
            continue
        pair = _of_json(line) if line.lstrip()[:1] in ("{", "[") else _of_text(line)
        if pair is None:
            raise InputError(
                f"{printable(str(file))}, line {number}: not two paths: {printable(line[:80])}",
                'give "a.jpg<TAB>b.jpg", a CSV line of two paths, or JSON: ["a.jpg", "b.jpg"]',
            )
        if pair[0] != pair[1]:  # in a row of `vit dedupe`, the one that is kept
            pairs.append(pair)
    if not pairs:
        raise InputError(f"no pairs in {printable(str(file))}", "give two paths a line")
    return pairs


_HEADS = {",".join(names) for names in (*JSON_NAMES, ("path", "other"), ("path1", "path2"))}


def _of_text(line: str) -> tuple[str, str] | None:
    separator = "\t" if "\t" in line else ","
    try:
        paths = [part for part in next(csv.reader([line], delimiter=separator)) if part]
    except (csv.Error, StopIteration):
        return None
    return (paths[0], paths[1]) if len(paths) == 2 else None


def _of_json(line: str) -> tuple[str, str] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        names = next((two for two in JSON_NAMES if all(name in value for name in two)), None)
        value = [value[name] for name in names] if names else None
    if not isinstance(value, list) or len(value) != 2:
        return None
    first, second = value
    return (first, second) if isinstance(first, str) and isinstance(second, str) else None
