"""Read safetensors files: check the header's claims, then read every byte once.

The format's own library maps the file into memory instead. If a mapped file is cut short meanwhile,
the process dies; and maps of a network drive are slow.
"""

from __future__ import annotations

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vitcli.checkpoints.weights.lazy import Array, LazyTensor, NeedsTorch
from vitcli.errors import CheckpointError, in_bytes

if TYPE_CHECKING:  # imports torch, which reading the header does not need
    from torch import Tensor

MAX_HEADER = 25_000_000  # bytes, far more than any model has
MAX_TENSORS = 20_000
MAX_DIMS = 16
READERS = 2  # threads; more gain nothing, as the first write to new memory is the slow part
# The names of the format's dtypes in torch and numpy, and their bytes.
DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "C64": ("complex64", 8),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor in the header; its data are the bytes `start` to `end` after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read all tensors, in the file's dtypes, each into its own memory. Raises CheckpointError."""
    with file.open("rb", buffering=0) as stream, ThreadPoolExecutor(READERS) as readers:
        entries = _read_header(stream, file)
        begin = stream.tell()
        tensors = readers.map(lambda entry: _read_tensor(stream, begin, entry, file), entries)
        return {entry.name: tensor for entry, tensor in zip(entries, tensors, strict=True)}


def lazy_safetensors(file: Path) -> dict[str, tuple[LazyTensor, str]]:
    """The tensors, whose numbers are read when they are needed: floats as fp32; and their dtypes in
    the file. Raises CheckpointError for the header, NeedsTorch for a dtype that numpy lacks."""
    with file.open("rb", buffering=0) as stream:
        entries = _read_header(stream, file)
        begin = stream.tell()
    return {entry.name: (_lazy(entry, begin, file), entry.dtype) for entry in entries}


def _lazy(entry: TensorEntry, begin: int, file: Path) -> LazyTensor:
    if entry.dtype.startswith(("float8", "complex")):
        raise NeedsTorch(entry.dtype)
    kind = np.dtype(np.uint16 if entry.dtype == "bfloat16" else entry.dtype)
    is_float = entry.dtype == "bfloat16" or kind.kind == "f"

    def read() -> Array:
        with file.open("rb", buffering=0) as stream:
            raw = np.empty(entry.end - entry.start, np.uint8)
            _read_into(raw.data, stream, begin + entry.start, file)
        array = raw.view(kind).reshape(entry.shape)
        if entry.dtype == "bfloat16":  # the upper half of fp32
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32, copy=False) if is_float else array

    return LazyTensor(entry.shape, np.dtype(np.float32) if is_float else kind, read)


def _read_tensor(stream: BinaryIO, begin: int, entry: TensorEntry, file: Path) -> Tensor:
    import torch

    raw = torch.empty(entry.end - entry.start, dtype=torch.uint8)
    _read_into(raw.numpy().data, stream, begin + entry.start, file)
    return raw.view(getattr(torch, entry.dtype)).reshape(entry.shape)


def _read_into(rest: memoryview, stream: BinaryIO, place: int, file: Path) -> None:
    """Fill memory with the bytes from `place` on. Raises CheckpointError if the file ends first."""
    while len(rest):
        count = os.preadv(stream.fileno(), [rest], place)
        if not count:
            raise CheckpointError(f"{file} was cut short while it was read", "try again")
        rest, place = rest[count:], place + count


def _read_header(stream: BinaryIO, file: Path) -> list[TensorEntry]:
    """Read the entries, in the order of the file, and leave the stream after the header. Raises
    CheckpointError unless they fill the file without gaps."""
    size = file.stat().st_size
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(MAX_HEADER, size - 8):
        raise _invalid(
            file,
            f"header says {length:,} bytes, file has {size:,}; at most {MAX_HEADER:,} are read",
        )
    raw = stream.read(length)
    if (count := raw.count(b'"data_offsets"')) > MAX_TENSORS:  # cheaper than parsing them
        raise CheckpointError(f"{file} claims {count:,} tensors, of which {MAX_TENSORS:,} are read")
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _invalid(file, f"header: {error}") from None
    if not isinstance(header, dict):
        raise _invalid(file, "its header is not a JSON object")
    described = {name: value for name, value in header.items() if name != "__metadata__"}
    entries = [_entry(name, value, file) for name, value in described.items()]
    place, space = 0, size - 8 - length
    entries.sort(key=lambda entry: (entry.start, entry.end))
    for entry in entries:
        if entry.start != place:
            raise _invalid(file, f"{entry.name} begins at byte {entry.start:,}, not {place:,}")
        place = entry.end
    if place > space:
        whole = in_bytes(8 + length + place)
        raise CheckpointError(
            f"{file} is truncated: {in_bytes(size)} of {whole}", "download it again"
        )
    if place < space:
        raise _invalid(file, f"{space - place:,} bytes at its end belong to no tensor")
    return entries


def _entry(name: str, value: object, file: Path) -> TensorEntry:
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise _invalid(file, f"{name} has no dtype, shape and data_offsets")
    if dtype not in DTYPES:
        raise CheckpointError(f"{file}: {name} is {dtype}, which is not read")
    if len(shape) > MAX_DIMS or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise _invalid(file, f"{name} has shape {shape}")
    kind, size = DTYPES[dtype]
    taken = math.prod(shape) * size
    if not 0 <= start <= end or taken != end - start:
        raise _invalid(
            file, f"{name} {shape} of {dtype} takes {taken:,} bytes, it is at {start:,} to {end:,}"
        )
    return TensorEntry(name, kind, tuple(shape), start, end)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name is there twice")
    return values


def _invalid(file: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{file} is not a valid safetensors file ({why})", "download it again")
