"""The rows of one file of vectors, in blocks: memory does not grow with the file.

fp32 rows of a raw array are mapped where they are read once and in order, a block at a time, which
spares their copy. The size of the file is compared before: a file that another program has cut off
gives an error, not a fatal signal.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import InputError, printable

Vectors = NDArray[np.float32]
COPIED = 4096  # rows that are copied at a time
READ_AHEAD = getattr(mmap, "MAP_POPULATE", 0)  # all pages at once, where the system can


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

    def view(self, start: int, stop: int) -> Vectors | None:
        """The rows from `start` to `stop` as they lie in memory or in the file, without a copy;
        None where they are not fp32, row after row. Raises InputError."""


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
        with np.errstate(over="ignore", invalid="ignore"):  # not finite in fp32: found later
            out[:] = self.array[start : start + len(out)]

    def view(self, start: int, stop: int) -> Vectors | None:
        is_plain = self.array.dtype == np.float32 and self.array.flags.c_contiguous
        return self.array[start:stop] if is_plain else None


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
                raise InputError(f"cannot read {printable(self.file)}: {error.strerror}") from None
            if not done:
                raise self._cut_off()
            rest, at = rest[done:], at + done
        if not is_same:
            with np.errstate(over="ignore", invalid="ignore"):  # not finite in fp32: found later
                out[:] = raw

    def view(self, start: int, stop: int) -> Vectors | None:
        row = self.width * self.dtype.itemsize
        first, end = self.offset + start * row, self.offset + stop * row
        if self.dtype != np.float32 or first % self.dtype.itemsize:
            return None
        if os.fstat(self.handle.fileno()).st_size < end:
            raise self._cut_off()
        page = first - first % mmap.ALLOCATIONGRANULARITY
        try:
            pages = mmap.mmap(
                self.handle.fileno(),
                end - page,
                flags=mmap.MAP_SHARED | READ_AHEAD,
                prot=mmap.PROT_READ,
                offset=page,
            )
        except (OSError, ValueError):  # a file system without it
            return None
        values = np.frombuffer(pages, np.float32, (stop - start) * self.width, first - page)
        return values.reshape(stop - start, self.width)

    def _cut_off(self) -> InputError:
        return InputError(
            f"{printable(self.file)} has been cut off", "write it again: vit embed --overwrite"
        )


def matrix_shape(file: str, shape: Sequence[int]) -> tuple[int, int]:
    """The shape (N, D) of an array of vectors. Raises InputError for another shape."""
    if len(shape) == 3:
        raise InputError(
            f"{printable(file)} holds {shape[1]} tokens for each image, not one vector",
            "write vectors: vit embed without --pool patches or tokens",
        )
    if len(shape) != 2 or shape[1] == 0:
        by = " x ".join(map(str, shape))
        raise InputError(f"{printable(file)} holds {by} numbers, not a vector a row")
    return shape[0], shape[1]


def copied(part: Part) -> RawPart:
    """Copy the rows into a temporary file, from which they can be read in any order."""
    handle: BinaryIO = TemporaryFile()  # noqa: SIM115  # closed with the part
    for start in range(0, part.count, COPIED):
        block = np.empty((min(COPIED, part.count - start), part.width), np.float32)
        part.fill(block, start)
        handle.write(block.data)
    handle.flush()
    return RawPart(part.file, handle, 0, (part.count, part.width), np.dtype(np.float32))
