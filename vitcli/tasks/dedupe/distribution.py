"""The distribution of the best scores, as text and as a chart."""

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
WIDTH, HEIGHT = 400, 150  # of the bars in the page, which a telephone shows at about this size
TOP, LABELS = 18, 52  # above and below the bars


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


def as_svg(bins: Sequence[Bin], threshold: float) -> str:
    """Draw the bins as an SVG, whose colours are those of the page; labels stand upright."""
    if not bins:
        return ""
    most = max(bin.count for bin in bins)
    step = WIDTH / len(bins)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {TOP + HEIGHT + LABELS}" role="img" class="chart" '
        'xmlns="http://www.w3.org/2000/svg"><title>Best score of each image</title>'
    ]
    line = None
    for at, bin in enumerate(bins):
        tall = HEIGHT * bin.count / most
        is_twin = bin.low >= threshold
        if bin.low <= threshold < bin.high or (line is None and is_twin):
            share = max(0.0, (threshold - bin.low) / (bin.high - bin.low))
            line = (at + share) * step
        middle = (at + 0.5) * step + 4
        parts.append(
            f'<rect x="{at * step + 1:.1f}" y="{TOP + HEIGHT - tall:.1f}" width="{step - 2:.1f}" '
            f'height="{tall:.1f}" fill="currentColor" opacity="{1 if is_twin else 0.45}">'
            f"<title>{bin.low:.5g} to {bin.high:.5g}: {bin.count:,}</title></rect>"
            f'<text x="{middle:.1f}" y="{TOP + HEIGHT + 6}" text-anchor="end" '
            f'transform="rotate(-90 {middle:.1f} {TOP + HEIGHT + 6})">{bin.low:.5g}</text>'
        )
    if line is not None:
        anchor = "end" if line > WIDTH / 2 else "start"
        parts.append(
            f'<line x1="{line:.1f}" x2="{line:.1f}" y1="{TOP}" y2="{TOP + HEIGHT}" class="mark"/>'
            f'<text x="{line:.1f}" y="{TOP - 5}" class="marked" text-anchor="{anchor}">'
            f"threshold {threshold:g}</text>"
        )
    return "".join([*parts, "</svg>"])
