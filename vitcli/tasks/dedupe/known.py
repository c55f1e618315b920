"""Read pairs of images that are known to be twins: from a list, or from an output of dedupe."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitcli.errors import InputError, printable
from vitcli.sinks.read_table import read_columns

MAX_BYTES = 64 << 20
NAMES = (
    *(("path", "of"), ("a", "b"), ("first", "second"), ("left", "right")),
    *(("path", "other"), ("path1", "path2")),
)
"""The columns of a pair: the first two are those of `vit dedupe`."""
RAW = "_bytes"  # ends the name of a column with the bytes of a path that is not UTF-8
HINT = (
    'give "a.jpg<TAB>b.jpg", a CSV line of two paths, JSON: ["a.jpg", "b.jpg"], or rows of dedupe'
)
MAX_SHOWN = 80  # characters of a line in a message


class Known(NamedTuple):
    """Two paths of images that are twins, and where the pair is written."""

    first: str
    second: str
    place: str = ""


def read_pairs(file: Path) -> list[Known]:
    """Read the pairs of a file: two paths a line with a tab or a comma between them (CSV, with
    quotes where a path has a comma), JSON arrays of two, or what `vit dedupe` writes as .jsonl,
    .csv, .tsv or .parquet, where `path` and `of` are a pair. Odd bytes of paths are kept.

    Raises InputError, which names the line.
    """
    name = printable(str(file))
    rows = _in_parquet(file) if file.suffix.lower() == ".parquet" else _in_lines(file)
    # In a row of `vit dedupe` for the image that is kept, both paths are its own.
    pairs = [pair for pair in rows if pair.first != pair.second]
    if not pairs:
        raise InputError(f"no pairs in {name}", "give two different paths a line")
    return pairs


def numbered(pairs: Iterable[tuple[str, str]]) -> tuple[Known, ...]:
    """The pairs that are given in Python, with their numbers."""
    return tuple(Known(*pair, f"like_pairs[{number}]") for number, pair in enumerate(pairs))


def _in_parquet(file: Path) -> Iterator[Known]:
    wanted = {column + end for names in NAMES for column in names for end in ("", RAW)}
    for number, record in enumerate(read_columns(file, wanted), start=1):
        pair = _of_record(record)
        if pair is None:
            raise InputError(
                f"{printable(str(file))}, row {number}: no two paths",
                "give the columns path and of, as dedupe writes them, or a and b",
            )
        yield Known(*pair, f"{printable(str(file))}, row {number}")


def _in_lines(file: Path) -> Iterator[Known]:
    """The pairs of a file of text. A line ends with a line break: other characters that end lines
    in Unicode belong to paths."""
    name, suffix = printable(str(file)), file.suffix.lower()
    lines = _Lines(_text(file), {".csv": ",", ".tsv": "\t"}.get(suffix, ""))
    columns: tuple[int, ...] | None = None
    for number, line in lines:
        pair = None
        if not line.strip():
            continue
        if not columns and line.lstrip()[0] in "{[" and suffix not in (".csv", ".tsv"):
            pair = _of_json(line)
        if pair is None:
            cells = lines.cells(line)
            if columns is None:
                columns = _columns(cells)
                if columns:
                    lines.fix_separator(line)
                    continue
            pair = [cells[place] for place in columns if place < len(cells)] if columns else cells
            columns = columns or ()
            pair = [cell for cell in pair if cell]
        if len(pair) != 2 or not all(isinstance(path, str) and path for path in pair):
            shown = printable(line[:MAX_SHOWN].strip())
            raise InputError(f"{name}, line {number}: not two paths: {shown}", HINT)
        yield Known(str(pair[0]), str(pair[1]), f"{name}, line {number}")


class _Lines:
    """The numbered lines of a text, and how their cells are separated: by `usual`, if a line has
    it, else by a tab or a comma."""

    def __init__(self, text: io.StringIO, usual: str) -> None:
        self._lines = enumerate(text, start=1)
        self._usual = usual
        self._fixed = ""

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return self._lines

    def fix_separator(self, head: str) -> None:
        """Separate all lines as the one with the names of the columns."""
        self._fixed = self._separator(head)

    def cells(self, line: str) -> list[str]:
        """The cells of a line, which is continued while a quote is open; none if it is damaged."""

        def more() -> Iterator[str]:
            yield line
            yield from (text for _, text in self._lines)

        try:
            return next(csv.reader(more(), delimiter=self._separator(line)), [])
        except csv.Error:
            return []

    def _separator(self, line: str) -> str:
        if self._fixed or (self._usual and self._usual in line):
            return self._fixed or self._usual
        return "\t" if "\t" in line else ","


def _text(file: Path) -> io.StringIO:
    """The text of a file. Raises InputError for a file of another kind."""
    name = printable(str(file))
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cannot read {name}: {error.strerror}", "--like-pairs names a file of pairs"
        ) from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} is too large for a list of pairs", "some of them are enough")
    if b"\0" in data:
        raise InputError(f"{name} is not UTF-8 text", "save the list as UTF-8")
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return io.StringIO(text, newline="")


def _columns(cells: Sequence[str]) -> tuple[int, ...] | None:
    """The places of the two paths, if the cells are the names of columns, else None."""
    heads = [cell.strip().lower() for cell in cells]
    for names in NAMES:
        if all(name in heads for name in names):
            return tuple(heads.index(name) for name in names)
    return None


def _of_json(line: str) -> Sequence[object] | None:
    """The pair of a line of JSON; none in JSON of another kind, and None for other text."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        return _of_record(value) or ()
    return value if isinstance(value, list) else ()


def _of_record(record: dict[str, Any]) -> tuple[str, str] | None:
    """The paths of a record, byte for byte."""
    for names in NAMES:
        if all(name in record for name in names):
            first, second = (_path(record[name], record.get(name + RAW)) for name in names)
            return None if first is None or second is None else (first, second)
    return None


def _path(shown: object, raw: object) -> str | None:
    """A path, by its bytes if they are given: base64 in JSON."""
    try:
        if isinstance(raw, str):
            raw = base64.b64decode(raw, validate=True)
    except (binascii.Error, ValueError):
        return None
    if isinstance(raw, bytes):
        return os.fsdecode(raw)
    return shown if isinstance(shown, str) else None
