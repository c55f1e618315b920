"""Maps of a few hundred values into heat maps, drawn at their places on the image."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitcli.records import Box

Colours: TypeAlias = Literal["inferno", "viridis", "turbo", "hot", "gray"]
FileFormat: TypeAlias = Literal["png", "jpg"]
Map: TypeAlias = NDArray[np.float32]

UNSEEN = 0.35  # contrast of the parts that the model does not see
SHADE = 0.25  # brightness outside a mask


@cache
def tables() -> dict[str, bytes]:
    """The colour tables by name: 256 colours of three bytes."""
    text = files("vitcli.render").joinpath("colours.txt").read_text("ascii")
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {name: bytes.fromhex(colours) for name, colours in lines}


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a map on an image of `size` (width, height): `box` (left, top, right, bottom) in
    pixels, which may extend beyond the image."""

    size: tuple[int, int]
    box: tuple[int, int, int, int]

    @classmethod
    def of(cls, size: tuple[int, int], shares: Box) -> Place:
        """The place for a box in fractions of height and width: top, left, bottom, right."""
        top, left, bottom, right = shares
        width, height = size
        begin = round(left * width), round(top * height)
        end = round(right * width), round(bottom * height)
        return cls(size, (*begin, max(begin[0] + 1, end[0]), max(begin[1] + 1, end[1])))

    @property
    def inside(self) -> tuple[int, int, int, int]:
        """The part of the box that is on the image."""
        left, top, right, bottom = self.box
        return max(0, left), max(0, top), min(self.size[0], right), min(self.size[1], bottom)

    def spread(self, levels: Image.Image, how: Image.Resampling) -> Image.Image:
        """Resize the pixels of a map to the part of the box that is on the image."""
        left, top, right, bottom = self.box
        # The box can be a thousand times as large as the image: a narrow one is padded to a square.
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
    """Scale the values from their minimum and maximum to 0 and 255.  (h, w) -> L"""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def heated(values: Map, place: Place, colours: Colours) -> Image.Image:
    """The map in colours, in the size of its part of the image.  (h, w) -> RGB"""
    spread = place.spread(levels_of(values), Image.Resampling.BICUBIC)
    spread.putpalette(tables()[colours])
    return spread.convert("RGB")


def overlay(
    photo: Image.Image, values: Map, place: Place, colours: Colours, alpha: float
) -> Image.Image:
    """The map on the image with opacity `alpha`; parts that the model did not see are grey."""
    heat = heated(values, place, colours)
    blended = Image.blend(photo.crop(place.inside), heat, alpha)
    if blended.size == photo.size:
        return blended
    out = unseen(photo)
    out.paste(blended, place.inside)
    return out


def heatmap(values: Map, place: Place, colours: Colours) -> Image.Image:
    """The map alone; parts that the model did not see are grey."""
    out = Image.new("RGB", place.size, (128, 128, 128))
    out.paste(heated(values, place, colours), place.inside)
    return out


def unseen(photo: Image.Image) -> Image.Image:
    """The image in pale grey."""
    grey = photo.convert("L").convert("RGB")
    return Image.blend(Image.new("RGB", photo.size, (128, 128, 128)), grey, UNSEEN)


def mask(photo: Image.Image, values: Map, place: Place, mass: float) -> Image.Image:
    """The image, dark outside the patches that hold `mass` of the attention."""
    kept = Image.fromarray(heaviest(values, mass).astype(np.uint8) * 255)
    light = Image.new("L", photo.size, 0)
    light.paste(place.spread(kept, Image.Resampling.NEAREST), place.inside)
    dark = Image.blend(Image.new("RGB", photo.size), photo, SHADE)
    return Image.composite(photo, dark, light)


def heaviest(values: Map, mass: float) -> NDArray[np.bool_]:
    """The fewest patches that hold at least `mass` of the sum, as in DINO's
    `visualize_attention.py`.  (h, w) -> (h, w)"""
    flat = values.ravel().astype(np.float64) - min(0.0, float(values.min()))
    order = np.argsort(-flat, kind="stable")
    before = np.cumsum(flat[order]) - flat[order]
    kept = np.zeros(flat.shape, np.bool_)
    kept[order[before < mass * flat.sum()]] = True
    return kept.reshape(values.shape)


def fitted(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """Scale (width, height) so that the longer side is `longest`."""
    if longest is None:
        return size
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def encoded(image: Image.Image, format: FileFormat) -> bytes:
    """Return the bytes of a drawing's file."""
    if format == "png":
        return file_bytes(image, "PNG", compress_level=1)  # 4 times as fast as 6, a tenth larger
    return file_bytes(image, "JPEG", quality=88)


def file_bytes(image: Image.Image, format: str, **options: Any) -> bytes:
    """Return the bytes of an image file; the options are those of Pillow's `save`."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()
