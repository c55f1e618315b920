"""Records into a table: JSONL, CSV, TSV, Parquet, or their paths alone. Whole or not at all."""

from __future__ import annotations

import base64
import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from vitcli.errors import OutputError, UsageError, check_installed
from vitcli.files import explained, whole_file
from vitcli.sinks.files import Target
from vitcli.sinks.text import SCORE_DECIMALS, json_line, path_fields

if TYPE_CHECKING:  # an optional dependency
    import pyarrow as pa

Kind: TypeAlias = Literal["path", "text", "int", "float", "bool"]
Record: TypeAlias = Mapping[str, Any]
TABLES = ("jsonl", "csv", "tsv", "parquet")
GROUP = 10_000  # records that are written at a time
TYPES = {"path": "string", "text": "string", "int": "int64", "float": "float64", "bool": "bool"}


@dataclass(frozen=True, slots=True)
class Columns:
    """The fields of a record, in order. `items` is the name of a field with a list of records, and
    their fields: CSV has a line for each of them, with its rank. With `has_error` a record may have
    an `error` of `type` and `message` instead. A path is text with surrogates for odd bytes; JSON
    and Parquet have its bytes in `path_bytes`, too. Floats are rounded to 6 decimals."""

    fields: Mapping[str, Kind]
    items: tuple[str, Mapping[str, Kind]] | None = None
    has_error: bool = False

    def plain(self, record: Record, decimals: int | None = SCORE_DECIMALS) -> dict[str, Any]:
        """The record as JSON has it. With `decimals=None`, floats are not rounded."""
        made = _plain(record, self.fields, decimals)
        if self.items is not None and self.items[0] in record:
            name, fields = self.items
            made[name] = [_plain(item, fields, decimals) for item in record[name]]
        if record.get("error") is not None:
            made["error"] = dict(record["error"])
        return made

    def header(self) -> list[str]:
        """The columns of CSV."""
        names = list(self.fields)
        if self.items is not None:
            names += ["rank", *self.items[1]]
        return names + ["error"] * self.has_error

    def lines(self, record: Record) -> Iterator[list[object]]:
        """The lines of CSV for a record: one for each item; a single one without items."""
        own = _cells(record, self.fields)
        error = record.get("error")
        last = [f"{error['type']}: {error['message']}" if error else ""] * self.has_error
        if self.items is None:
            yield [*own, *last]
            return
        name, fields = self.items
        for rank, item in enumerate(record.get(name) or (), start=1):
            yield [*own, rank, *_cells(item, fields), *last]
        if not record.get(name):
            yield [*own, *[""] * (1 + len(fields)), *last]

    def paths(self, record: Record) -> Iterator[str]:
        """The paths of a record: its own, or those of its items."""
        items = [record] if self.items is None else record.get(self.items[0]) or ()
        yield from (item["path"] for item in items if "path" in item)


def _plain(record: Record, fields: Mapping[str, Kind], decimals: int | None) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, kind in fields.items():
        if name not in record:
            continue
        value = record[name]
        if kind == "path" and value is not None:
            written = path_fields(value)
            made[name] = written["path"]
            if "path_bytes" in written:
                made[f"{name}_bytes"] = written["path_bytes"]
        else:
            made[name] = plain_value(value, kind, decimals)
    return made


def plain_value(value: Any, kind: Kind, decimals: int | None = SCORE_DECIMALS) -> Any:
    """A value as JSON has it; a path stays as it is."""
    if value is None or kind in ("path", "text"):
        return value
    if kind == "float":
        return float(value) if decimals is None else round(float(value), decimals)
    return bool(value) if kind == "bool" else int(value)


def _cells(record: Record, fields: Mapping[str, Kind]) -> list[object]:
    cells: list[object] = []
    for name, kind in fields.items():
        value = plain_value(record.get(name), kind)
        if value is None:
            cells.append("")
        elif kind == "float":
            cells.append(f"{value:.{SCORE_DECIMALS}f}")
        else:
            cells.append(str(value).lower() if kind == "bool" else value)
    return cells


