"""Numbers into charts as HTML with SVG, which are as wide as their place on a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from vitcli.render.document import render

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")
ACROSS, DOWN = (0, 1000), (1000, 0)  # the axes in a chart


@dataclass(frozen=True, slots=True)
class Line:
    """A named series of points."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]

    def points(self) -> list[tuple[float, float]]:
        return list(zip(self.xs, self.ys, strict=True))


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class _Bar:
    """A bar from `low` to `high`, darker the larger the `share`; `hint` is its tooltip."""

    low: float
    high: float
    value: float
    hint: str
    share: float = 1.0

    @property
    def opacity(self) -> str:
        return f"{0.25 + 0.75 * self.share**0.5:.2f}"


def lines_chart(title: str, lines: Sequence[Line], *, x_label: str = "epoch") -> str:
    """A chart of lines with axes, grid and legend. Points that are not finite are left out."""
    kept = [
        Line(line.name, *zip(*points, strict=True))
        for line in lines
        if (points := [p for p in line.points() if math.isfinite(p[1])])
    ]
    if not kept:
        return ""
    xs, ys = [x for line in kept for x in line.xs], [y for line in kept for y in line.ys]
    y_ticks = _ticks(min(ys), max(ys))
    return render(
        "chart.html",
        title=title,
        x=_Axis(min(xs), max(xs), *ACROSS),
        y=_Axis(y_ticks[0], y_ticks[-1], *DOWN),
        x_ticks=_named(_ticks(min(xs), max(xs), whole=True)),
        y_ticks=_named(y_ticks),
        x_label=x_label,
        lines=list(zip(kept, cycle(COLOURS), strict=False)),
        bars=(),
        marks=(),
    )


def reliability_chart(bins: Sequence[tuple[float, float, int, float]]) -> str:
    """A chart of accuracy against confidence. Each bin is (low, high, images, accuracy). On the
    diagonal both are equal; a bar with more images is darker."""
    ticks = _named((0, 0.2, 0.4, 0.6, 0.8, 1))
    most = max((count for _, _, count, _ in bins), default=1) or 1
    return render(
        "chart.html",
        title="Reliability",
        x=_Axis(0, 1, *ACROSS),
        y=_Axis(0, 1, *DOWN),
        x_ticks=ticks,
        y_ticks=ticks,
        x_label="confidence",
        lines=(),
        bars=[
            _Bar(low, high, accuracy, f"{count:,} images, {accuracy:.1%} right", count / most)
            for low, high, count, accuracy in bins
            if count
        ],
        marks=[((0, 0), (1, 1), "")],
    )


def histogram_chart(
    title: str,
    edges: Sequence[float],
    counts: Sequence[int],
    mark: float | None = None,
    what: str = "",
) -> str:
    """A chart of how many values are in each bin, on a logarithmic axis, with a line at `mark`,
    which is called `what`.
    There is one edge more than counts. Bins are drawn equally wide, whatever their edges, so that
    fine ones can be seen. Without values there is no chart."""
    if not any(counts):
        return ""
    places = range(len(counts))
    decades = range(math.ceil(math.log10(max(counts))) + 1)
    x, y = _Axis(0, len(counts), *ACROSS), _Axis(-0.3, max(decades[-1], 0.3), *DOWN)
    labels = _labels(edges)
    every = max(math.ceil(len(edges) / 8), math.ceil(len(edges) * max(map(len, labels)) / 60))
    marks = []
    if mark is not None:
        at = float(np.interp(mark, edges, np.arange(len(edges))))
        marks = [((at, y.low), (at, y.high), f"{what} {mark:.6g}".strip())]
    return render(
        "chart.html",
        title=title,
        x=x,
        y=y,
        x_ticks=[(place, labels[place]) for place in range(0, len(edges), every)],
        y_ticks=[(decade, f"{10**decade:,}") for decade in decades],
        x_label="score",
        lines=(),
        bars=[
            _Bar(place, place + 1, math.log10(counts[place]), f"{low} to {high}: {count:,}")
            for place, low, high in zip(places, labels, labels[1:], strict=False)
            if (count := counts[place])
        ],
        marks=marks,
    )


def _labels(edges: Sequence[float]) -> list[str]:
    """Edges with as few digits as tell them apart."""
    for digits in range(1, 17):
        labels = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(labels)) == len(set(edges)):
            break
    return labels


def _named(ticks: Sequence[float]) -> list[tuple[float, str]]:
    return [(tick, f"{tick:g}") for tick in ticks]


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Four to nine round numbers that cover a range, or whole numbers inside it."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(f for f in (1, 2, 5, 10) if span / (step * f) <= 7)
    if whole:
        step = max(1.0, step)
        return [x for x in np.arange(math.ceil(low / step) * step, high + 1e-9, step).tolist()]
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:  # below a positive number: an accuracy of 1 has no room above it
        first, last = (first - 1, last) if first > 0 else (first, last + 1)
    return [round(i * step, 10) for i in range(first, last + 1)]
