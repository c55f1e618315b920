"""UMAP: a place in the plane for each row, so that neighbours stay together (McInnes, 2018).

The package umap-learn computes it. Its result is the same in each run with the same seed, and it
holds all rows in memory.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import InputError, UsageError, check_installed
from vitcli.jobs.job import Reporter
from vitcli.tasks.map.pca import components
from vitcli.tasks.map.rows import Rows, Tick

MAX_BYTES = 1 << 30  # of rows; longer ones are reduced first
REDUCED = 100  # components
NEIGHBOURS, MIN_ROWS = 15, 5


def check_umap() -> None:
    """Raise UsageError if umap-learn is not installed."""
    check_installed("--method umap", "umap", extra="map", error=UsageError)


def umap(rows: Rows, seed: int, tick: Tick, reporter: Reporter) -> NDArray[np.float64]:
    """Return the places of all rows.  -> (N, 2)

    Raises InputError for fewer than MIN_ROWS rows.
    """
    if rows.count < MIN_ROWS:
        raise InputError(
            f"--method umap needs {MIN_ROWS} images or more, and the index has {rows.count}",
            "use --method pca",
        )
    width = rows.width
    if is_reduced := rows.count * width * 4 > MAX_BYTES and width > REDUCED:
        reporter.note(
            f"UMAP reads the first {REDUCED} principal components: {rows.count:,} rows of {width} "
            "numbers take too much memory"
        )
        reduced = components(rows, REDUCED, seed, tick)
        width = REDUCED
    vectors = np.empty((rows.count, width), np.float32)
    for start, block in rows.blocks(tick):
        vectors[start : start + len(block)] = reduced.project(block) if is_reduced else block
    reporter.note(f"UMAP places {rows.count:,} images with one thread, so that a seed repeats it")
    import umap as library

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapper = library.UMAP(
            n_components=2,
            n_neighbors=min(NEIGHBOURS, rows.count - 1),
            metric="euclidean",  # of rows of length 1 it has the order of the cosine
            init="pca",
            random_state=seed % 2**32,
            n_jobs=1,
        )
        return np.asarray(mapper.fit_transform(vectors), np.float64)
