"""The distribution of the best scores, as bins and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EDGES = (
    *(-1.0, 0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.97, 0.98),
    *(0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 0.99999),
)
BAR = 36  # characters


@dataclass(frozen=True, slots=True)
class Bin:
    """Images whose best score is at least `low` and below `high`."""

    low: float
    high: float
    count: int


def bins_of(best: NDArray[np.float64], same: NDArray[np.bool_]) -> list[Bin]:
    """Count the images by their best scores; those with the same vector as another have 1."""
    scores = np.where(same, 1.0, best)
    scores = scores[np.isfinite(scores)]
    edges = np.array([*EDGES, 1.0 + 1e-9])
    counts, _ = np.histogram(np.clip(scores, -1, 1), edges)
    ends = zip(edges[:-1], edges[1:], counts, strict=True)
    bins = [Bin(float(low), min(1.0, float(high)), int(count)) for low, high, count in ends]
    used = [at for at, bin in enumerate(bins) if bin.count]
    return bins[used[0] : used[-1] + 1] if used else []


def as_text(bins: Sequence[Bin], threshold: float) -> list[str]:
    """Draw the bins as lines with bars; those that reach the threshold are marked."""
    most = max((bin.count for bin in bins), default=1)
    lines = []
    for bin in bins:
        bar = "█" * (-(-bin.count * BAR // most))
        mark = " twins" if bin.low >= threshold else " <- threshold" * (bin.high > threshold)
        lines.append(f"  {bin.low:7.5g} to {bin.high:<7.5g} {bin.count:>9,} {bar}{mark}")
    return lines
