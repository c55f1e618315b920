"""Measure the comparison of `vit dedupe` beside plain products of the same size.

    python benchmarks/dedupe.py 100000 768

Prints the seconds of a pass over half of the square, its share of the rate of products alone
(measured before and after, in the same process), and the peak of the resident memory.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vitcli.indexes.index import index_of
from vitcli.tasks.dedupe.pairs import TALL, WIDE, Pass, compare, exact
from vitcli.tasks.dedupe.vectors import lengths, margin

TWINS = 100  # one row in TWINS is a near twin of another
THRESHOLD = 0.9


def write(file: Path, count: int, width: int) -> None:
    """Write rows at random, of which some are nearly the same as others."""
    rows = np.lib.format.open_memmap(file, "w+", "f4", (count, width))
    for start in range(0, count, 10_000):
        part = rows[start : start + 10_000]
        part[:] = np.random.default_rng(start).standard_normal(part.shape)
    noise = np.random.default_rng(1)
    for row in range(count // TWINS):
        rows[count - 1 - row] = rows[row] + 0.1 * noise.standard_normal(width)
    rows.flush()


def product_rate(width: int) -> float:
    """The products and sums of a second, of blocks as `compare` multiplies."""
    a = np.ones((TALL, width), np.float32)
    b = np.ones((WIDE, width), np.float32)
    out = np.empty((TALL, WIDE), np.float32)
    np.matmul(a, b.T, out=out)
    started = time.perf_counter()
    for _ in range(10):
        np.matmul(a, b.T, out=out)
    return 10 * TALL * WIDE * width / (time.perf_counter() - started)


def main(count: int, width: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npy"
        write(file, count, width)
        index = index_of(np.load(file, mmap_mode="r"), [str(row) for row in range(count)])
        before = product_rate(width)
        norms = lengths(index)
        state = Pass.start(count, THRESHOLD - margin(width))
        started = time.perf_counter()
        compare(index, norms, state, lambda done, total: None)
        seconds = time.perf_counter() - started
        rate = (before + product_rate(width)) / 2
        share = count * (count - 1) / 2 * width / seconds / rate
        found = exact(index, norms, state, THRESHOLD).count
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"{count:,} x {width}: {seconds:.1f} s, {found:,} pairs, {share:.0%} of the product")
        print(f"rate ({rate * 2 / 1e9:.0f} Gflop/s) on half of the square, peak {peak:.0f} MB")


if __name__ == "__main__":
    main(*(map(int, sys.argv[1:])))
