"""Make random views of RGB images, the pixels of training.

The random numbers depend only on (seed, epoch, index of the image): not on the number of workers,
the order in which they finish, or where a run was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from vitcli.images.decode import decode
from vitcli.images.preprocess import preprocess
from vitcli.records import Failure, ImageRef, Limits, PixelArray, Preprocess, Sample

Level = Literal["none", "light", "medium", "strong"]
Draw = np.random.Generator
MAX_TRIES = 10  # to find a crop inside the image, as torchvision's RandomResizedCrop
GREY = (128, 128, 128)


@dataclass(frozen=True, slots=True)
class Augment:
    """The distribution of views. A crop keeps a fraction of the image in the range `scale`, with a
    width / height in the range `ratio`. Colours change by at most `jitter`, the hue by at most
    `hue` of the circle. `rand` is RandAugment's number of operations and their strength, at most
    10; `flip` and `erase` are the probabilities of a flip and of noise in a rectangle."""

    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.0
    hue: float = 0.0
    rotate: float = 0.0
    rand: tuple[int, float] | None = None
    erase: float = 0.0

    def __call__(self, image: Image.Image, plan: Preprocess, draw: Draw) -> NDArray[np.uint8]:
        """RGB image -> uint8 (H, W, 3) of `plan.size`"""
        resample = Image.Resampling[plan.resample.upper()]
        box = _crop(image, self.scale, self.ratio, draw)
        image = image.resize((plan.size[1], plan.size[0]), resample, box)
        if draw.random() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rotate:
            angle = draw.uniform(-self.rotate, self.rotate)
            image = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=GREY)
        if self.rand:
            image = _rand_augment(image, *self.rand, draw)
        if self.jitter:
            image = _jitter(image, self.jitter, self.hue, draw)
        pixels = np.array(image)
        if draw.random() < self.erase:
            _erase(pixels, draw)
        return pixels


LEVELS: dict[Level, Augment | None] = {
    "none": None,  # the model's own preprocessing
    "light": Augment(scale=(0.6, 1.0)),
    "medium": Augment(scale=(0.35, 1.0), jitter=0.3, rotate=10.0),
    "strong": Augment(scale=(0.2, 1.0), jitter=0.3, hue=0.05, rand=(2, 9.0), erase=0.25),
}


@dataclass(frozen=True, slots=True)
class AugmentJob:
    """Decode an image into its view in an epoch: `ref.index` is epoch * count + image index."""

    plan: Preprocess
    augment: Augment | None
    seed: int
    count: int
    limits: Limits = Limits()
    formats: str = "common"

    @property
    def imports_torch(self) -> bool:
        return self.augment is None and replace(self.plan, decode="exact").resizes_with_torch

    def __call__(self, ref: ImageRef, *more: Any) -> Sample | Failure:
        finish: Callable[[Image.Image, Preprocess], PixelArray] = preprocess
        if self.augment is not None:
            epoch, place = divmod(ref.index, self.count)
            draw = np.random.default_rng((self.seed, epoch, place))
            finish = partial(self.augment, draw=draw)
        plan = replace(self.plan, decode="exact")
        return decode(ref, (plan,), self.limits, self.formats, finish)


def _crop(
    image: Image.Image, scale: tuple[float, float], ratio: tuple[float, float], draw: Draw
) -> tuple[float, float, float, float]:
    """Draw a crop; if none fits, return the largest central one of an allowed shape."""
    width, height = image.size
    for _ in range(MAX_TRIES):
        area = width * height * draw.uniform(*scale)
        shape = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left = int(draw.integers(0, width - w + 1))
            top = int(draw.integers(0, height - h + 1))
            return left, top, left + w, top + h
    wide, high = min(width, height * ratio[1]), min(height, width / ratio[0])
    return (width - wide) / 2, (height - high) / 2, (width + wide) / 2, (height + high) / 2


def _jitter(image: Image.Image, amount: float, hue: float, draw: Draw) -> Image.Image:
    """Change brightness, contrast and saturation in random order, then hue."""
    kinds = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for place in draw.permutation(len(kinds)):
        image = kinds[place](image).enhance(draw.uniform(1 - amount, 1 + amount))
    if hue:
        bands = list(image.convert("HSV").split())
        shift = round(draw.uniform(-hue, hue) * 256)
        turned = (np.asarray(bands[0]).astype(np.int16) + shift) % 256
        bands[0] = Image.fromarray(turned.astype(np.uint8))
        image = Image.merge("HSV", bands).convert("RGB")
    return image


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY
    )


def _enhanced(kind: type, image: Image.Image, strength: float) -> Image.Image:
    changed: Image.Image = kind(image).enhance(1 + 0.9 * strength)
    return changed


# RandAugment (arXiv 1909.13719): an image and a strength from -1 to 1.
OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda image, s: ImageOps.autocontrast(image),
    lambda image, s: ImageOps.equalize(image),
    lambda image, s: ImageOps.posterize(image, 8 - round(4 * abs(s))),
    lambda image, s: ImageOps.solarize(image, 256 - round(256 * abs(s))),
    lambda image, s: image.rotate(30 * s, Image.Resampling.BILINEAR, fillcolor=GREY),
    lambda image, s: _affine(image, 1, 0.3 * s, 0, 0, 1, 0),
    lambda image, s: _affine(image, 1, 0, 0, 0.3 * s, 1, 0),
    lambda image, s: _affine(image, 1, 0, 0.45 * s * image.width, 0, 1, 0),
    lambda image, s: _affine(image, 1, 0, 0, 0, 1, 0.45 * s * image.height),
    partial(_enhanced, ImageEnhance.Color),
    partial(_enhanced, ImageEnhance.Contrast),
    partial(_enhanced, ImageEnhance.Brightness),
    partial(_enhanced, ImageEnhance.Sharpness),
)


def _rand_augment(image: Image.Image, number: int, strength: float, draw: Draw) -> Image.Image:
    """Draw `number` operations with strengths around `strength`, at most 10; apply about half."""
    for place in draw.integers(0, len(OPERATIONS), number):
        amount = float(np.clip(draw.normal(strength, 0.5), 0, 10)) / 10
        sign = -1 if draw.random() < 0.5 else 1
        if draw.random() < 0.5:
            image = OPERATIONS[place](image, sign * amount)
    return image


def _erase(pixels: NDArray[np.uint8], draw: Draw) -> None:
    """Write noise into a rectangle of 2 to 33 % of the image (arXiv 1708.04896)."""
    H, W, _ = pixels.shape
    area = H * W * draw.uniform(0.02, 1 / 3)
    shape = math.exp(draw.uniform(math.log(0.3), math.log(1 / 0.3)))
    h, w = (
        min(side, max(1, round(x)))
        for side, x in ((H, math.sqrt(area * shape)), (W, math.sqrt(area / shape)))
    )
    top, left = draw.integers(0, H - h + 1), draw.integers(0, W - w + 1)
    pixels[top : top + h, left : left + w] = draw.integers(0, 256, (h, w, 3), np.uint8)
