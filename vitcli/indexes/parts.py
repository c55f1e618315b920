"""The rows of one file of vectors, read in blocks: memory does not grow with the file.

A raw array is read at its offset, not mapped: a file that another program cuts off gives an error
in place of a fatal signal, and pages that have been read do not count as this process's memory.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import InputError, check_installed, printable

Vectors = NDArray[np.float32]
FLOATS: Mapping[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
KEY = "embeddings"  # the array of an .npz or .safetensors file
COLUMN = "embedding"  # the column of a table
COPIED = 4096  # rows that are copied at a time
MAX_HEADER = 100 << 20  # bytes of the header of a safetensors file


class Part(Protocol):
    """A matrix (count, width) in one file."""

    @property
    def file(self) -> str: ...

    @property
    def count(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def is_raw(self) -> bool:
        """Whether rows can be read in any order at the same cost."""

    def fill(self, out: Vectors, start: int) -> None:
        """Read the rows from `start` on into `out` (n, D). Raises InputError."""


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """An array of Python, (N, D)."""

    array: NDArray[Any]
    file: str = "the array"
    is_raw: bool = True

    @property
    def count(self) -> int:
        return len(self.array)

    @property
    def width(self) -> int:
        return int(self.array.shape[1])

    def fill(self, out: Vectors, start: int) -> None:
        out[:] = self.array[start : start + len(out)]


@dataclass(frozen=True, slots=True)
class RawPart:
    """An array in a file, from `offset` on, row after row."""

    file: str
    handle: BinaryIO
    offset: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    is_raw: bool = True

    @property
    def count(self) -> int:
        return self.shape[0]

    @property
    def width(self) -> int:
        return self.shape[1]

    def fill(self, out: Vectors, start: int) -> None:
        is_same = self.dtype == out.dtype and out.flags.c_contiguous
        raw = out if is_same else np.empty(out.shape, self.dtype)
        rest = raw.reshape(-1).view(np.uint8).data
        at = self.offset + start * self.width * self.dtype.itemsize
        while rest:
            try:
                done = os.preadv(self.handle.fileno(), [rest], at)
            except OSError as error:
                raise InputError(f"cannot read {self.file}: {error.strerror}") from None
            if not done:
                raise InputError(
                    f"{self.file} has been cut off", "write it again: vit embed --overwrite"
                )
            rest, at = rest[done:], at + done
        if not is_same:
            with np.errstate(over="ignore"):  # too large for fp32: found as not finite
                out[:] = raw


@dataclass(frozen=True)
class TablePart:
    """The column `embedding` of a Parquet file. Rows without a vector do not count."""

    file: str
    handle: BinaryIO
    table: Any
    shape: tuple[int, int]
    is_raw: bool = False
    _latest: list[tuple[int, int, Vectors]] = field(default_factory=list, compare=False)

    @property
    def count(self) -> int:
        return self.shape[0]

    @property
    def width(self) -> int:
        return self.shape[1]

    @cached_property
    def _starts(self) -> list[int]:
        """The first row of each row group, and the end."""
        starts = [0]
        for group in range(self.table.num_row_groups):
            column = self.table.read_row_group(group, columns=[COLUMN]).column(0)
            starts.append(starts[-1] + len(column) - column.null_count)
        return starts

    def fill(self, out: Vectors, start: int) -> None:
        done = 0
        while done < len(out):
            first, _, group = self._group(start + done)
            some = group[start + done - first : start + len(out) - first]
            out[done : done + len(some)] = some
            done += len(some)

    def _group(self, row: int) -> tuple[int, int, Vectors]:
        """The row group that holds a row: first row, end, vectors. The latest is kept."""
        for kept in list(self._latest):
            if kept[0] <= row < kept[1]:
                return kept
        starts = self._starts
        number = int(np.searchsorted(starts, row, side="right")) - 1
        column = self.table.read_row_group(number, columns=[COLUMN]).column(0)
        values = np.concatenate(
            [_values(chunk, self.width) for chunk in column.chunks]
            or [np.empty((0, self.width), np.float32)]
        )
        read = starts[number], starts[number + 1], values
        self._latest[:] = [read]
        return read


def _values(chunk: Any, width: int) -> Vectors:
    """The vectors of a chunk of lists, without the missing ones.  -> (n, D)"""
    values = chunk.drop_null().flatten()
    if values.null_count:
        raise InputError("a vector holds a missing number", "write it again: vit embed")
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(-1, width)


def read_part(file: str, handle: BinaryIO) -> Part:
    """Open the matrix in a file, by its suffix. Raises InputError for another kind of file, and
    for tokens instead of vectors."""
    suffix = PurePosixPath(file.partition("?")[0]).suffix.lower()
    readers: dict[str, Callable[[str, BinaryIO], Part]] = {
        ".npy": _npy,
        ".npz": _npz,
        ".safetensors": _safetensors,
        ".parquet": _parquet,
    }
    if suffix not in readers:
        raise InputError(
            f"{printable(file)} is not a file of vectors",
            f"vit embed writes {', '.join(readers)}, .jsonl",
        )
    try:
        return readers[suffix](file, handle)
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {printable(file)}: {error}") from None


def _raw(
    file: str, handle: BinaryIO, offset: int, shape: Sequence[int], dtype: np.dtype[Any]
) -> RawPart:
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise InputError(f"{printable(file)} holds {dtype}, not floats", "vit embed writes fp32")
    count, width = _matrix(file, shape)
    size = os.fstat(handle.fileno()).st_size - offset
    if size < count * width * dtype.itemsize:
        raise InputError(
            f"{printable(file)} has been cut off: it has no {count:,} rows of {width} numbers",
            "write it again: vit embed --overwrite",
        )
    return RawPart(file, handle, offset, (count, width), dtype)


def _matrix(file: str, shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) == 3:
        raise InputError(
            f"{printable(file)} holds {shape[1]} tokens for each image, not one vector",
            "write vectors: vit embed without --pool patches or tokens",
        )
    if len(shape) != 2 or min(shape) < 0 or shape[1] == 0:
        by = " x ".join(map(str, shape))
        raise InputError(f"{printable(file)} holds {by} numbers, not a vector a row")
    return int(shape[0]), int(shape[1])


def _npy(file: str, handle: BinaryIO) -> Part:
    version = np.lib.format.read_magic(handle)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(handle)
    shape, is_fortran, dtype = header
    if is_fortran:
        raise InputError(
            f"{printable(file)} is written column by column (Fortran order)",
            "write it with np.ascontiguousarray",
        )
    return _raw(file, handle, handle.tell(), shape, np.dtype(dtype))


def _npz(file: str, handle: BinaryIO) -> Part:
    with zipfile.ZipFile(handle) as archive:
        names = archive.namelist()
        if f"{KEY}.npy" not in names:
            raise InputError(
                f"{printable(file)} has no array {KEY}", f"it has {', '.join(names) or 'nothing'}"
            )
        entry = archive.getinfo(f"{KEY}.npy")
        with archive.open(entry) as inside:
            if entry.compress_type != zipfile.ZIP_STORED:
                copy: BinaryIO = TemporaryFile()  # noqa: SIM115  # closed with the part
                while data := inside.read(1 << 20):
                    copy.write(data)
                copy.seek(0)
                return _npy(file, copy)
    handle.seek(member_start(handle, entry))
    return _npy(file, handle)


def member_start(handle: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """The offset of the bytes of a stored entry in a zip file."""
    handle.seek(entry.header_offset)
    head = handle.read(30)
    lengths = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    return entry.header_offset + 30 + lengths


def _safetensors(file: str, handle: BinaryIO) -> Part:
    length = int.from_bytes(handle.read(8), "little")
    if length > MAX_HEADER:
        raise InputError(f"{printable(file)} is not a safetensors file")
    tensors = json.loads(handle.read(length))
    tensors.pop("__metadata__", None)
    if KEY not in tensors:
        raise InputError(f"{printable(file)} has no tensor {KEY}", f"it has {', '.join(tensors)}")
    entry = tensors[KEY]
    if entry["dtype"] not in FLOATS:
        raise InputError(f"{printable(file)} holds {entry['dtype']}, not F32 or F16")
    start = 8 + length + int(entry["data_offsets"][0])
    return _raw(file, handle, start, entry["shape"], FLOATS[entry["dtype"]])


def _parquet(file: str, handle: BinaryIO) -> Part:
    check_installed("Parquet", "pyarrow", extra="parquet", error=InputError)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(handle)
        schema = table.schema_arrow
        if COLUMN not in schema.names:
            raise InputError(
                f"{printable(file)} has no column {COLUMN}", f"it has {', '.join(schema.names)}"
            )
        kind = schema.field(COLUMN).type
        if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
            empty = TablePart(file, handle, table, (0, kind.list_size))
            return TablePart(file, handle, table, (empty._starts[-1], kind.list_size))
    except pa.ArrowException as error:
        raise InputError(f"cannot read {printable(file)}: {error}") from None
    what = "tokens for each image" if "list<" in str(kind)[5:] else str(kind)
    raise InputError(
        f"the column {COLUMN} of {printable(file)} holds {what}, not vectors of one length",
        "write vectors: vit embed without --pool patches or tokens",
    )


def copied(part: Part) -> RawPart:
    """Copy the rows into a temporary file, from which they can be read in any order."""
    handle: BinaryIO = TemporaryFile()  # noqa: SIM115  # closed with the part
    for start in range(0, part.count, COPIED):
        block = np.empty((min(COPIED, part.count - start), part.width), np.float32)
        part.fill(block, start)
        handle.write(block.data)
    handle.flush()
    return RawPart(part.file, handle, 0, (part.count, part.width), np.dtype(np.float32))
