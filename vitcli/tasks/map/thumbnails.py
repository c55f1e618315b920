"""Choose the images of a map that get a thumbnail, and make it."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import printable
from vitcli.indexes.index import Index
from vitcli.jobs.job import Reporter
from vitcli.jobs.thumbnails import thumbnails_of
from vitcli.records import Failure

SIDE = 96  # pixels of the longer side


def choose_rows(
    clusters: NDArray[np.int64] | None,
    distances: NDArray[np.float64] | None,
    count: int,
    number: int,
    seed: int,
) -> NDArray[np.int64]:
    """Choose `number` of `count` rows, in ascending order: the oddest of all, a tenth; then of each
    cluster, by its size, the most typical ones and others at random.  -> (n,)"""
    if count <= number:
        return np.arange(count)
    random = np.random.default_rng(seed)
    if clusters is None or distances is None:
        return np.sort(random.choice(count, number, replace=False))
    chosen = np.argsort(-distances, kind="stable")[: number // 10]
    left = np.setdiff1d(np.arange(count), chosen)
    order = left[np.lexsort((random.random(len(left)), clusters[left]))]
    sizes = np.bincount(clusters[left])
    shares = np.maximum(1, sizes * (number - len(chosen)) // len(left))
    taken = [chosen]
    start = 0
    for size, share in zip(sizes, shares, strict=True):
        rows = order[start : start + size]
        typical = rows[np.argsort(distances[rows], kind="stable")[: -(-share // 3)]]
        others = rows[~np.isin(rows, typical)][: share - len(typical)]
        taken += [typical, others]
        start += size
    # More clusters than thumbnails: those of the largest come first.
    return np.sort(np.concatenate(taken)[:number])


def small_images(
    index: Index, rows: NDArray[np.int64], reporter: Reporter, workers: int | None
) -> dict[int, bytes]:
    """Make the thumbnails of rows, by row. Report images that cannot be read."""

    def tick(done: int) -> None:
        reporter.steps("thumbnails", done, len(rows))

    tick(0)
    found = thumbnails_of(((int(r), index.name(int(r))) for r in rows), SIDE, workers, tick)
    failures = [made for made in found.values() if isinstance(made, Failure)]
    if failures:
        kinds = Counter(failure.type.value for failure in failures)
        words = ", ".join(f"{kind} {times:,}" for kind, times in kinds.most_common())
        first = failures[0]
        reporter.note(
            f"{len(failures):,} of {len(rows):,} images have no thumbnail ({words}): the first is "
            f"{printable(first.ref.path)}: {printable(first.message)}"
        )
    return {row: made for row, made in sorted(found.items()) if isinstance(made, bytes)}
