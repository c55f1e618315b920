"""Rows into Parquet: predictions, or embeddings with an index and a meta file.

A Parquet file ends with its table of contents, so it is written after the last row. Until then the
rows are in the growing files of JSONL or NPY, from which a run is resumed. Memory holds one row
group at a time.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import OutputError, check_installed
from vitcli.sinks.arrays import NpySink
from vitcli.sinks.files import TABLE, PartialFile
from vitcli.sinks.text import JsonlSink

if TYPE_CHECKING:  # an optional dependency
    import pyarrow as pa

IMAGE = {"path": "string", "path_bytes": "binary", "__key__": "string"}
TEXT = {"text": "string"}
GROUP_ROWS, GROUP_BYTES = 10_000, 64 << 20


def _check_installed() -> None:
    check_installed("Parquet", "pyarrow", extra="parquet", error=OutputError)


class ParquetSink(JsonlSink):
    """A table whose columns are the fields of a line of JSONL."""

    is_sealed = True
    check_installed = staticmethod(_check_installed)

    def complete(self, meta: Mapping[str, object]) -> list[PartialFile]:
        import pyarrow as pa

        fields = (("label", pa.string()), ("index", pa.int32()), ("score", pa.float64()))
        kind = pa.list_(pa.struct(fields))
        with self._file.explained(), self._file.partial.open("rb") as lines:

            def predictions(records: Sequence[Mapping[str, Any]]) -> pa.Array:
                return pa.array([record.get("predictions") for record in records], kind)

            _write(self._file, lines, GROUP_ROWS, IMAGE, pa.field("predictions", kind), predictions)
        return super().complete(meta)


class ParquetEmbeddingSink(NpySink):
    """A table with a column `embedding` of lists of fixed length, null next to an `error`."""

    is_sealed = True
    check_installed = staticmethod(_check_installed)

    def wrap(self) -> None:
        import pyarrow as pa

        kind = pa.from_numpy_dtype(self._dtype)
        for size in reversed(self._row_shape):
            kind = pa.list_(kind, size)
        width = math.prod(self._row_shape)
        rows = min(GROUP_ROWS, max(1, GROUP_BYTES // (width * self._dtype.itemsize)))
        array = self._array.file
        array.seek(len(self.header()))

        def embeddings(records: Sequence[Mapping[str, Any]]) -> pa.Array:
            failed = np.array([record["row"] is None for record in records])
            values = np.zeros((len(records), width), self._dtype)
            wanted = int((~failed).sum()) * width * self._dtype.itemsize
            values[~failed] = np.frombuffer(_exactly(array, wanted), self._dtype).reshape(-1, width)
            return vectors_column(values, self._row_shape, failed)

        with self._index.partial.open("rb") as lines:
            named = TEXT if self.names == "text" else IMAGE
            _write(self._array, lines, rows, named, pa.field("embedding", kind), embeddings)

    @staticmethod
    def data_start(file: BinaryIO) -> int:
        return 0  # its rows cannot be read back


def vectors_column(
    values: NDArray[np.floating], shape: Sequence[int], failed: NDArray[np.bool_]
) -> pa.Array:
    """Return a column of lists of fixed length, null where an image has failed.
    (rows, D) -> rows of `shape`"""
    import pyarrow as pa

    column: pa.Array = pa.array(values.reshape(-1))
    for size in reversed(shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return pa.FixedSizeListArray.from_arrays(column, shape[0], mask=pa.array(failed))


def _exactly(file: Any, size: int) -> bytes:
    """Read `size` bytes: an unbuffered file may return fewer at a time. Raises OutputError."""
    data = bytearray()
    while len(data) < size:
        more = file.read(size - len(data))
        if not more:
            raise OutputError("the array has been cut off", "--overwrite starts over")
        data += more
    return bytes(data)


def _write(
    file: PartialFile,
    lines: Iterable[bytes],
    group_rows: int,
    named: Mapping[str, str],
    field: pa.Field,
    column: Callable[[Sequence[Mapping[str, Any]]], pa.Array],
) -> None:
    """Replace `file` by a table of the rows in `lines`: the columns `named`, then `field` with the
    values of `column`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    error = pa.struct((("type", pa.string()), ("message", pa.string())))
    names = [pa.field(name, pa.type_for_alias(kind)) for name, kind in named.items()]
    schema = pa.schema([*names, field, pa.field("error", error)])
    made = file.rewrite(TABLE)
    with pq.ParquetWriter(made, schema, compression="zstd", write_page_checksum=True) as writer:
        for records in _groups(lines, group_rows):
            columns = [pa.array([_named(r, f.name) for r in records], f.type) for f in names]
            errors = pa.array([record.get("error") for record in records], error)
            writer.write_table(pa.table([*columns, column(records), errors], schema=schema))
    file.replace_by(made, TABLE)


def _groups(lines: Iterable[bytes], size: int) -> Iterator[list[dict[str, Any]]]:
    records = map(json.loads, lines)
    while group := list(islice(records, size)):
        yield group


def _named(record: Mapping[str, Any], name: str) -> str | bytes | None:
    value: str | None = record.get(name)
    return base64.b64decode(value) if value is not None and name == "path_bytes" else value
