"""Images next to each other, under captions."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GAP, CAPTION, MIN_SIDE = 8, 22, 224  # pixels


def panels_png(pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> bytes:
    """A PNG of images of one size, uint8 (H, W, 3). Small images are enlarged by a whole factor."""
    height, width = pictures[0].shape[:2]
    factor = max(1, MIN_SIDE // max(height, width))
    height, width = height * factor, width * factor
    step = width + GAP
    sheet = Image.new("RGB", (step * len(pictures) + GAP, height + CAPTION + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = GAP + number * step
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, CAPTION))
        draw.text((left, 4), caption, "#222", font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
