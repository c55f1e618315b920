"""k-means on the rows of an index: seeded, and the same bytes with any number of threads.

With the metric `cosine` it is spherical k-means (Dhillon, Modha, 2001): rows and middles have the
length 1, and the distance of a row to a middle is 1 minus their cosine. With `euclidean` it is
Lloyd's algorithm on the rows as they are stored. The seeds are those of k-means++ (Arthur,
Vassilvitskii, 2007). A matrix product in fp32 finds the candidates for the nearest middle; fp64
decides between those that are too close for fp32. Middles are exact sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitcli.tasks.map.rows import Floats, Metric, Rows, Tick, quantum_of

FIT_BYTES = 128 << 20  # of the sample that the middles are found in
MIN_FIT_ROWS_EACH = 32  # rows of the sample for each cluster
TRIAL_ROWS, TRIAL_ROWS_EACH, TRIALS = 4096, 16, 3
MAX_ROUNDS = 100
SUM_BITS = 28  # of a row's number, rounded; 2**25 of them have an exact sum in fp64
AT_ONCE = 4096  # rows
STOP_BELOW = 1e-4  # the share of rows that change their cluster in the last round


@dataclass(frozen=True, slots=True)
class Middles:
    """points: (K, D), the means of the clusters; of length 1 with the metric `cosine`."""

    points: NDArray[np.float64]
    metric: Metric

    def assign(self, vectors: Floats) -> NDArray[np.int64]:
        """Return the nearest middle of each row, or the first of equals.  (n, D) -> (n,)"""
        points = self.points.astype(np.float32)
        offsets = self._offsets(self.points)
        lengths = np.sqrt(np.einsum("kd,kd->k", self.points, self.points)).max(initial=1e-30)
        found = np.empty(len(vectors), np.int64)
        for start in range(0, len(vectors), AT_ONCE):
            part = vectors[start : start + AT_ONCE]
            scores = part @ points.T
            scores -= offsets.astype(np.float32)
            best = scores.max(axis=1, keepdims=True)
            norms = np.sqrt(np.einsum("nd,nd->n", part, part))
            margin = 4e-7 * np.sqrt(part.shape[1]) * (norms + lengths) * lengths
            near = scores >= best - np.maximum(margin, 1e-30)[:, None]
            nearest = near.argmax(axis=1)
            unsure = np.flatnonzero(near.sum(axis=1) > 1)
            if len(unsure):
                nearest[unsure] = self._decide(part[unsure], near[unsure], offsets)
            found[start : start + AT_ONCE] = nearest
        return found

    def distances(self, vectors: Floats, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the distance of each row to the middle of its cluster.  (n, D), (n,) -> (n,)"""
        found = np.empty(len(vectors))
        for start in range(0, len(vectors), AT_ONCE):
            part = vectors[start : start + AT_ONCE].astype(np.float64)
            points = self.points[labels[start : start + AT_ONCE]]
            if self.metric == "cosine":
                values = 1 - np.einsum("nd,nd->n", part, points)
            else:
                part -= points
                values = np.sqrt(np.einsum("nd,nd->n", part, part))
            found[start : start + AT_ONCE] = values.clip(0)
        return found

    def _offsets(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Numbers to subtract from the products with a row, so that the nearest is the highest."""
        squares = np.einsum("kd,kd->k", points, points)
        return squares / 2 if self.metric == "euclidean" else np.zeros_like(squares)

    def _decide(
        self, vectors: Floats, near: NDArray[np.bool_], offsets: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return the nearest of the near middles, in fp64.  (n, D), (n, K) -> (n,)"""
        scores = np.full(near.shape, -np.inf)
        row, middle = np.nonzero(near)
        for start in range(0, len(row), AT_ONCE):
            r, m = row[start : start + AT_ONCE], middle[start : start + AT_ONCE]
            products = np.einsum("nd,nd->n", vectors[r].astype(np.float64), self.points[m])
            scores[r, m] = products - offsets[m]
        nearest: NDArray[np.int64] = scores.argmax(axis=1)
        return nearest


def sample(rows: Rows, clusters: int, seed: int) -> Floats:
    """Draw the rows that the middles are found in: all of them, if they take FIT_BYTES at most."""
    size = max(FIT_BYTES // (4 * rows.width), MIN_FIT_ROWS_EACH * clusters)
    return rows.gather(_drawn(rows.count, size, np.random.default_rng(seed)))


def fit(vectors: Floats, clusters: int, metric: Metric, seed: int, trials: int = TRIALS) -> Middles:
    """Find the middles of at most `clusters` clusters: fewer, if there are fewer different rows.

    The best of `trials` runs on a small sample is continued on all rows (Bradley, Fayyad, 1998).
    """
    random = np.random.default_rng(seed)
    size = max(TRIAL_ROWS, TRIAL_ROWS_EACH * clusters)
    tried: list[tuple[float, int, Middles]] = []
    for number in range(trials):
        small = vectors[_drawn(len(vectors), size, random)]
        middles, labels = _lloyd(small, _seeds(small, clusters, metric, random))
        tried.append((_loss(small, middles, labels), number, middles))
    middles = max(tried, key=lambda trial: (len(trial[2].points), -trial[0], -trial[1]))[2]
    if len(middles.points) < clusters and len(vectors) > size:  # rare rows are not in the sample
        middles = _seeds(vectors, clusters, metric, random)
    return _lloyd(vectors, middles)[0] if len(vectors) > size else middles


def assign_all(
    rows: Rows, middles: Middles, tick: Tick
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the cluster and the distance of every row. The largest cluster is number 0, and of
    clusters of one size, the one with the first row; an empty one has no number.  -> (N,), (N,)"""
    labels = np.empty(rows.count, np.int64)
    distances = np.empty(rows.count)
    for start, block in rows.blocks(tick):
        labels[start : start + len(block)] = nearest = middles.assign(block)
        distances[start : start + len(block)] = middles.distances(block, nearest)
    present, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    numbers = np.zeros(len(middles.points), np.int64)
    numbers[present[order]] = np.arange(len(present))
    return numbers[labels], distances


def _drawn(count: int, size: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw `size` of `count` rows, in ascending order; all of them, if there are no more."""
    if count <= size:
        return np.arange(count)
    return np.sort(random.choice(count, size, replace=False))


def _seeds(vectors: Floats, clusters: int, metric: Metric, random: np.random.Generator) -> Middles:
    """Draw rows as first middles: each with a chance that grows with its squared distance to those
    drawn before. Stops when every row is one of them."""
    squares = np.einsum("nd,nd->n", vectors, vectors)
    chosen: list[int] = [int(random.integers(len(vectors)))]
    gaps = np.full(len(vectors), np.inf)
    while True:
        last = vectors[chosen[-1]]
        new = squares + squares[chosen[-1]] - 2 * np.einsum("nd,d->n", vectors, last)
        gaps = np.minimum(gaps, new.clip(0))
        gaps[(gaps <= 4e-7 * (squares + squares[chosen[-1]]))] = 0  # fp32 tells them not apart
        gaps[chosen] = 0
        chances = np.cumsum(gaps, dtype=np.float64)
        if len(chosen) == clusters or chances[-1] <= 0:
            return Middles(vectors[chosen].astype(np.float64), metric)
        draw = random.random() * chances[-1]
        chosen.append(int(np.searchsorted(chances, draw, side="right").clip(0, len(gaps) - 1)))


def _lloyd(vectors: Floats, middles: Middles) -> tuple[Middles, NDArray[np.int64]]:
    """Move the middles to the means of their clusters, until the clusters stay. An empty cluster
    gets the row that is furthest from its middle.  (n, D) -> middles, (n,)"""
    number = len(middles.points)
    largest = float(np.abs(vectors).max(initial=0))
    quantum = quantum_of(largest, SUM_BITS)
    sums, sizes = np.zeros_like(middles.points), np.zeros(number, np.int64)
    labels = np.full(len(vectors), -1)
    for _ in range(MAX_ROUNDS):
        nearest = middles.assign(vectors)
        _fill_empty(vectors, middles, nearest)
        changed = np.flatnonzero(nearest != labels)
        if not len(changed):
            break
        _add(sums, sizes, vectors, changed, labels, quantum, -1)
        labels = nearest
        _add(sums, sizes, vectors, changed, labels, quantum, 1)
        points = sums * quantum / np.maximum(sizes, 1)[:, None]
        if middles.metric == "cosine":
            lengths = np.sqrt(np.einsum("kd,kd->k", points, points))[:, None]
            points = np.where(lengths > 0, points / np.where(lengths > 0, lengths, 1), points)
        middles = Middles(points, middles.metric)
        if len(changed) < STOP_BELOW * len(vectors):
            break
    return middles, labels


def _fill_empty(vectors: Floats, middles: Middles, labels: NDArray[np.int64]) -> None:
    """Give each empty cluster the row that is furthest from its middle, of a cluster with more."""
    sizes = np.bincount(labels, minlength=len(middles.points))
    empty = np.flatnonzero(sizes == 0)
    if not len(empty):
        return
    furthest = np.argsort(-middles.distances(vectors, labels), kind="stable")
    for cluster in empty:
        row = next((r for r in furthest if sizes[labels[r]] > 1), None)
        if row is None:
            return
        sizes[labels[row]] -= 1
        sizes[cluster] += 1
        labels[row] = cluster


def _add(
    sums: NDArray[np.float64],
    sizes: NDArray[np.int64],
    vectors: Floats,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    quantum: float,
    sign: int,
) -> None:
    """Add rows to the sums of their clusters, or subtract them; rows without a cluster have -1."""
    rows = rows[labels[rows] >= 0]
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        part = part[np.argsort(labels[part], kind="stable")]
        clusters, first, counts = np.unique(labels[part], return_index=True, return_counts=True)
        integers = np.rint(vectors[part] / quantum, dtype=np.float64)
        sums[clusters] += sign * np.add.reduceat(integers, first, axis=0)
        sizes[clusters] += sign * counts


def _loss(vectors: Floats, middles: Middles, labels: NDArray[np.int64]) -> float:
    distances = middles.distances(vectors, labels)
    return float((distances if middles.metric == "cosine" else distances**2).sum())
