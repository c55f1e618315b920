"""Embeddings into an array file with its index and meta beside it: NPY, NPZ, safetensors.

The array grows on disk, never in memory: its header is written with room to spare and written
again when the number of rows is known. A failed image takes no row of the array; the index has
one line for every input.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from vitcli.errors import OutputError
from vitcli.records import Embedded, Failure, Row
from vitcli.sinks.files import Target
from vitcli.sinks.text import error_field, json_line, meta_bytes, path_fields

INDEX, META = ".index.jsonl", ".meta.json"
HEADER = 256  # bytes for a safetensors header, padded with the spaces that the format allows


class ArraySink:
    """The array, `<stem>.index.jsonl` and `<stem>.meta.json`. Formats differ in their header."""

    def __init__(self, target: Target, row_shape: tuple[int, ...], dtype: str) -> None:
        self._row_shape = row_shape
        self._dtype = np.dtype(dtype)
        self._count = 0
        self._array = target.open()
        self._index = target.open_beside(INDEX)
        self._meta = target.open_beside(META)
        self._array.write(self.header())

    def header(self) -> bytes:
        """The bytes before the data; the same length for any number of rows."""
        raise TypeError(f"{type(self).__name__} has no header")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._count, *self._row_shape)

    def write(self, rows: Sequence[Row]) -> None:
        lines = []
        for row in rows:
            number = None
            if isinstance(row, Embedded):
                if row.embedding.shape != self._row_shape:
                    raise OutputError(f"a row of {row.embedding.shape}, not {self._row_shape}")
                self._array.write(np.ascontiguousarray(row.embedding, self._dtype).data.cast("B"))
                number = self._count
                self._count += 1
            record: dict[str, object] = {"row": number, **path_fields(row.ref.path)}
            if isinstance(row, Failure):
                record["error"] = error_field(row)
            lines.append(json_line(record))
        self._index.write(b"".join(lines))
        self._array.flush()
        self._index.flush()

    def finish(self, meta: Mapping[str, object]) -> None:
        full = {**meta, "shape": list(self.shape), "array_dtype": self._dtype.name}
        self._meta.write(meta_bytes(full))
        with self._array.explained():
            self._array.file.seek(0)
            self._array.write(self.header())
            self.complete()
        for file in (self._index, self._meta, self._array):  # the array last: it is the result
            file.commit()

    def complete(self) -> None:
        """What a format needs besides its header."""

    def abort(self) -> None:
        for file in (self._array, self._index, self._meta):
            file.abort()


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


class NpzSink(NpySink):
    """`embeddings` and the `paths` of its rows in one uncompressed `.npz`."""

    def complete(self) -> None:
        """Wrap the finished array: it is copied once, through a fixed-size buffer."""
        partial = self._array.partial
        self._array.flush()
        wrapped = partial.with_name(partial.name + ".zip")
        with zipfile.ZipFile(wrapped, "w", allowZip64=True) as archive:
            with archive.open(_entry("embeddings.npy"), "w", force_zip64=True) as entry:
                self._array.file.seek(0)
                shutil.copyfileobj(self._array.file, entry, 1 << 20)
            with archive.open(_entry("paths.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, self._paths(), allow_pickle=False)
        self._array.replace_by(wrapped)

    def _paths(self) -> np.ndarray:
        self._index.flush()
        with self._index.partial.open("rb") as lines:
            records = map(json.loads, lines)
            return np.array([r["path"] for r in records if r["row"] is not None], dtype=np.str_)


class SafetensorsSink(ArraySink):
    """One tensor, `embeddings`."""

    def header(self) -> bytes:
        name = {"float32": "F32", "float16": "F16"}[self._dtype.name]
        size = int(np.prod(self.shape)) * self._dtype.itemsize
        entry = {"dtype": name, "shape": list(self.shape), "data_offsets": [0, size]}
        text = json.dumps({"embeddings": entry}).encode().ljust(HEADER)
        return len(text).to_bytes(8, "little") + text


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name)  # the format's first date: the same bytes on every run
