"""Read pairs of images that are known to be twins."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from vitcli.errors import InputError, printable
from vitcli.sinks.read_table import read_columns

MAX_BYTES = 64 << 20
NAMES = (
    *(("path", "of"), ("a", "b"), ("first", "second"), ("left", "right")),
    *(("path", "other"), ("path1", "path2")),
)
Pair: TypeAlias = tuple[str, str]


def read_pairs(file: Path) -> list[Pair]:
    """Read pairs of paths: an output of `vit dedupe`, whose `path` and `of` are a pair; a table
    (.parquet, CSV, tab-separated) with a header as in NAMES; two paths a line with a tab or a comma
    between them; or JSON lines, each an array of two or an object. Odd bytes of paths are kept.
    Raises InputError, which names the line."""
    name = printable(str(file))
    pairs = []
    for line, pair in _numbered(file, name):
        if pair is None:
            raise InputError(
                f"{name}, line {line}: not two paths",
                'give "a.jpg<TAB>b.jpg", a CSV line of two paths, JSON: ["a.jpg", "b.jpg"], or an '
                "output of vit dedupe",
            )
        if pair[0] != pair[1]:  # in a row of `vit dedupe`, the one that is kept
            pairs.append(pair)
    if not pairs:
        raise InputError(f"no pairs in {name}", "give two paths a line")
    return pairs


def _numbered(file: Path, name: str) -> Iterator[tuple[int, Pair | None]]:
    """The pairs with their lines, None for what is not a pair."""
    if file.suffix.lower() == ".parquet":
        columns = {f"{one}{end}" for pair in NAMES for one in pair for end in ("", "_bytes")}
        for line, record in enumerate(read_columns(file, columns), 1):
            yield line, _of_record(record)
        return
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{name} is too large for a list of pairs")
        text = file.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    if text.lstrip()[:1] in ("{", "["):
        for line, one in enumerate(text.split("\n"), 1):  # a path may hold other line breaks
            if one.strip():
                yield line, _of_json(one)
    else:
        yield from _of_cells(text, name)


def _of_cells(text: str, name: str) -> Iterator[tuple[int, Pair | None]]:
    separator = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    places: tuple[int, int] | None = None
    try:
        for number, cells in enumerate(reader):
            if number == 0 and (two := _named(cells)) is not None:
                places = cells.index(two[0]), cells.index(two[1])
            elif any(cells):
                yield reader.line_num, _of_row(cells, places)
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: {error}") from None


def _of_row(cells: Sequence[str], places: tuple[int, int] | None) -> Pair | None:
    if places is None:
        cells = [cell for cell in cells if cell]
        return (cells[0], cells[1]) if len(cells) == 2 else None
    if len(cells) <= max(places) or not all(cells[place] for place in places):
        return None
    return cells[places[0]], cells[places[1]]


def _of_json(line: str) -> Pair | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        return _of_record(value)
    if not isinstance(value, list) or len(value) != 2:
        return None
    first, second = value
    return (first, second) if isinstance(first, str) and isinstance(second, str) else None


def _of_record(record: Mapping[str, object]) -> Pair | None:
    names = _named(record)
    if names is None:
        return None
    first, second = (_path(record, name) for name in names)
    return None if first is None or second is None else (first, second)


def _named(fields: Sequence[str] | Mapping[str, object]) -> Pair | None:
    """The names of the two paths among fields; None if they are not there."""
    return next((two for two in NAMES if all(name in fields for name in two)), None)


def _path(record: Mapping[str, object], name: str) -> str | None:
    """A path of a record, byte for byte."""
    raw, path = record.get(f"{name}_bytes"), record[name]
    if isinstance(raw, str):
        try:
            raw = base64.b64decode(raw, validate=True)
        except ValueError:
            return None
    if isinstance(raw, bytes):
        return os.fsdecode(raw)
    return path if isinstance(path, str) else None
