"""Images next to each other, with captions: panels and contact sheets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PAPER = (255, 255, 255)
INK = (24, 24, 27)
FAINT = (113, 113, 122)
MIN_SIDE = 224  # pixels of an image under a caption
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


def panel(images: Sequence[Image.Image], caption: str, note: str) -> Image.Image:
    """A row of images of one size, with a caption and a note below."""
    width, height = images[0].size
    gap = max(2, width // 60)
    size = max(11, min(width, height) // 16)
    lines = [(text, ink) for text, ink in ((caption, INK), (note, FAINT)) if text]
    band = round(len(lines) * 1.45 * size + (0.6 * size if lines else 0))
    sheet = Image.new("RGB", (len(images) * (width + gap) - gap, height + band), PAPER)
    for number, image in enumerate(images):
        sheet.paste(image, (number * (width + gap), 0))
    for number, (text, ink) in enumerate(lines):
        top = height + round(0.4 * size + number * 1.45 * size)
        _write(sheet, (round(0.3 * size), top), text, size, ink, sheet.width - round(0.6 * size))
    return sheet


def captioned(pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> Image.Image:
    """A row of images of one size, uint8 (H, W, 3), under their captions. Small images are
    enlarged by a whole factor."""
    height, width = pictures[0].shape[:2]
    factor = max(1, MIN_SIDE // max(height, width))
    height, width = height * factor, width * factor
    gap, band = 8, 22
    step = width + gap
    sheet = Image.new("RGB", (step * len(pictures) + gap, height + band + gap), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = gap + number * step
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, band))
        draw.text((left, 4), caption, "#222", font)
    return sheet


def contact_sheet(
    cells: Sequence[Sequence[Image.Image]], rows: Sequence[str], columns: Sequence[str]
) -> Image.Image:
    """Rows of images of one size, with names to the left of the rows and above the columns. If all
    names are empty, they take no room."""
    width, height = cells[0][0].size
    gap = max(2, min(width, height) // 40)
    size = max(11, min(16, min(width, height) // 9))
    font = ImageFont.load_default(size)
    left = max(round(font.getlength(name)) for name in rows)
    left += size if left else 0
    top = round(1.6 * size) if any(columns) else 0
    count = max(map(len, cells))
    sheet = Image.new(
        "RGB", (left + count * (width + gap) - gap, top + len(cells) * (height + gap) - gap), PAPER
    )
    for place, name in enumerate(columns):
        at = left + place * (width + gap)
        _write(sheet, (at, round(0.2 * size)), name, size, INK, width)
    for line, (name, row) in enumerate(zip(rows, cells, strict=True)):
        at = top + line * (height + gap)
        _write(sheet, (size // 3, at + (height - size) // 2), name, size, INK, max(left, 1))
        for place, cell in enumerate(row):
            sheet.paste(cell, (left + place * (width + gap), at))
    return sheet


def labelled(image: Image.Image, name: str) -> Image.Image:
    """An image with its name below."""
    size = max(10, min(16, min(image.size) // 9))
    sheet = Image.new("RGB", (image.width, image.height + round(1.5 * size)), PAPER)
    sheet.paste(image, (0, 0))
    _write(sheet, (2, image.height + round(0.15 * size)), name, size, INK, image.width - 4)
    return sheet


def _write(
    sheet: Image.Image,
    at: tuple[int, int],
    text: str,
    size: int,
    ink: tuple[int, int, int],
    room: int,
) -> None:
    """Draw one line of text, cut to fit the room."""
    font = ImageFont.load_default(size)
    ImageDraw.Draw(sheet).text(at, cut(text, font, room), ink, font)


def cut(text: str, font: Font, room: float) -> str:
    """The text in one line, cut with an ellipsis if it is wider than `room` pixels."""
    text = " ".join(text[: int(room) + 1].splitlines())  # a letter is at least a pixel wide
    if font.getlength(text) <= room:
        return text
    fitting = bisect_right(range(len(text)), room, key=lambda n: font.getlength(text[:n] + "…"))
    return text[: fitting - 1] + "…" if fitting > 1 else ""
