"""Rows in blocks, with their lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitcli.indexes.index import Index, check_finite
from vitcli.indexes.parts import Vectors

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows: the first row, vectors (n, D), and their lengths (n,) in fp32."""

    start: int
    vectors: Vectors
    norms: Vectors


def block_rows(index: Index, size: int = BLOCK_BYTES) -> int:
    """The number of rows that take `size` bytes."""
    return max(1, size // (4 * index.width))


def read_block(
    index: Index, start: int, stop: int, *, unit: bool = False, into: Vectors | None = None
) -> Block:
    """Read a block, into the first rows of an array if it is given: new memory costs more than the
    read. With `unit`, vectors are scaled to length 1; a row of zeros stays.

    Raises InputError for NaN or infinity.
    """
    size = stop - start
    vectors = np.empty((size, index.width), np.float32) if into is None else into[:size]
    index.fill(vectors, start)
    norms = checked_lengths(index, vectors, start, lengths(vectors))
    if unit:
        vectors /= np.where(norms > 0, norms, 1)[:, None]
    return Block(start, vectors, norms)


def checked_lengths(index: Index, vectors: Vectors, start: int, norms: Vectors) -> Vectors:
    """The length of each row from `start` on, given those of `lengths`.  (n, D), (n,) -> (n,)

    Raises InputError for NaN or infinity.
    """
    if not np.isfinite(norms).all():
        check_finite(index, vectors, start)
        with np.errstate(over="ignore"):  # a length beyond fp32 is infinity
            norms = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1)).astype(np.float32)
    return norms


def lengths(vectors: Vectors) -> Vectors:
    """The length of each row.  (n, D) -> (n,)"""
    with np.errstate(over="ignore"):  # the caller looks for infinity
        squares: Vectors = np.vecdot(vectors, vectors)
    return np.sqrt(squares)


def iter_blocks(
    index: Index,
    rows: int | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    unit: bool = False,
) -> Iterator[Block]:
    """All rows, or those from `start` to `stop`, in blocks of `rows`."""
    size, end = rows or block_rows(index), index.count if stop is None else stop
    for first in range(start, end, size):
        yield read_block(index, first, min(end, first + size), unit=unit)


def exact_lengths(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """The length of each row in fp64, the same whatever the other rows are.  (n, D) -> (n,)"""
    with np.errstate(over="ignore"):
        squares: NDArray[np.float64] = np.square(vectors, dtype=np.float64).sum(axis=1)
    return np.sqrt(squares)


def exact_products(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """The product of each row with its partner in fp64, the same whatever the other rows are.
    (n, D), (n, D) -> (n,)"""
    products: NDArray[np.float64] = np.multiply(a, b, dtype=np.float64).sum(axis=1)
    return products


def exact_cosines(
    vectors: NDArray[np.floating], queries: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The cosine of each row with its query of length 1 in fp64; 0 for a row of zeros. It is
    rounded to 12 decimals, as the next ones depend on the order of the sums: so rows of one
    direction are ties, and a row has exactly 1 with itself.  (n, D), (n, D) or (D,) -> (n,)"""
    sizes, products = exact_lengths(vectors), exact_products(vectors, queries)
    cosines = np.zeros_like(products)
    np.divide(products, sizes, out=cosines, where=sizes > 0)
    return np.round(cosines, 12, out=cosines)
