"""A map of a few hundred values into a heat map that lies on a photograph where it belongs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitcli.records import Box

Colours: TypeAlias = Literal["inferno", "viridis", "turbo", "hot", "gray"]
FileFormat: TypeAlias = Literal["png", "jpg"]
Map: TypeAlias = NDArray[np.float32]

UNSEEN = 0.35  # of the contrast is left where the model has not looked at all
SHADE = 0.25  # of the brightness is left outside a mask


@cache
def tables() -> dict[str, bytes]:
    """256 colours of three bytes for each name."""
    text = files("vitcli.render").joinpath("colours.txt").read_text("ascii")
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {name: bytes.fromhex(colours) for name, colours in lines}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a map lies on a picture of `size` (width, height): on `box` (left, top, right, bottom)
    in its pixels, which may reach beyond it."""

    size: tuple[int, int]
    box: tuple[int, int, int, int]

    @classmethod
    def of(cls, size: tuple[int, int], shares: Box) -> Place:
        """`shares` is the box in shares of height and width: top, left, bottom, right."""
        top, left, bottom, right = shares
        width, height = size
        begin = round(left * width), round(top * height)
        end = round(right * width), round(bottom * height)
        return cls(size, (*begin, max(begin[0] + 1, end[0]), max(begin[1] + 1, end[1])))

    @property
    def inside(self) -> tuple[int, int, int, int]:
        """What of the box is on the picture."""
        left, top, right, bottom = self.box
        return max(0, left), max(0, top), min(self.size[0], right), min(self.size[1], bottom)

    def spread(self, levels: Image.Image, how: Image.Resampling) -> Image.Image:
        """A map's pixels over what is inside."""
        left, top, right, bottom = self.box
        # Only what is inside is made: a strip of a picture may be padded to a thousand times it.
        inside = self.inside
        size = inside[2] - inside[0], inside[3] - inside[1]
        across, down = levels.width / (right - left), levels.height / (bottom - top)
        part = (
            (inside[0] - left) * across,
            (inside[1] - top) * down,
            (inside[2] - left) * across,
            (inside[3] - top) * down,
        )
        return levels.resize(size, how, box=part)


def levels_of(values: Map) -> Image.Image:
    """From the smallest value to the largest, 0 to 255.  (h, w) -> L"""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def heated(values: Map, place: Place, colours: Colours) -> Image.Image:
    """The map in colours, as large as what it lies on.  (h, w) -> RGB"""
    spread = place.spread(levels_of(values), Image.Resampling.BICUBIC)
    spread.putpalette(tables()[colours])
    return spread.convert("RGB")


def overlay(
    photo: Image.Image, values: Map, place: Place, colours: Colours, alpha: float
) -> Image.Image:
    """The map on the photo, with `alpha` of it seen; what the model did not see is grey."""
    heat = heated(values, place, colours)
    blended = Image.blend(photo.crop(place.inside), heat, alpha)
    if blended.size == photo.size:
        return blended
    out = unseen(photo)
    out.paste(blended, place.inside)
    return out


def heatmap(values: Map, place: Place, colours: Colours) -> Image.Image:
    """The map alone; grey where the model did not see."""
    out = Image.new("RGB", place.size, (128, 128, 128))
    out.paste(heated(values, place, colours), place.inside)
    return out


def unseen(photo: Image.Image) -> Image.Image:
    """Without colours, and pale."""
    grey = photo.convert("L").convert("RGB")
    return Image.blend(Image.new("RGB", photo.size, (128, 128, 128)), grey, UNSEEN)


def mask(photo: Image.Image, values: Map, place: Place, mass: float) -> Image.Image:
    """The photo where the patches are that hold `mass` of all attention; the rest is dark."""
    kept = Image.fromarray(heaviest(values, mass).astype(np.uint8) * 255)
    light = Image.new("L", photo.size, 0)
    light.paste(place.spread(kept, Image.Resampling.NEAREST), place.inside)
    dark = Image.blend(Image.new("RGB", photo.size), photo, SHADE)
    return Image.composite(photo, dark, light)


def heaviest(values: Map, mass: float) -> NDArray[np.bool_]:
    """The fewest patches that hold `mass` of the sum, as DINO's `visualize_attention.py` has it;
    the one that crosses the line is in.  (h, w) -> (h, w)"""
    flat = values.ravel().astype(np.float64) - min(0.0, float(values.min()))
    order = np.argsort(-flat, kind="stable")
    before = np.cumsum(flat[order]) - flat[order]
    kept = np.zeros(flat.shape, np.bool_)
    kept[order[before < mass * flat.sum()]] = True
    return kept.reshape(values.shape)


def fitted(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """(width, height) with `longest` as its longer side."""
    if longest is None:
        return size
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def encoded(image: Image.Image, format: FileFormat) -> bytes:
    """The bytes of a file."""
    stream = io.BytesIO()
    if format == "png":
        image.save(stream, "PNG", compress_level=1)  # four times as fast as 6, a tenth larger
    else:
        image.save(stream, "JPEG", quality=88)
    return stream.getvalue()
