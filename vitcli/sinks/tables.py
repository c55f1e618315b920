"""Records into a table: JSONL, CSV, TSV or Parquet, whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeAlias

from vitcli.errors import OutputError, check_installed
from vitcli.files import explained, whole_file
from vitcli.sinks.text import SCORE_DECIMALS, json_line, path_fields

Kind: TypeAlias = Literal["path", "text", "int", "float", "bool"]
GROUP_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Columns:
    """The fields of a record, in order, and of its items, if it has a list of them."""

    fields: Mapping[str, Kind]
    items: tuple[str, Mapping[str, Kind]] | None = None


class TableWriter(Protocol):
    """Receives records in order. A missing value is None."""

    def write(self, records: Iterable[Mapping[str, Any]]) -> None: ...


@contextmanager
def open_table(
    out: Path | None, format: str, columns: Columns, *, overwrite: bool
) -> Iterator[TableWriter]:
    """Open a table, or standard output if `out` is None. After an error an earlier file stays.

    Raises OutputError if the file exists and `overwrite` is not given.
    """
    if format == "parquet":
        check_installed("Parquet", "pyarrow", extra="parquet", error=OutputError)
        if out is None:
            raise OutputError("Parquet cannot be written to standard output", "use -o FILE.parquet")
    if out is not None and out.exists() and not overwrite:
        raise OutputError(f"{out} already exists", "--overwrite replaces it")
    with ExitStack() as stack:
        file = sys.stdout.buffer if out is None else stack.enter_context(whole_file(out))
        stack.enter_context(explained(out))
        if format == "parquet":
            yield stack.enter_context(_parquet(file, columns))
        else:
            yield _Lines(file, format, columns)
        if out is None:
            file.flush()


@dataclass(frozen=True, slots=True)
class _Lines:
    file: IO[bytes]
    format: str
    columns: Columns

    def __post_init__(self) -> None:
        if self.format != "jsonl":
            self.file.write(self._cells(list(self.columns.fields)))

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        line = self._object if self.format == "jsonl" else self._row
        for record in records:
            self.file.write(line(record))

    def _object(self, record: Mapping[str, Any]) -> bytes:
        fields: dict[str, object] = {}
        for name, kind in self.columns.fields.items():
            value = _rounded(record.get(name))
            fields |= path_fields(value) if kind == "path" else {name: value}
        return json_line(fields)

    def _row(self, record: Mapping[str, Any]) -> bytes:
        values = [record.get(name) for name in self.columns.fields]
        return self._cells(
            [
                f"{v:.{SCORE_DECIMALS}f}" if isinstance(v, float) else "" if v is None else v
                for v in values
            ]
        )

    def _cells(self, values: list[Any]) -> bytes:
        text = io.StringIO(newline="")
        dialect = "excel" if self.format == "csv" else "excel-tab"
        csv.writer(text, dialect=dialect, lineterminator="\r\n").writerow(values)
        line = text.getvalue().removesuffix("\r\n") + "\n"
        return line.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class _Groups:
    writer: Any
    columns: Columns

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        import pyarrow as pa

        schema = _schema(self.columns)
        records = iter(records)
        while group := list(islice(records, GROUP_ROWS)):
            rows = []
            for record in group:
                row = {name: _rounded(record.get(name)) for name in self.columns.fields}
                for name, kind in self.columns.fields.items():
                    if kind == "path":
                        row[name] = path_fields(row[name])["path"]
                        row["path_bytes"] = (
                            os.fsencode(record[name]) if row[name] != record[name] else None
                        )
                rows.append(row)
            self.writer.write_table(pa.Table.from_pylist(rows, schema=schema))


@contextmanager
def _parquet(file: IO[bytes], columns: Columns) -> Iterator[_Groups]:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, _schema(columns), compression="zstd") as writer:
        yield _Groups(writer, columns)


def _schema(columns: Columns) -> Any:
    import pyarrow as pa

    types = {
        "path": pa.string(),
        "text": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
    }
    fields = [pa.field(name, types[kind]) for name, kind in columns.fields.items()]
    if "path" in columns.fields.values():
        fields.append(pa.field("path_bytes", pa.binary()))
    return pa.schema(fields)


def _rounded(value: Any) -> Any:
    return round(value, SCORE_DECIMALS) if isinstance(value, float) else value
