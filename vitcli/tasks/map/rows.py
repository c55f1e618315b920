"""The rows of an index as the map compares them: of length 1, or as stored; in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import InputError, printable

Metric: TypeAlias = Literal["cosine", "euclidean"]
Floats: TypeAlias = NDArray[np.float32]
Tick: TypeAlias = Callable[[int], None]
"""Receives the number of rows that have just been read."""

BLOCK_BYTES = 16 << 20
MAX_BLOCK_ROWS = 8192  # products of 20 bits, summed over a block, are exact in fp64
QUANTUM_BITS = 20
SAFE = (1e-9, 1e12)  # largest numbers whose differences have squares in fp32


class Index(Protocol):
    """The part of an index that the algorithms read."""

    @property
    def count(self) -> int: ...
    @property
    def width(self) -> int: ...
    def name(self, row: int) -> str: ...
    def read(self, start: int, stop: int) -> Floats: ...
    def gather(self, rows: NDArray[np.int64]) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of an index: divided by their lengths for the metric `cosine`; else as stored, but
    divided by `scale`, a power of two other than 1 only if squares would not fit fp32. `largest`
    bounds the size of their numbers."""

    index: Index
    metric: Metric = "cosine"
    scale: float = 1.0
    largest: float = 1.0

    @staticmethod
    def open(index: Index, metric: Metric, tick: Tick) -> Rows:
        """The rows of an index, which are read once to find the scale."""
        rows = Rows(index, metric)
        if metric == "cosine":
            return rows
        largest = max((float(np.abs(b).max(initial=0)) for _, b in rows.blocks(tick)), default=0.0)
        low, high = SAFE
        scale = 1.0 if largest == 0 or low < largest < high else 2.0 ** np.floor(np.log2(largest))
        return Rows(index, metric, float(scale), largest / float(scale))

    @property
    def count(self) -> int:
        return self.index.count

    @property
    def width(self) -> int:
        return self.index.width

    def blocks(self, tick: Tick) -> Iterator[tuple[int, Floats]]:
        """Read all rows in order: the number of the first row, and the rows.  -> (n, D)"""
        size = max(1, min(MAX_BLOCK_ROWS, BLOCK_BYTES // (4 * self.width)))
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            yield start, self._scaled(self.index.read(start, stop), range(start, stop))
            tick(stop - start)

    def gather(self, rows: NDArray[np.int64]) -> Floats:
        """Read some rows, given by number in ascending order.  (n,) -> (n, D)"""
        taken = np.empty((len(rows), self.width), np.float32)
        size = max(1, BLOCK_BYTES // (4 * self.width))
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            taken[start : start + size] = self._scaled(self.index.gather(part), part)
        return taken

    def _scaled(self, vectors: Floats, rows: range | NDArray[np.int64]) -> Floats:
        """Raise InputError for a row that holds NaN or infinity."""
        if not np.isfinite(vectors).all():
            row = int(rows[int(np.argmin(np.isfinite(vectors).all(axis=1)))])
            raise InputError(
                f"row {row:,} ({printable(self.index.name(row))}) holds NaN or infinity",
                "embed this image again, or leave it out of the index",
            )
        if self.metric == "euclidean":
            return vectors if self.scale == 1 else (vectors / self.scale).astype(np.float32)
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
        safe = vectors / np.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
        lengths = np.sqrt(np.einsum("nd,nd->n", safe, safe))[:, None]
        return np.divide(safe, np.where(lengths > 0, lengths, 1), dtype=np.float32)


def quantum_of(largest: float, bits: int) -> float:
    """Return a power of two: multiples of it, up to `largest`, are integers of `bits` bits.

    Sums of such multiples are exact in fp64. They do not depend on the order of the terms, so that
    neither blocks nor threads change a result.
    """
    if largest <= 0:
        return 1.0
    return float(2.0 ** (np.ceil(np.log2(largest)) - bits))
