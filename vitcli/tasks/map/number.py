"""Choose the number of clusters.

The silhouette of a row compares its mean distance to the rows of its own cluster, a, with that to
the rows of the nearest other cluster, b: (b - a) / max(a, b) (Rousseeuw, 1987). The number of
clusters whose mean silhouette is the highest separates the rows best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vitcli.tasks.map.kmeans import fit
from vitcli.tasks.map.rows import Floats, Metric

ROWS = 2048  # of the sample
LADDER = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
EQUAL = 1e-9


@dataclass(frozen=True, slots=True)
class ChosenNumber:
    """The number of clusters, and its mean silhouette; `tried` is the largest number tried."""

    number: int
    silhouette: float
    tried: int


def choose_number(vectors: Floats, metric: Metric, seed: int) -> ChosenNumber:
    """Return the number of clusters with the highest silhouette in a sample of rows: of the numbers
    in LADDER, then of those between the best one's neighbours. 1 for rows that are all equal."""
    random = np.random.default_rng(seed)
    if len(vectors) > ROWS:
        vectors = vectors[np.sort(random.choice(len(vectors), ROWS, replace=False))]
    gaps = _gaps(vectors, metric)
    found: dict[int, float] = {}

    def attempt(number: int) -> None:
        if number not in found:
            middles = fit(vectors, number, metric, seed, trials=1)
            labels = middles.assign(vectors)
            if len(np.unique(labels)) == number:
                found[number] = silhouette(gaps, labels)

    ladder = [number for number in LADDER if number < len(vectors)]
    for number in ladder:
        attempt(number)
    if not found:
        return ChosenNumber(1, 0.0, 1)
    best = _best(found)
    below = max((n for n in ladder if n < best), default=best)
    above = min((n for n in ladder if n > best), default=best)
    between = range(below + 1, above)
    for number in between[:: max(1, len(between) // 8)]:
        attempt(number)
    best = _best(found)
    return ChosenNumber(best, found[best], max(found))


def silhouette(gaps: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the mean silhouette; a row alone in its cluster counts as 0.  (n, n), (n,) -> float"""
    names, labels = np.unique(labels, return_inverse=True)
    member = np.eye(len(names))[labels]
    sizes = member.sum(axis=0)
    sums = gaps @ member
    rows = np.arange(len(labels))
    own_size = sizes[labels]
    own = sums[rows, labels] / np.maximum(own_size - 1, 1)
    means = sums / sizes
    means[rows, labels] = np.inf
    other = means.min(axis=1)
    largest = np.maximum(own, other)
    values = np.where(
        (own_size > 1) & (largest > 0), (other - own) / np.where(largest > 0, largest, 1), 0
    )
    return float(values.mean())


def _gaps(vectors: Floats, metric: Metric) -> NDArray[np.float64]:
    """The distances between all rows.  (n, D) -> (n, n)"""
    wide = vectors.astype(np.float64)
    products = wide @ wide.T
    if metric == "cosine":
        gaps = (1 - products).clip(0)
    else:
        squares = np.diagonal(products)
        gaps = np.sqrt((squares[:, None] + squares - 2 * products).clip(0))
    np.fill_diagonal(gaps, 0)
    return cast(NDArray[np.float64], gaps)


def _best(found: dict[int, float]) -> int:
    highest = max(found.values())
    return min(number for number, value in found.items() if value >= highest - EQUAL)
