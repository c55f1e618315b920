"""Exact search: the rows nearest to each query.

fp32 products find candidates, with room for their rounding; the scores of these are computed again
in fp64, each on its own. So the results depend neither on blocks, shards and threads nor on what
the other rows are, and equal rows have equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import UsageError
from vitcli.indexes.blocks import (
    Block,
    block_rows,
    checked_lengths,
    exact_cosines,
    exact_lengths,
    exact_products,
)
from vitcli.indexes.index import Index
from vitcli.indexes.parts import Vectors
from vitcli.machine import affinity

Metric: TypeAlias = Literal["cosine", "dot"]
Scores: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.int64]

FEW = 8  # queries whose product with a block is limited by memory
FEW_BYTES, MANY_BYTES = 16 << 20, 8 << 20  # of a block
PIECE_BYTES = 1 << 20  # of it, for few queries: read from memory once, and then from the cache
PIECE_ROWS = 512  # or more: of fewer than 500, numpy computes products without other threads
ONE_BY_ONE = 4  # queries whose products are fast without BLAS
QUERIES = 512  # searched together
MAX_SCORES = 8 << 20  # products that are held at a time
MAX_THREADS = 16
PAIR_VALUES = 1 << 19  # numbers whose products are computed in fp64 at a time
NO_ROW = np.iinfo(np.int64).max
LOWEST = float(np.finfo(np.float32).min)
SAFE = (1e-15, 1e15)  # lengths whose squares are normal numbers in fp32


@dataclass(frozen=True, slots=True)
class Found:
    """The nearest rows of one query, best first, and their scores."""

    rows: Rows
    scores: Scores


class Finder(Protocol):
    """A function that searches an index: `nearest`, or its like on a cluster."""

    def __call__(
        self,
        index: Index,
        queries: NDArray[np.floating],
        k: int,
        *,
        metric: Metric = "cosine",
        threshold: float | None = None,
        step: Callable[[int, int], None] = ...,
    ) -> list[Found]: ...


def nearest(
    index: Index,
    queries: NDArray[np.floating],
    k: int,
    *,
    metric: Metric = "cosine",
    threshold: float | None = None,
    step: Callable[[int, int], None] = lambda done, total: None,
    within: tuple[int, int] | None = None,
    threads: int | None = None,
) -> list[Found]:
    """Return the k nearest rows of each query (Q, D), ties by row: all of them are compared.

    metric: *cosine*, or *dot*, which depends on lengths. The cosine of a row of zeros is 0.
    threshold: leave out rows with a lower score. step: called with the rows that are compared, and
    their number, after each block. within: the first row to compare, and the row after the last.
    threads: by default one for each processor. Raises UsageError for a query of zeros or of another
    width.
    """
    checked = check_queries(index, queries, metric)
    low, high = within or (0, index.count)
    found: list[Found] = []
    for start in range(0, len(checked), QUERIES):
        some = checked[start : start + QUERIES]
        done, total, size = start * (high - low), len(checked) * (high - low), len(some)

        def one(rows: int, done: int = done, total: int = total, size: int = size) -> None:
            step(done + rows * size, total)

        found += _search(
            index,
            some,
            min(k, high - low),
            metric,
            -np.inf if threshold is None else threshold,
            one,
            (low, high),
            threads or min(affinity(), MAX_THREADS),
        )
    return found


def check_queries(index: Index, queries: NDArray[np.floating], metric: Metric) -> Scores:
    """Return the queries in fp64; of length 1 for cosines. Raises UsageError."""
    exact = np.asarray(queries, np.float64)
    if exact.ndim != 2 or exact.shape[1] != index.width:
        raise UsageError(
            f"the queries have {exact.shape[-1] if exact.ndim else 0} numbers, and the rows of "
            f"{index.label} {index.width}",
            "they are not of one model",
        )
    sizes = exact_lengths(exact)
    if not np.isfinite(sizes).all():
        raise UsageError("a query holds NaN or infinity")
    if metric == "dot":
        return exact
    if not sizes.all():
        raise UsageError("a query is all zeros: its cosine is not defined", "use --metric dot")
    return exact / sizes[:, None]


def _search(
    index: Index,
    queries: Scores,
    k: int,
    metric: Metric,
    threshold: float,
    step: Callable[[int], None],
    within: tuple[int, int],
    threads: int,
) -> list[Found]:
    """Search all blocks."""
    low, high = within
    if low == high or not len(queries):
        return [Found(np.empty(0, np.int64), np.empty(0)) for _ in queries]
    size = FEW_BYTES if len(queries) <= FEW else MANY_BYTES
    rows = max(1, min(block_rows(index, size), MAX_SCORES // len(queries)))
    starts = range(low, high, rows)
    floors = np.full(len(queries), threshold)
    workers = [
        _Searcher(index, queries, k, metric, threshold, rows, high, floors) for _ in range(threads)
    ]
    with ThreadPoolExecutor(threads) as pool:
        todo = iter(starts)
        while batch := list(islice(todo, threads * 32)):
            shares = [batch[n::threads] for n in range(threads)]
            tasks = [
                pool.submit(worker.take, share, rows)
                for worker, share in zip(workers, shares, strict=True)
            ]
            for task in tasks:
                task.result()
            step(min(high, batch[-1] + rows) - low)
    bests = zip(*(worker.bests() for worker in workers), strict=True)
    return [merged(of_one, k) for of_one in bests]


def merged(found: Sequence[Found], k: int) -> Found:
    """The k best of several results, ties by row."""
    return best_of(
        np.concatenate([f.rows for f in found]), np.concatenate([f.scores for f in found]), k
    )


def best_of(rows: Rows, scores: Scores, k: int) -> Found:
    """Return the k best rows, ties by row."""
    order = np.lexsort((rows, -scores))[:k]
    return Found(rows[order], scores[order])


class _Searcher:
    """The best rows of each query among the blocks that one thread has read. The threads share
    `floors`, below which no row is among the best (Q,)."""

    def __init__(
        self,
        index: Index,
        queries: Scores,
        k: int,
        metric: Metric,
        threshold: float,
        rows: int,
        end: int,
        floors: Scores,
    ) -> None:
        self._index, self._exact, self._k, self._metric = index, queries, k, metric
        self._end, self._threshold, self._floors = end, threshold, floors
        self._queries = queries.astype(np.float32)
        self._buffer = np.empty((rows, index.width), np.float32)
        self._norms = np.empty(rows, np.float32)
        self._products = np.empty((len(queries), rows), np.float32)
        piece = max(PIECE_ROWS, block_rows(index, PIECE_BYTES))
        self._piece = piece if len(queries) <= FEW else rows
        self._rows = np.full((len(queries), k), NO_ROW)  # best first
        self._scores = np.full((len(queries), k), -np.inf)
        # The error of a sum of D products, each rounded, of vectors that were rounded, too.
        sizes = exact_lengths(queries)
        self._room = 2.0 * (index.width + 8) * 2**-24 * np.maximum(sizes, 1e-30)
        self._is_safe = bool(((sizes > SAFE[0]) & (sizes < SAFE[1])).all())

    def bests(self) -> list[Found]:
        """The best rows of each query."""
        return [
            Found(rows[rows != NO_ROW], scores[rows != NO_ROW])
            for rows, scores in zip(self._rows, self._scores, strict=True)
        ]

    def take(self, starts: Sequence[int], rows: int) -> None:
        """Search the blocks that begin at `starts`."""
        for start in starts:
            stop = min(self._end, start + rows)
            vectors = self._index.view(start, stop)
            if vectors is None:
                vectors = self._buffer[: stop - start]
                self._index.fill(vectors, start)
            self._search(start, vectors)

    def _search(self, start: int, vectors: Vectors) -> None:
        norms, products = self._norms[: len(vectors)], self._products[:, : len(vectors)]
        with np.errstate(all="ignore"):  # odd rows are found below
            for first in range(0, len(vectors), self._piece):
                some = slice(first, first + self._piece)
                piece = vectors[some]
                np.vecdot(piece, piece, out=norms[some])
                self._multiply(piece, products[:, some])
            np.sqrt(norms, out=norms)
        norms = checked_lengths(self._index, vectors, start, norms)
        block = Block(start, vectors, norms)
        is_odd = ~((norms > SAFE[0]) & (norms < SAFE[1])) | (not self._is_safe)
        if is_odd.any():
            products[:, is_odd] = -np.inf
            odd, every = np.flatnonzero(is_odd), np.arange(len(self._exact))
            self._add(np.repeat(every, len(odd)), np.tile(odd, len(every)), block)
        tops, scales, room = products.max(axis=1), None, self._room
        if self._metric == "cosine":
            scales = 1 / np.where(is_odd, 1, norms)
            # Of all queries, few have a candidate in a block: only theirs are divided by lengths.
            tops *= np.where(tops > 0, scales.max(), scales.min())
        else:
            room = room * float(norms.max())
        limits = np.clip(self._floors - room, LOWEST, -LOWEST).astype(np.float32)
        queries = np.flatnonzero(tops >= limits)
        scores = products[queries] if scales is None else products[queries] * scales
        is_near = scores >= limits[queries, None]
        for one in np.flatnonzero(is_near.sum(axis=1) > 4 * self._k + 64).tolist():
            # k rows score at least kth - room, so a row below kth - 2 * room is out.
            kth = np.partition(scores[one], len(norms) - self._k)[len(norms) - self._k]
            is_near[one] &= scores[one] >= kth - 2 * room[queries[one]]
        asked, rows = np.divmod(np.flatnonzero(is_near), len(norms))  # np.nonzero takes longer
        if len(rows):
            self._add(queries[asked], rows, block)

    def _multiply(self, rows: Vectors, products: Vectors) -> None:
        """The products of the queries (Q, D) with rows (n, D).  -> (Q, n)"""
        if len(self._queries) > ONE_BY_ONE:
            np.matmul(self._queries, rows.T, out=products)
            return
        for query, out in zip(self._queries, products, strict=True):
            np.vecdot(rows, query, out=out)  # matmul would start threads for each block

    def _add(self, queries: Rows, rows: Rows, block: Block) -> None:
        """Compute the scores of candidates, given as pairs in the order of the queries, and keep
        the best of each query."""
        score = exact_cosines if self._metric == "cosine" else exact_products
        step = max(1, PAIR_VALUES // block.vectors.shape[1])
        scores = np.empty(len(rows))
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            scores[some] = score(block.vectors[rows[some]], self._exact[queries[some]])
        is_in = scores >= self._threshold
        queries, rows, scores = queries[is_in], block.start + rows[is_in], scores[is_in]
        changed, firsts, counts = np.unique(queries, return_index=True, return_counts=True)
        for query, first, count in zip(
            changed.tolist(), firsts.tolist(), counts.tolist(), strict=True
        ):
            best = best_of(
                np.concatenate([self._rows[query], rows[first : first + count]]),
                np.concatenate([self._scores[query], scores[first : first + count]]),
                self._k,
            )
            self._rows[query], self._scores[query] = best.rows, best.scores
            self._floors[query] = max(self._floors[query], best.scores[-1])
