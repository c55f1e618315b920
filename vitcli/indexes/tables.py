"""Vectors and names in the columns of a Parquet file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from vitcli.errors import InputError, check_installed, listed, printable
from vitcli.indexes.names import AT_ONCE, Kind, checked_name
from vitcli.indexes.parts import Vectors

COLUMN = "embedding"
NAMES = ("path", "path_bytes", "text")  # columns
MAX_NAMED = 5
AGAIN = "write it again: vit embed --overwrite"


@dataclass(frozen=True, slots=True)
class Table:
    """An open Parquet file."""

    file: str
    handle: BinaryIO
    opened: Any
    columns: tuple[str, ...]

    @property
    def groups(self) -> int:
        """The number of row groups."""
        return int(self.opened.num_row_groups)

    def read(self, group: int, columns: Sequence[str]) -> Any:
        """Read columns of a row group. Raises InputError for a damaged one."""
        import pyarrow as pa

        try:
            read = self.opened.read_row_group(group, columns=list(columns))
            read.validate(full=True)
            wanted = self.opened.metadata.row_group(group).num_rows
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise damaged(self.file, error) from None
        if read.num_rows != wanted:
            raise damaged(self.file, f"a row group has {read.num_rows:,} rows, not {wanted:,}")
        return read


def damaged(file: str, why: object) -> InputError:
    """The error of a file that cannot be read."""
    text = " ".join(str(why).split()) or type(why).__name__
    return InputError(f"cannot read {printable(file)}: {printable(text)}", AGAIN)


@dataclass(frozen=True)
class TablePart:
    """The column `embedding` of a Parquet file. Rows without a vector do not count.

    starts: the first row of each row group, and the end.
    """

    table: Table
    width: int
    starts: tuple[int, ...]
    is_raw: bool = False
    _latest: list[tuple[int, int, Vectors]] = field(default_factory=list, compare=False)

    @property
    def file(self) -> str:
        return self.table.file

    @property
    def handle(self) -> BinaryIO:
        return self.table.handle

    @property
    def count(self) -> int:
        return self.starts[-1]

    def fill(self, out: Vectors, start: int) -> None:
        done = 0
        while done < len(out):
            first, _, group = self._group(start + done)
            some = group[start + done - first : start + len(out) - first]
            out[done : done + len(some)] = some
            done += len(some)

    def view(self, start: int, stop: int) -> None:
        return None

    def _group(self, row: int) -> tuple[int, int, Vectors]:
        """The row group that holds a row: first row, end, vectors. The latest is kept."""
        for kept in list(self._latest):
            if kept[0] <= row < kept[1]:
                return kept
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        first, end = self.starts[number : number + 2]
        chunks = self.table.read(number, [COLUMN]).column(0).chunks
        values = np.concatenate([self._values(chunk) for chunk in chunks])
        if len(values) != end - first:
            raise damaged(self.file, "it has changed")
        read = first, end, values
        self._latest[:] = [read]
        return read

    def _values(self, chunk: Any) -> Vectors:
        """The vectors of a chunk of lists, without the missing ones.  -> (n, D)"""
        values = chunk.drop_null().flatten()
        if values.null_count:
            raise InputError(f"{printable(self.file)} has a vector with a missing number", AGAIN)
        with np.errstate(over="ignore", invalid="ignore"):  # not finite in fp32: found later
            read = np.asarray(values.to_numpy(zero_copy_only=False), np.float32)
        return read.reshape(-1, self.width)


def read_parquet(file: str, handle: BinaryIO) -> TablePart:
    """Open the column `embedding`. Raises InputError."""
    check_installed("Parquet", "pyarrow", extra="parquet", error=InputError)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(handle, page_checksum_verification=True)
        schema = opened.schema_arrow
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise damaged(file, error) from None
    if COLUMN not in schema.names:
        has = listed([printable(name) for name in schema.names], MAX_NAMED) or "nothing"
        raise InputError(f"{printable(file)} has no column {COLUMN}", f"it has {has}")
    table = Table(file, handle, opened, tuple(schema.names))
    kind = schema.types[schema.names.index(COLUMN)]
    is_list = pa.types.is_fixed_size_list(kind)
    if is_list and pa.types.is_floating(kind.value_type) and kind.list_size > 0:
        starts = [0]
        for group in range(table.groups):
            column = table.read(group, [COLUMN]).column(0)
            starts.append(starts[-1] + len(column) - column.null_count)
        return TablePart(table, kind.list_size, tuple(starts))
    is_tokens = is_list and pa.types.is_fixed_size_list(kind.value_type)
    what = "tokens for each image" if is_tokens else str(kind)
    raise InputError(
        f"the column {COLUMN} of {printable(file)} holds {printable(what)}, not vectors of one "
        "length",
        "write vectors: vit embed without --pool patches or tokens",
    )


def has_vectors(file: str) -> bool:
    """Whether a file has a column `embedding`; False if it cannot be read. Raises OSError."""
    try:
        import pyarrow.parquet as pq

        return COLUMN in pq.read_schema(file).names
    except (ImportError, ValueError):
        return False


class TableNames:
    """The column `path` or `text` of a Parquet file, where it has a vector."""

    def __init__(self, part: TablePart) -> None:
        """Read the names. Raises InputError."""
        import pyarrow as pa

        self._file = part.file
        columns = [name for name in NAMES if name in part.table.columns]
        if not columns or columns == ["path_bytes"]:
            raise InputError(f"{printable(part.file)} has no column path, which names the rows")
        self.kind: Kind = "path" if "path" in columns else "text"
        read = []
        for group in range(part.table.groups):
            one = part.table.read(group, [*columns, COLUMN])
            read.append(one.filter(one.column(COLUMN).is_valid()).select(columns))
        self._table: Any = pa.concat_tables(read) if read else None

    def __len__(self) -> int:
        return 0 if self._table is None else int(self._table.num_rows)

    def __getitem__(self, row: int) -> str:
        return self._names(row, 1)[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), AT_ONCE):
            yield from self._names(start, AT_ONCE)

    def _names(self, start: int, count: int) -> list[str]:
        table = self._table.slice(start, count)
        try:
            names = table.column(self.kind).to_pylist()
            if "path_bytes" in table.column_names:
                raw = table.column("path_bytes").to_pylist()
                names = [os.fsdecode(r) if r else n for r, n in zip(raw, names, strict=True)]
            return [checked_name(name, self.kind) for name in names]
        except (ValueError, TypeError) as error:
            raise damaged(self._file, f"a name in column {self.kind}: {error}") from None

    def find(self, name: str) -> int | None:
        for row, other in enumerate(self):
            if other == name:
                return row
        return None