@dataclass(frozen=True, slots=True)
class TableFile:
    """Where a table goes: a file, or standard output; in a format, or `paths`, each ended by a line
    break or, with `null`, by NUL."""

    out: Path | None
    format: str = "jsonl"
    overwrite: bool = False
    null: bool = False
    beside: Sequence[Path] = field(default=())
    resumes: bool = False

    def check(self) -> None:
        """Raise VitError for mistakes that can be seen before the work begins. `beside` are the
        other files that will be written; `resumes`: whether the command has --resume."""
        if self.format == "parquet":
            check_installed("Parquet", "pyarrow", extra="parquet", error=OutputError)
        places: list[Path | None] = [self.out, *self.beside]
        for place in places:
            target = Target(place, overwrite=self.overwrite, resumes=self.resumes)
            target.check()
            if place is self.out and target.is_special and self.format == "parquet":
                raise UsageError("Parquet cannot be written to a pipe", "name a file with --out")
        real = [os.path.realpath(p) for p in places if p is not None]
        if len(set(real)) < len(real):
            raise UsageError(f"{self.out} is named for two outputs", "give each its own name")


TableWriter: TypeAlias = Callable[[Iterable[Record]], None]


@contextmanager
def open_table(to: TableFile, columns: Columns) -> Iterator[TableWriter]:
    """Open a table, and yield the function that writes records to it. A file gets its name at the
    end; after an error, nothing is left. Raises WriteError."""
    with _opened(to.out) as file:
        if to.format == "parquet":
            with _parquet(file, columns) as write:
                yield write
            return
        encode = _encoder(to, columns)
        if to.format in ("csv", "tsv"):
            file.write(_line(columns.header(), to.format))

        def write_lines(records: Iterable[Record]) -> None:
            with explained(to.out):
                for record in records:
                    file.write(encode(record))
                file.flush()

        yield write_lines


@contextmanager
def _opened(out: Path | None) -> Iterator[IO[bytes]]:
    if out is None:
        yield sys.stdout.buffer
        return
    with whole_file(out) as file:
        yield file


def _encoder(to: TableFile, columns: Columns) -> Callable[[Record], bytes]:
    if to.format == "jsonl":
        return lambda record: json_line(columns.plain(record))
    if to.format == "paths":
        end = b"\0" if to.null else b"\n"
        return lambda record: b"".join(os.fsencode(p) + end for p in columns.paths(record))
    return lambda record: b"".join(_line(line, to.format) for line in columns.lines(record))


def _line(cells: Sequence[object], format: str) -> bytes:
    text = io.StringIO(newline="")
    dialect = "excel" if format == "csv" else "excel-tab"
    csv.writer(text, dialect=dialect, lineterminator="\r\n").writerow(cells)
    whole = text.getvalue().removesuffix("\r\n") + "\n"  # "\n" alone would leave \r unquoted
    return whole.encode("utf-8", "surrogateescape")


@contextmanager
def _parquet(file: IO[bytes], columns: Columns) -> Iterator[TableWriter]:
    import pyarrow.parquet as pq

    schema = arrow_schema(columns)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:

        def write(records: Iterable[Record]) -> None:
            rest = iter(records)
            while group := list(islice(rest, GROUP)):
                writer.write_table(arrow_table(group, columns, schema))

        yield write


def arrow_table(
    records: Iterable[Record],
    columns: Columns,
    schema: pa.Schema | None = None,
    decimals: int | None = SCORE_DECIMALS,
) -> pa.Table:
    """The records as a table of Arrow."""
    import pyarrow as pa

    def ready(record: Record) -> dict[str, Any]:
        made = columns.plain(record, decimals)
        of_items = made.get(columns.items[0], ()) if columns.items is not None else ()
        for one in (made, *of_items):
            for name in [name for name in one if name.endswith("_bytes")]:
                one[name] = base64.b64decode(one[name])
        return made

    rows = [ready(record) for record in records]
    return pa.Table.from_pylist(rows, schema=schema or arrow_schema(columns))


def arrow_schema(columns: Columns) -> pa.Schema:
    """The columns of Arrow and of Parquet."""
    import pyarrow as pa

    schema = pa.schema(_arrow(columns.fields))
    if columns.items is not None:
        name, fields = columns.items
        schema = schema.append(pa.field(name, pa.list_(pa.struct(_arrow(fields)))))
    if columns.has_error:
        error = pa.struct((("type", pa.string()), ("message", pa.string())))
        schema = schema.append(pa.field("error", error))
    return schema


def _arrow(fields: Mapping[str, Kind]) -> list[pa.Field]:
    import pyarrow as pa

    made = []
    for name, kind in fields.items():
        made.append(pa.field(name, pa.type_for_alias(TYPES[kind])))
        if kind == "path":
            made.append(pa.field(f"{name}_bytes", pa.binary()))
    return made
