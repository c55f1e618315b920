"""Numbers into charts: lines and reliability as SVG, a confusion matrix as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vitcli.render.document import render
from vitcli.render.heat import file_bytes
from vitcli.render.sheet import cut

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")
ACROSS, DOWN = (52, 448), (228, 16)  # pixels of the axes in a chart
INK = (37, 99, 235)  # colour of a full cell
MAX_NUMBERED = 40  # classes of a matrix with names and numbers
MAX_SIDE = 1600  # pixels of a matrix without them
MAX_NAME = 236  # pixels of a class name next to its row


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


def lines_svg(title: str, lines: Sequence[Line], *, x_label: str = "epoch") -> str:
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
        "chart.svg",
        title=title,
        x=_Axis(min(xs), max(xs), *ACROSS),
        y=_Axis(y_ticks[0], y_ticks[-1], *DOWN),
        x_ticks=_named(_ticks(min(xs), max(xs), whole=True)),
        y_ticks=_named(y_ticks),
        x_label=x_label,
        lines=list(zip(kept, cycle(COLOURS), strict=False)),
    )


def reliability_svg(bins: Sequence[tuple[float, float, int, float]]) -> str:
    """A chart of accuracy against confidence. Each bin is (low, high, images, accuracy). On the
    diagonal both are equal; a bar with more images is darker."""
    ticks = _named((0, 0.2, 0.4, 0.6, 0.8, 1))
    most = max((count for _, _, count, _ in bins), default=1) or 1
    return render(
        "chart.svg",
        title="Reliability",
        x=_Axis(0, 1, *ACROSS),
        y=_Axis(0, 1, *DOWN),
        x_ticks=ticks,
        y_ticks=ticks,
        x_label="confidence",
        bars=[
            _Bar(low, high, accuracy, f"{count:,} images, {accuracy:.1%} right", count / most)
            for low, high, count, accuracy in bins
            if count
        ],
        marks=[((0, 0), (1, 1), "")],
    )


def histogram_svg(
    title: str, edges: Sequence[float], counts: Sequence[int], mark: float | None = None
) -> str:
    """A chart of how many values are in each bin, on a logarithmic axis, with a line at `mark`.
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
        marks = [((at, y.low), (at, y.high), f"{mark:.6g}")]
    return render(
        "chart.svg",
        title=title,
        x=x,
        y=y,
        x_ticks=[(place, labels[place]) for place in range(0, len(edges), every)],
        y_ticks=[(decade, f"{10**decade:,}") for decade in decades],
        x_label="score",
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
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def confusion_png(labels: Sequence[str], counts: NDArray[np.int64]) -> bytes:
    """A confusion matrix: true labels in rows, predicted labels in columns, shaded by the share of
    the row. Up to MAX_NUMBERED classes are shown with names and numbers."""
    K = len(labels)
    is_numbered = K <= MAX_NUMBERED
    cell = 34 if is_numbered else max(1, min(12, MAX_SIDE // K))
    font = ImageFont.load_default(13)
    names = [cut(label, font, MAX_NAME) for label in labels] if is_numbered else []
    margin = 24 + max((int(font.getlength(name)) for name in names), default=0)
    side = margin + K * cell + 12
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shades = _shades(shares).repeat(cell, axis=0).repeat(cell, axis=1)
    picture.paste(Image.fromarray(shades), (margin, margin))
    if is_numbered:
        for place, label in enumerate(names):
            middle = margin + (place + 0.5) * cell
            draw.text((margin - 6, middle), label, "#222", font, anchor="rm")
            _upright(picture, label, font, (int(middle), margin - 6))
        for row, column in zip(*np.nonzero(counts), strict=True):
            at = margin + (column + 0.5) * cell, margin + (row + 0.5) * cell
            ink = "white" if shares[row, column] > 0.5 else "#222"
            draw.text(at, f"{counts[row, column]}", ink, ImageFont.load_default(11), anchor="mm")
    draw.rectangle((margin - 1, margin - 1, margin + K * cell, margin + K * cell), outline="#999")
    draw.text((6, 6), "rows true, columns answered", "#666")
    return file_bytes(picture, "PNG", optimize=True)


def _shades(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colour shares from white to INK. Even the smallest share above zero is visible."""
    seen = np.where(shares > 0, 0.08 + 0.92 * shares, 0.0)[..., None]
    return (255 + (np.array(INK) - 255) * seen).astype(np.uint8)


def _upright(
    picture: Image.Image,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    bottom: tuple[int, int],
) -> None:
    """Draw text that reads from bottom to top."""
    strip = Image.new("RGB", (int(font.getlength(text)) + 2, 18), "white")
    ImageDraw.Draw(strip).text((0, 1), text, "#222", font)
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    picture.paste(turned, (bottom[0] - 9, max(0, bottom[1] - turned.height)))
