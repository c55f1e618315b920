"""Find a label for each image of a map: in an output of `vit classify`, or its folder's name."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitcli.errors import InputError, printable
from vitcli.indexes.index import Index
from vitcli.jobs.job import Reporter
from vitcli.render.map_page import Labels
from vitcli.sinks.read_table import read_columns
from vitcli.stores import is_remote
from vitcli.training.table_file import TableFile

FOLDERS = "folders"
PREDICTIONS = "predictions"


@dataclass(frozen=True, slots=True)
class Coloring:
    """Labels come from a table, or with `file` None from the names of the images' folders.
    `column` is the column of the labels; by default `label`, or the best of the predictions."""

    file: Path | None = None
    column: str | None = None


def labels_of(index: Index, coloring: Coloring, reporter: Reporter) -> Labels:
    """Return the label of every row, and report how many have none.

    Raises InputError for a table without the column, or one that names none of the images.
    """
    if coloring.file is None:
        return _numbered((_folder(path) for path in index.iter_names()), "folder", index.count)
    found = dict(_pairs(coloring.file, coloring.column))
    keys = map(_key, index.iter_names())
    labels = _numbered((found.get(key) for key in keys), coloring.column or "label", index.count)
    absent = int((labels.codes < 0).sum())
    name = printable(str(coloring.file))
    if absent == index.count:
        raise InputError(
            f"{name} has a label for none of the {index.count:,} images of the index",
            "its paths must name the same files as those of the index, from this folder",
        )
    if absent:
        reporter.note(f"{absent:,} of {index.count:,} images have no label in {name}")
    return labels


def _numbered(values: Iterable[str | None], what: str, count: int) -> Labels:
    """Number the labels, the most frequent first; of equal ones, the first in the alphabet."""
    numbers: dict[str, int] = {}
    codes = np.full(count, -1, np.int64)
    for row, value in enumerate(values):
        if value is not None:
            codes[row] = numbers.setdefault(value, len(numbers))
    names = list(numbers)
    sizes = np.bincount(codes[codes >= 0], minlength=len(names))
    order = sorted(range(len(names)), key=lambda code: (-sizes[code], names[code]))
    places = np.empty(len(names) + 1, np.int64)
    places[order] = np.arange(len(names))
    places[-1] = -1  # for rows without a label
    return Labels(places[codes], tuple(names[code] for code in order), what)


def _folder(path: str) -> str | None:
    return os.path.basename(os.path.dirname(path)) or None


def _key(path: str) -> str:
    """A path in the one spelling that two files share: absolute, without `./` and `..`."""
    return path if is_remote(path) else os.path.abspath(path)


def _pairs(file: Path, column: str | None) -> Iterator[tuple[str, str]]:
    """Yield the key and the label of each row that has both; the first row of an image counts."""
    seen: set[str] = set()
    for path, label in _rows(file, column):
        key = _key(path)
        if label not in (None, "") and key not in seen:
            seen.add(key)
            yield key, str(label)


def _rows(file: Path, column: str | None) -> Iterator[tuple[str, object]]:
    suffix, name = file.suffix.lower(), printable(str(file))
    if suffix in (".jsonl", ".ndjson"):
        for line, record in TableFile(str(file)).records():
            path = record.get("path")
            if not isinstance(path, str):
                raise InputError(
                    f"{name}, line {line}: no path", "each line needs a path and a label"
                )
            if isinstance(raw := record.get("path_bytes"), str):
                path = os.fsdecode(base64.b64decode(raw))
            if column and "error" not in record and column not in record:
                raise InputError(
                    f"{name}, line {line}: no {column}", "--color-column names a field"
                )
            yield path, _label(record, column)
    elif suffix in (".csv", ".tsv"):
        separator = "\t" if suffix == ".tsv" else ","
        cells = TableFile(str(file)).rows(lambda _: separator)
        header = next(cells, (0, []))[1]
        places = [_place(header, wanted, name) for wanted in ("path", column or "label")]
        for _, row in cells:
            if len(row) > max(places):
                yield row[places[0]], row[places[1]]
    elif suffix == ".parquet":
        for record in read_columns(file, {"path", "path_bytes", column or "label", PREDICTIONS}):
            if column and column not in record:
                raise InputError(f"{name} has no column {column}", "--color-column names a column")
            raw = record.get("path_bytes")
            path = os.fsdecode(raw) if isinstance(raw, bytes) else record.get("path")
            if not isinstance(path, str):
                raise InputError(f"{name} has a row without a path", "it needs a column path")
            yield path, _label(record, column)
    else:
        raise InputError(f"--color {name}: no table", "give a .jsonl, .csv, .tsv or .parquet file")


def _label(record: dict[str, object], column: str | None) -> object:
    """The column, or else the label of the best prediction. A number is written as text."""
    value = record.get(column or "label")
    predictions = record.get(PREDICTIONS)
    if column is None and value is None and isinstance(predictions, list) and predictions:
        best = predictions[0]
        value = best.get("label") if isinstance(best, dict) else None
    return value


def _place(header: list[str], wanted: str, name: str) -> int:
    names = [cell.strip() for cell in header]
    if wanted not in names:
        raise InputError(
            f"{name} has no column {wanted}, but {', '.join(map(printable, names[:8]))}",
            "--color-column names another column of labels",
        )
    return names.index(wanted)
