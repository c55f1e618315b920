"""Read NumPy's `.npz` files as tensors, without unpickling, and without memory for false claims.

An `.npz` is a zip of `.npy` members: a header with dtype and shape, then the numbers. Every claim
is checked before anything is read: the total of the members against the size of the file, the shape
in a header against the size of its member.
"""

from __future__ import annotations

import math
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vitcli.checkpoints.weights.lazy import Array, LazyTensor
from vitcli.errors import CheckpointError, in_bytes

if TYPE_CHECKING:  # imports torch, which reading shapes does not need
    from torch import Tensor

Value = TypeVar("Value")

MAX_MEMBERS = 20_000
# A file may inflate to this many times its size, plus the slack; beyond that it is a bomb.
MAX_RATIO, MAX_SLACK = 4, 64_000_000

BFLOAT16 = np.dtype("V2")  # numpy has no bfloat16, and reads two raw bytes

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# The errors of numpy and zipfile for a damaged or hostile file.
DAMAGE = (
    *(ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError, EOFError),
    *(OSError, OverflowError, NotImplementedError, RuntimeError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)


def is_npz(file: Path) -> bool:
    """Whether the file is a zip of nothing but `.npy` members."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(file: Path) -> dict[str, Tensor]:
    """Read all arrays by name. Raises CheckpointError for an array that is damaged, is not plain
    numbers, or claims more than the file has."""

    def read(stream: IO[bytes], size: int, name: str) -> Tensor:
        return _tensor(_read_npy(stream, size, name, file))

    return _each(file, read)


def lazy_npz(file: Path) -> dict[str, tuple[LazyTensor, str]]:
    """The arrays by name, whose numbers are read when they are needed: floats as fp32; and their
    dtypes in the file. Raises CheckpointError as `read_npz` does, but for damaged numbers."""

    def outline(stream: IO[bytes], size: int, name: str) -> tuple[LazyTensor, str]:
        shape, _, dtype = _read_header(stream, size, name, file)
        kind = np.dtype(np.float32) if dtype == BFLOAT16 or dtype.kind == "f" else dtype
        lazy = LazyTensor(shape, kind, partial(_read_lazily, file, name))
        return lazy, "bfloat16" if dtype == BFLOAT16 else dtype.name

    return _each(file, outline)


def _read_lazily(file: Path, name: str) -> Array:
    def read(stream: IO[bytes], size: int, member: str) -> Array:
        return _read_npy(stream, size, member, file)

    array: Array = _each(file, read, only=name)[name]
    if array.dtype == BFLOAT16:  # the upper half of fp32
        return (array.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def _each(
    file: Path, read: Callable[[IO[bytes], int, str], Value], only: str | None = None
) -> dict[str, Value]:
    """Call `read` with the stream, the size and the name of each array, or of one alone."""
    values: dict[str, Value] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive.infolist(), file)
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if only is None or name == only:
                    with archive.open(info) as stream:
                        values[name] = read(stream, info.file_size, name)
    except DAMAGE as error:
        reason = re.sub(r"\s+", " ", str(error))[:120]
        raise CheckpointError(f"{file} is not a readable .npz ({reason})") from None
    return values


def _check_members(members: list[zipfile.ZipInfo], file: Path) -> None:
    size = file.stat().st_size
    claimed = sum(info.file_size for info in members)
    if claimed > MAX_RATIO * size + MAX_SLACK:
        raise CheckpointError(
            f"{file} claims {in_bytes(claimed)} of arrays, the file has {in_bytes(size)}"
        )
    if len(members) > MAX_MEMBERS:
        raise CheckpointError(f"{file} claims {len(members):,} arrays")
    if len({info.filename for info in members}) < len(members):
        raise CheckpointError(f"{file} has two arrays of one name")


def _read_npy(stream: IO[bytes], size: int, name: str, file: Path) -> Array:
    """Read one member of `size` bytes. Reading to its end checks its CRC as well."""
    shape, is_fortran, dtype = _read_header(stream, size, name, file)
    flat = np.frombuffer(bytearray(stream.read()), dtype)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _read_header(
    stream: IO[bytes], size: int, name: str, file: Path
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the shape of a member, whether it is in Fortran's order, and its dtype."""
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise CheckpointError(f"{name} in {file} is in .npy format {version}, not plain numbers")
    shape, is_fortran, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise CheckpointError(
            f"refused: {name} in {file} holds Python objects; only numbers are loaded"
        )
    if dtype.kind not in "biuf" and dtype != BFLOAT16:
        raise CheckpointError(f"{name} in {file} is not made of numbers ({dtype})")
    claimed, rest = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed != rest or min(shape, default=0) < 0:
        raise CheckpointError(
            f"{name} in {file} claims {in_bytes(claimed)} ({list(shape)}), "
            f"the file has {in_bytes(rest)} of it"
        )
    return shape, is_fortran, dtype


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """Convert an array to a tensor, in this machine's byte order."""
    import torch

    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    return torch.from_numpy(native)
