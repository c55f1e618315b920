"""Rows of an index as unit vectors, and their exact cosines."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import InputError

AT_ONCE = 8 << 20  # numbers that are read at once
SCALED = (1e-30, 1e30)  # lengths whose reciprocals are fp32 numbers of full precision
ROUNDING = 1e-12  # by which two sums in fp64 may differ

Rows = NDArray[np.int64]


class Vectors(Protocol):
    """The part of an index that comparisons need: `count` rows of `width` numbers."""

    @property
    def count(self) -> int: ...

    @property
    def width(self) -> int: ...

    def read(self, start: int, stop: int) -> NDArray[np.float32]: ...

    def gather(self, rows: Rows) -> NDArray[np.float32]: ...


def gathered(vectors: Vectors, rows: Rows) -> NDArray[np.float64]:
    """Rows in any order, in fp64; rows that are close together are read at once.  -> (n, D)"""
    if len(rows) and len(rows) * 2 >= np.ptp(rows) + 1:
        first = int(rows.min())
        return vectors.read(first, int(rows.max()) + 1)[rows - first].astype(np.float64)
    return vectors.gather(rows).astype(np.float64)


def lengths(vectors: Vectors) -> NDArray[np.float64]:
    """The length of each row.  (N, D) -> (N,)

    Raises InputError for a row with NaN or infinity.
    """
    found = np.empty(vectors.count, np.float64)
    step = max(1, AT_ONCE // max(1, vectors.width))
    for start in range(0, vectors.count, step):
        stop = min(start + step, vectors.count)
        block = vectors.read(start, stop).astype(np.float64)
        found[start:stop] = np.sqrt(np.einsum("nd,nd->n", block, block))
        bad = np.flatnonzero(~np.isfinite(found[start:stop]))
        if len(bad):
            raise InputError(
                f"row {start + int(bad[0])} of the index has a number that is not finite",
                "embed this image again, or leave it out",
            )
    return found


def unit(block: NDArray[np.float32], lengths: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scale rows to length 1; rows of zeros stay.  (n, D), (n,) -> (n, D)"""
    low, high = SCALED
    is_odd = (lengths < low) | (lengths > high)
    inverse = np.zeros(len(lengths), np.float32)
    np.divide(1.0, lengths, out=inverse, where=~is_odd, casting="same_kind")
    scaled = block * inverse[:, None]
    for row in np.flatnonzero(is_odd & (lengths > 0)):
        scaled[row] = block[row].astype(np.float64) / lengths[row]
    return scaled


def margin(width: int) -> float:
    """The most by which the fp32 product of two unit vectors differs from their cosine.

    Higham, Accuracy and Stability of Numerical Algorithms, 3.1: a sum of D products is off by at
    most D roundings, in whatever order it is taken; the scaling adds a few.
    """
    return (width + 16) * 2.0**-24


def cosines(
    vectors: Vectors, lengths: NDArray[np.float64], a: Rows, b: Rows
) -> NDArray[np.float64]:
    """The cosines of pairs of rows, in fp64; 0 for a row of zeros.  (P,), (P,) -> (P,)"""
    scores = np.zeros(len(a), np.float64)
    step = max(1, AT_ONCE // 4 // max(1, vectors.width))
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        left = gathered(vectors, a[part])
        right = gathered(vectors, b[part])
        # Scaled first: the product of two long vectors may overflow.
        left /= np.where(lengths[a[part]] > 0, lengths[a[part]], 1.0)[:, None]
        right /= np.where(lengths[b[part]] > 0, lengths[b[part]], 1.0)[:, None]
        np.einsum("nd,nd->n", left, right, out=scores[part])
    return np.clip(scores, -1.0, 1.0)
