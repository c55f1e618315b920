"""Embeddings into an array file with an index and a meta file: NPY, NPZ, safetensors.

The array grows on disk, not in memory: its header is padded, and is written again when the number
of rows is known. A failed image has no row in the array; the index has a line for every input.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Literal

import numpy as np

from vitcli.errors import OutputError
from vitcli.records import Embedded, Failure, Kept, Row
from vitcli.sinks.files import ZIPPED, FileSet, PartialFile
from vitcli.sinks.sink import FileSink
from vitcli.sinks.text import META, error_field, json_line, meta_bytes, name_fields

INDEX = ".index.jsonl"
HEADER = 256  # bytes for a safetensors header, padded with the spaces that the format allows


class ArraySink(FileSink):
    """The array, `<stem>.index.jsonl` and `<stem>.meta.json`. Formats differ in their header."""

    files = FileSet(text=INDEX, data="", at_end=(META,))

    def _open(self) -> None:
        self._row_shape = tuple(self._meta["row_shape"])
        self._dtype = np.dtype(self._meta["array_dtype"])
        self._count = 0
        self._array, self._index = self._target.open(), self._target.open(INDEX)
        grown = self._array.grown.size - len(self.header())
        self._count = max(grown, 0) // max(math.prod(self._row_shape) * self._dtype.itemsize, 1)
        self._array.write_header(self.header())

    def header(self) -> bytes:
        """The bytes before the data. Their length does not depend on the number of rows."""
        raise TypeError(f"{type(self).__name__} has no header")

    @property
    def names(self) -> Literal["path", "text"]:
        """The field of the index that names the rows."""
        return "text" if self._meta.get("kind") == "text" else "path"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._count, *self._row_shape)

    def write(self, rows: Sequence[Row]) -> list[int]:
        lines = []
        for row in rows:
            data = self._data(row)
            number = None if data is None else self._count
            if data is not None:
                self._array.write(data)
                self._count += 1
            lines.append(self._line(row, number))
        self._index.write(b"".join(lines))
        return list(map(len, lines))

    def _data(self, row: Row) -> bytes | memoryview | None:
        if isinstance(row, Kept):
            return row.array
        if not isinstance(row, Embedded):
            return None
        if row.embedding.shape != self._row_shape:
            raise OutputError(f"a row of {row.embedding.shape}, not {self._row_shape}")
        return np.ascontiguousarray(row.embedding, self._dtype).data.cast("B")

    def _line(self, row: Row, number: int | None) -> bytes:
        if isinstance(row, Kept):
            return json_line({**json.loads(row.text), "row": number})
        record: dict[str, object] = {"row": number, **name_fields(row.ref)}
        if isinstance(row, Failure):
            record["error"] = error_field(row)
        return json_line(record)

    def complete(self, meta: Mapping[str, object]) -> list[PartialFile]:
        full = {**meta, "shape": list(self.shape), "array_dtype": self._dtype.name}
        self._array.write_header(self.header())
        with self._array.explained():
            self.wrap()
        described = self._target.write_beside(META, meta_bytes(full))
        return [self._index, described, self._array]

    def wrap(self) -> None:
        """Turn the array into the final file, for formats that need more than a header."""


class NpySink(ArraySink):
    """NumPy's `.npy`, version 1.0."""

    def header(self) -> bytes:
        stream = io.BytesIO()
        described = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": self.shape,
        }
        np.lib.format.write_array_header_1_0(stream, described)  # pads for a growing first axis
        return stream.getvalue()

    @staticmethod
    def data_start(file: BinaryIO) -> int:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


class NpzSink(NpySink):
    """`embeddings` and the `paths` of its rows, or the `texts`, in one uncompressed `.npz`."""

    def wrap(self) -> None:
        """Copy the finished array into the archive, through a buffer of fixed size."""
        wrapped = self._array.rewrite(ZIPPED)
        with zipfile.ZipFile(wrapped, "w", allowZip64=True) as archive:
            with archive.open(_entry("embeddings.npy"), "w", force_zip64=True) as entry:
                self._array.file.seek(0)
                shutil.copyfileobj(self._array.file, entry, 1 << 20)
            with archive.open(_entry(f"{self.names}s.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, self._named(), allow_pickle=False)
        self._array.replace_by(wrapped, ZIPPED)

    @staticmethod
    def data_start(file: BinaryIO) -> int:
        head = file.read(30)  # the first entry is the array; its name and extra field follow
        file.seek(int.from_bytes(head[26:28], "little"), os.SEEK_CUR)
        file.seek(int.from_bytes(head[28:30], "little"), os.SEEK_CUR)
        return NpySink.data_start(file)

    def _named(self) -> np.ndarray:
        with self._index.partial.open("rb") as lines:
            records = map(json.loads, lines)
            return np.array([r[self.names] for r in records if r["row"] is not None], dtype=np.str_)


class SafetensorsSink(ArraySink):
    """One tensor, `embeddings`."""

    def header(self) -> bytes:
        name = {"float32": "F32", "float16": "F16"}[self._dtype.name]
        size = int(np.prod(self.shape)) * self._dtype.itemsize
        entry = {"dtype": name, "shape": list(self.shape), "data_offsets": [0, size]}
        text = json.dumps({"embeddings": entry}).encode().ljust(HEADER)
        return len(text).to_bytes(8, "little") + text

    @staticmethod
    def data_start(file: BinaryIO) -> int:
        return 8 + int.from_bytes(file.read(8), "little")


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name)  # with a fixed date: the same bytes on every run
