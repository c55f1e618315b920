"""Arrays in files of NumPy (.npy, .npz) and of safetensors.

A header may claim anything. What it claims is compared with the size of the file, to the byte, and
with the checksums of an .npz file, so that a damaged file is an error and not a wrong result.
"""

from __future__ import annotations

import ast
import json
import lzma
import math
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np

from vitcli.errors import InputError, listed, printable
from vitcli.indexes.parts import RawPart, matrix_shape

KEY = "embeddings"  # the array of an .npz or .safetensors file
AGAIN = "write it again: vit embed --overwrite"
MAGIC = b"\x93NUMPY"
LENGTHS = {1: 2, 2: 4, 3: 4}  # bytes of the length of a header, by the version of the format
MAX_NUMPY_HEADER, MAX_HEADER = 1 << 16, 100 << 20  # bytes; of .npy and of safetensors
MAX_NAMED = 5
COPIED = 1 << 20  # bytes that are read at a time
FLOATS: Mapping[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
BAD_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError)
"""What zipfile raises for a damaged file, besides OSError and ValueError."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An array of NumPy in a file: its numbers begin at `offset`, and end at `end`."""

    handle: BinaryIO
    offset: int
    end: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool


def read_npy(file: str, handle: BinaryIO) -> RawPart:
    """Open the matrix in an .npy file. Raises InputError, ValueError."""
    return _matrix(file, read_numpy(handle, 0, os.fstat(handle.fileno()).st_size))


def read_npz(file: str, handle: BinaryIO) -> RawPart:
    """Open the matrix `embeddings` in an .npz file. Raises InputError, ValueError."""
    with zipfile.ZipFile(handle) as archive:
        names = archive.namelist()
        if f"{KEY}.npy" not in names:
            has = listed([printable(name) for name in names], MAX_NAMED) or "nothing"
            raise InputError(f"{printable(file)} has no array {KEY}", f"it has {has}")
        return _matrix(file, read_member(archive, handle, f"{KEY}.npy"))


def read_member(archive: zipfile.ZipFile, handle: BinaryIO, name: str) -> Stored:
    """Open an array in an archive, whose bytes are compared with its checksum. A compressed one is
    copied into a temporary file. Raises ValueError."""
    entry = archive.getinfo(name)
    is_stored = entry.compress_type == zipfile.ZIP_STORED
    copy: BinaryIO | None = None if is_stored else TemporaryFile()  # noqa: SIM115  # its reader's
    with archive.open(entry) as inside:
        while data := inside.read(COPIED):
            if copy is not None:
                copy.write(data)
    if copy is not None:
        copy.flush()
        return read_numpy(copy, 0, entry.file_size)
    handle.seek(entry.header_offset)
    head = handle.read(30)  # the name and the extra field follow; their lengths are at its end
    start = entry.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
    return read_numpy(handle, start, start + entry.file_size)


def read_numpy(handle: BinaryIO, start: int, end: int) -> Stored:
    """Read the header of an array that takes the bytes from `start` to `end`. Raises ValueError.

    The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    handle.seek(start)
    magic = handle.read(8)
    size = LENGTHS.get(magic[6]) if len(magic) == 8 and magic.startswith(MAGIC) else None
    if size is None:
        raise ValueError("it is not an array of NumPy")
    length = int.from_bytes(handle.read(size), "little")
    header = handle.read(min(length, MAX_NUMPY_HEADER)).decode("latin-1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            match ast.literal_eval(header):
                case {"descr": str(name), "fortran_order": bool(is_fortran), "shape": tuple(shape)}:
                    dtype = np.dtype(name)
                case _:
                    raise ValueError
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError("its header is damaged") from None
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("its header is damaged")
    return Stored(handle, start + 8 + size + length, end, shape, dtype, is_fortran)


def _matrix(file: str, array: Stored) -> RawPart:
    """The rows of an array of NumPy. Raises InputError for another kind of array."""
    if array.is_fortran:
        raise InputError(
            f"{printable(file)} is written column by column (Fortran order)",
            "write it with np.ascontiguousarray",
        )
    dtype = array.dtype
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise InputError(f"{printable(file)} holds {dtype}, not floats", "vit embed writes fp32")
    shape = matrix_shape(file, array.shape)
    check_size(file, array.end - array.offset, shape, dtype)
    return RawPart(file, array.handle, array.offset, shape, dtype)


def check_size(file: str, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise InputError unless an array takes `size` bytes."""
    wanted = math.prod(shape) * dtype.itemsize
    if size == wanted:
        return
    what = "has been cut off" if size < wanted else "is longer than its header says"
    rows = f"{shape[0]:,} rows" + (f" of {shape[1]} numbers" if len(shape) > 1 else "")
    raise InputError(
        f"{printable(file)} {what}: {rows} take {wanted:,} bytes, and there are {max(size, 0):,}",
        AGAIN,
    )


def read_safetensors(file: str, handle: BinaryIO) -> RawPart:
    """Open the tensor `embeddings` in a safetensors file. Raises InputError, ValueError.

    The format: https://huggingface.co/docs/safetensors/index#format
    """
    size = os.fstat(handle.fileno()).st_size
    length = int.from_bytes(handle.read(8), "little")
    if size < 8 or length > min(MAX_HEADER, size - 8):
        raise ValueError("its header is damaged or cut off")
    try:
        header = json.loads(handle.read(length), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise ValueError("its header is damaged") from None
    if not isinstance(header, dict):
        raise ValueError("its header is damaged")
    header.pop("__metadata__", None)
    if KEY not in header:
        has = listed([printable(name) for name in header], MAX_NAMED) or "nothing"
        raise InputError(f"{printable(file)} has no tensor {KEY}", f"it has {has}")
    place, space = 0, size - 8 - length
    for start, end in sorted(map(_offsets, header.values())):
        if start != place or end < start:
            raise ValueError("its header is damaged: tensors overlap, or bytes belong to none")
        place = end
    start, end = _offsets(header[KEY])
    match header[KEY]:
        case {"dtype": str(name), "shape": list(sides)} if all(
            type(side) is int and side >= 0 for side in sides
        ):
            pass
        case _:
            raise ValueError("its header is damaged")
    if name not in FLOATS:
        raise InputError(f"{printable(file)} holds {printable(name)}, not F32 or F16")
    shape = matrix_shape(file, sides)
    if place != space:
        what = "has been cut off" if place > space else "is longer than its header says"
        raise InputError(
            f"{printable(file)} {what}: tensors take {place:,} bytes, and there are {space:,}",
            AGAIN,
        )
    check_size(file, end - start, shape, FLOATS[name])
    return RawPart(file, handle, 8 + length + start, shape, FLOATS[name])


def _offsets(entry: object) -> tuple[int, int]:
    match entry:
        case {"data_offsets": [int(start), int(end)]}:
            return start, end
    raise ValueError("its header is damaged")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of some pairs. Raises ValueError for a key that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found
