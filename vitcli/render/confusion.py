"""A confusion matrix as PNG: true labels in rows, predicted labels in columns.

It stays readable with any number of classes. Up to MAX_NUMBERED have names and numbers, up to
MAX_NAMED have names; of more, the picture shows the MAX_NUMBERED that are confused most often, with
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vitcli.render.heat import file_bytes
from vitcli.render.sheet import Font, cut

MAX_NUMBERED, MAX_NAMED = 40, 120
LARGE, SMALL = 48, 20  # pixels of a cell with and without a number
MAX_NAME = 320  # pixels of a class name
MIN_WIDTH = 560  # pixels of a picture, for its title
EDGE, GAP = 24, 8
SCALE = 22  # pixels of the width of the colour scale
INK = (37, 99, 235)  # colour of a full cell
BLACK, GREY, LINE = "#18181b", "#63636e", "#8a8a94"


@dataclass(frozen=True, slots=True)
class Shown:
    """The classes of the picture and their counts (K, K), and a note if there are more."""

    labels: Sequence[str]
    counts: NDArray[np.int64]
    totals: NDArray[np.int64]  # images of each row, also those of classes that are not shown
    note: str = ""

    @property
    def has_numbers(self) -> bool:
        return len(self.labels) <= MAX_NUMBERED


def most_confused(labels: Sequence[str], counts: NDArray[np.int64]) -> Shown:
    """All classes, or those of the pairs that are confused most often, in their order."""
    totals = counts.sum(axis=1)
    if len(labels) <= MAX_NAMED:
        return Shown(labels, counts, totals)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    truths, answers = np.nonzero(wrong)
    order = np.argsort(-wrong[truths, answers], kind="stable")
    pairs = np.stack([truths[order], answers[order]], axis=1).ravel().tolist()
    frequent = np.argsort(-totals, kind="stable").tolist()
    kept = sorted(islice(dict.fromkeys(chain(pairs, frequent)), MAX_NUMBERED))
    counted = counts[np.ix_(kept, kept)]
    inside, all_ = int(counted.sum() - counted.trace()), int(wrong.sum())
    note = (
        f"the {MAX_NUMBERED} most confused of {len(labels):,} classes, with {inside:,} of "
        f"{all_:,} mistakes"
    )
    return Shown([labels[n] for n in kept], counted, totals[kept], note)


def confusion_png(labels: Sequence[str], counts: NDArray[np.int64], title: str = "") -> bytes:
    """Draw the matrix with a title and a scale; a cell is shaded by its share of the row."""
    shown = most_confused(labels, counts)
    cell = LARGE if shown.has_numbers else SMALL
    font = ImageFont.load_default(18 if shown.has_numbers else 15)
    names = [cut(label, font, MAX_NAME) for label in shown.labels]
    side, longest = cell * len(names), max((int(font.getlength(name)) for name in names), default=0)
    small = ImageFont.load_default(16)
    meaning = "numbers are images, " * shown.has_numbers + "colours are shares of a row"
    notes = [title or "Confusion", shown.note, meaning]
    heads = [line for line in notes if line]
    left = EDGE + 26 + longest + GAP
    top = EDGE + 26 * len(heads) + 30 + longest + GAP
    width = max(left + side + GAP * 3 + SCALE + 70, MIN_WIDTH)
    picture = Image.new("RGB", (width, top + max(side, 4 * LARGE) + EDGE), "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(heads):
        style = (BLACK, ImageFont.load_default(20)) if number == 0 else (GREY, small)
        draw.text((EDGE, EDGE + 26 * number), cut(line, style[1], width - 2 * EDGE), *style)
    shares = shown.counts / np.maximum(shown.totals[:, None], 1)
    shades = _shades(shares).repeat(cell, axis=0).repeat(cell, axis=1)
    picture.paste(Image.fromarray(shades), (left, top))
    for place, name in enumerate(names):
        middle = int((place + 0.5) * cell)
        draw.text((left - GAP, top + middle), name, BLACK, font, anchor="rm")
        _upright(picture, name, font, BLACK, (left + middle, top - GAP))
    if shown.has_numbers:
        _number(draw, shown.counts, shares, (left, top))
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=LINE)
    centre, above = left + side // 2, top - GAP - longest - 28
    room = font.getlength("predicted label") / 2
    draw.text((max(centre, left + room), above), "predicted label", GREY, small, anchor="ma")
    _upright(picture, "true label", small, GREY, (EDGE + 8, top + side // 2 + 36))
    _scale(picture, (left + side + 3 * GAP, top), max(side, 4 * LARGE))
    return file_bytes(picture, "PNG", optimize=True)


def _number(
    draw: ImageDraw.ImageDraw,
    counts: NDArray[np.int64],
    shares: NDArray[np.float64],
    corner: tuple[int, int],
) -> None:
    """Write the counts into their cells, in a size in which the longest fits."""
    longest = f"{counts.max(initial=0)}"
    size = next(n for n in range(17, 7, -1) if n == 8 or _width(longest, n) <= LARGE - 6)
    font = ImageFont.load_default(size)
    for row, column in zip(*np.nonzero(counts), strict=True):
        at = corner[0] + (column + 0.5) * LARGE, corner[1] + (row + 0.5) * LARGE
        ink = "white" if shares[row, column] > 0.5 else BLACK
        draw.text(at, f"{counts[row, column]}", ink, font, anchor="mm")


def _width(text: str, size: int) -> float:
    return ImageFont.load_default(size).getlength(text)


def _scale(picture: Image.Image, at: tuple[int, int], height: int) -> None:
    """Draw the colours of the shares from 0 to 100 % of a row, with their names."""
    left, top = at
    steps = np.linspace(1, 0, height)[:, None].repeat(SCALE, axis=1)
    picture.paste(Image.fromarray(_shades(steps)), at)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    draw.rectangle((left - 1, top - 1, left + SCALE, top + height), outline=LINE)
    for share in (0, 50, 100):
        place = top + round((1 - share / 100) * (height - 1))
        anchor = {0: "ls", 50: "lm", 100: "lt"}[share]
        draw.text((left + SCALE + 6, place), f"{share} %", GREY, font, anchor=anchor)


def _shades(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colour shares from white to INK. Even the smallest share above zero is visible."""
    seen = np.where(shares > 0, 0.08 + 0.92 * shares, 0.0)[..., None]
    return (255 + (np.array(INK) - 255) * seen).astype(np.uint8)


def _upright(
    picture: Image.Image, text: str, font: Font, ink: str, bottom: tuple[int, int]
) -> None:
    """Draw text that reads from bottom to top."""
    _, above, _, below = font.getbbox("Ågjpy|")
    strip = Image.new("RGB", (int(font.getlength(text)) + 2, int(below - above) + 2), "white")
    ImageDraw.Draw(strip).text((0, -above), text, ink, font)
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    place = bottom[0] - turned.width // 2, max(0, bottom[1] - turned.height)
    picture.paste(turned, place)
