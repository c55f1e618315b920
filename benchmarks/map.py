"""Measure the steps of `vit map` on an index at random.

    python benchmarks/map.py 100000 768 --folder /tmp/vectors

Prints the seconds of the principal components, of the places, of k-means with the choice of its
number, and of the clusters of all rows; the peak of the resident memory; and a hash of the results,
which is the same for any number of threads (`OMP_NUM_THREADS=1`).
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
from vectors import peak_megabytes, write_index

from vitcli.indexes.index import open_index
from vitcli.tasks.map.kmeans import assign_all, fit, sample
from vitcli.tasks.map.number import LADDER, choose_number
from vitcli.tasks.map.pca import components
from vitcli.tasks.map.rows import Rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("count", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--folder", type=Path, required=True, help="for the index; it is kept")
    parser.add_argument("--metric", choices=["cosine", "euclidean"], default="cosine")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / f"{options.count}x{options.width}-map.npy"
    write_index(file, options.count, options.width, groups=40)
    rows = Rows(open_index([str(file)]), options.metric)
    started = latest = time.perf_counter()

    def tell(what: str) -> None:
        nonlocal latest
        now = time.perf_counter()
        print(f"{what:<28} {now - latest:7.2f} s")
        latest = now

    axes = components(rows, 2, 0, lambda read: None)
    tell("principal components")
    places = np.concatenate([axes.project(block) for _, block in rows.blocks(lambda read: None)])
    tell("places")
    vectors = sample(rows, min(LADDER[-1], rows.count), 0)
    tell(f"{len(vectors):,} rows for k-means")
    chosen = choose_number(vectors, rows.metric, 0)
    tell(f"{chosen.number} clusters, chosen")
    middles = fit(vectors, min(chosen.number, rows.count), rows.metric, 0)
    tell("k-means")
    clusters, distances = assign_all(rows, middles, lambda read: None)
    tell("clusters of all rows")
    print(f"{'together':<28} {latest - started:7.2f} s, peak {peak_megabytes():.0f} MB")
    made = (np.round(places, 6) + 0.0, clusters, np.round(distances, 6) + 0.0)
    print(f"sha256 {hashlib.sha256(b''.join(part.tobytes() for part in made)).hexdigest()[:16]}")


if __name__ == "__main__":
    main()
