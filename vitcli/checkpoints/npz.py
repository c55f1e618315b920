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
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from vitcli.errors import CheckpointError, in_bytes

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
    tensors: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive.infolist(), file)
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as stream:
                    tensors[name] = _tensor(_read_npy(stream, info.file_size, name, file))
    except DAMAGE as error:
        reason = re.sub(r"\s+", " ", str(error))[:120]
        raise CheckpointError(f"{file} is not a readable .npz ({reason})") from None
    return tensors


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


def _read_npy(stream: IO[bytes], size: int, name: str, file: Path) -> NDArray[np.generic]:
    """Read one member of `size` bytes. Reading to its end checks its CRC as well."""
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
    flat = np.frombuffer(bytearray(stream.read()), dtype)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """Convert an array to a tensor, in this machine's byte order."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    return torch.from_numpy(native)
