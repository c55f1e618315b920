"""Numbers into charts: lines and reliability as SVG, a confusion matrix as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vitcli.render.sheet import cut

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")
WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 16, 32
INK = (37, 99, 235)  # of a full cell
NUMBERED = 40  # classes, up to which cells hold their numbers
LARGEST = 1600  # pixels of a matrix of many classes


@dataclass(frozen=True, slots=True)
class Line:
    """A named series of points."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


def lines_svg(title: str, lines: Sequence[Line], *, x_label: str = "epoch") -> str:
    """A chart of lines with axes, grid and legend. Points that are not finite are left out."""
    kept = [
        Line(line.name, *zip(*points, strict=True))
        for line in lines
        if (points := [p for p in zip(line.xs, line.ys, strict=True) if math.isfinite(p[1])])
    ]
    if not kept:
        return ""
    xs, ys = [x for line in kept for x in line.xs], [y for line in kept for y in line.ys]
    x_ticks, y_ticks = _ticks(min(xs), max(xs), whole=True), _ticks(min(ys), max(ys))
    x_axis = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_axis = _Axis(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_open(title), *_grid(x_axis, y_axis, x_ticks, y_ticks, x_label)]
    for number, line in enumerate(kept):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x_axis(x), y_axis(y)) for x, y in zip(line.xs, line.ys, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(points) <= 40:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points
            ]
        at = LEFT + 8 + 110 * number
        parts.append(f'<rect x="{at}" y="{TOP - 12}" width="10" height="3" fill="{colour}"/>')
        parts.append(f'<text x="{at + 14}" y="{TOP - 7}">{escape(line.name)}</text>')
    return "".join([*parts, "</svg>"])


def reliability_svg(bins: Sequence[tuple[float, float, int, float]]) -> str:
    """Accuracy against confidence: (low, high, images, accuracy) of each bin. The diagonal is
    where they agree; a bar is as dark as it has images."""
    x_axis = _Axis(0, 1, LEFT, WIDTH - RIGHT)
    y_axis = _Axis(0, 1, HEIGHT - BOTTOM, TOP)
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    parts = [_open("Reliability"), *_grid(x_axis, y_axis, ticks, ticks, "confidence")]
    most = max((count for _, _, count, _ in bins), default=0) or 1
    for low, high, count, accuracy in bins:
        if count:
            shade = 0.25 + 0.75 * math.sqrt(count / most)
            parts.append(
                f'<rect x="{x_axis(low) + 1:.1f}" y="{y_axis(accuracy):.1f}" '
                f'width="{x_axis(high) - x_axis(low) - 2:.1f}" '
                f'height="{max(1.0, y_axis(0) - y_axis(accuracy)):.1f}" '
                f'fill="{COLOURS[0]}" fill-opacity="{shade:.2f}">'
                f"<title>{count:,} images, {accuracy:.1%} right</title></rect>"
            )
    parts.append(
        f'<line x1="{x_axis(0)}" y1="{y_axis(0)}" x2="{x_axis(1)}" y2="{y_axis(1)}" '
        'stroke="#888" stroke-dasharray="4 3"/>'
    )
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values onto pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def _open(title: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
    )


def _grid(
    x_axis: _Axis, y_axis: _Axis, xs: Sequence[float], ys: Sequence[float], x_label: str
) -> list[str]:
    parts = []
    for y in ys:
        at = y_axis(y)
        parts.append(
            f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" class="grid"/>'
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>'
        )
    for x in xs:
        at = x_axis(x)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 15}" text-anchor="middle">{x:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    label = f'<text x="{middle}" y="{HEIGHT - 2}" text-anchor="middle">{escape(x_label)}</text>'
    return [*parts, label]


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers that cover a range, or whole ones inside it; four to nine of them."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(f for f in (1, 2, 5, 10) if span / (step * f) <= 7)
    if whole:
        step = max(1.0, step)
        return [x for x in np.arange(math.ceil(low / step) * step, high + 1e-9, step).tolist()]
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


WIDEST_NAME = 236  # pixels, of a class beside its row


def confusion_png(labels: Sequence[str], counts: NDArray[np.int64]) -> bytes:
    """Rows are true, columns answered; shades are shares of a row. Up to NUMBERED classes the
    cells hold their numbers and the sides their names."""
    K = len(labels)
    numbered = K <= NUMBERED
    cell = 34 if numbered else max(1, min(12, LARGEST // K))
    font = ImageFont.load_default(13)
    names = [cut(label, font, WIDEST_NAME) for label in labels] if numbered else []
    margin = 24 + max((int(font.getlength(name)) for name in names), default=0)
    side = margin + K * cell + 12
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shades = _shades(shares).repeat(cell, axis=0).repeat(cell, axis=1)
    picture.paste(Image.fromarray(shades), (margin, margin))
    if numbered:
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
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _shades(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """White to INK; the least share can be told from none."""
    seen = np.where(shares > 0, 0.08 + 0.92 * shares, 0.0)[..., None]
    return (255 + (np.array(INK) - 255) * seen).astype(np.uint8)


def _upright(
    picture: Image.Image,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    bottom: tuple[int, int],
) -> None:
    """Text that reads from below."""
    strip = Image.new("RGB", (int(font.getlength(text)) + 2, 18), "white")
    ImageDraw.Draw(strip).text((0, 1), text, "#222", font)
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    picture.paste(turned, (bottom[0] - 9, max(0, bottom[1] - turned.height)))
