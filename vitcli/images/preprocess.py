"""Make a model's pixels from RGB images, bit for bit as transformers and timm do.

Both libraries resize with Pillow on uint8, so this module repeats their arithmetic of sizes
and offsets: transformers' `image_transforms.py` and `image_processing_backends.py`, timm's
`data/transforms_factory.py` and `data/transforms.py` with torchvision's `Resize` and `CenterCrop`.
`torch_resize` is for processors that resize tensors.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitcli.images.torch_resize import resize_floats, resize_image
from vitcli.records import Box, PixelArray, Preprocess, Size

# A strip of 1 x 50,000 pixels, resized to 224 by its shorter edge, would be 224 x 11 million.
MAX_RESIZED_PIXELS = 256_000_000

# Scales of an image are distinguished down to this difference, as in transformers.
FINEST_SCALE = 1e-5

# Pillow first reduces an image by whole numbers, to no less than this many times the target.
REDUCING_GAP = 4.0

# The turns that swap height and width.
ACROSS = frozenset(
    {
        Image.Transpose.TRANSPOSE,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
        Image.Transpose.ROTATE_270,
    }
)


def preprocess(image: Image.Image, plan: Preprocess) -> PixelArray:
    """RGB image -> `plan.dtype` (H, W, 3) of `plan.size`, if the plan does not vary

    Raises ValueError if a resize gets too large.
    """
    if plan.resize is not None:
        height, width = resized_size((image.height, image.width), plan)
        if plan.resizer == "floats":
            return _cut(resize_floats(np.asarray(image), (height, width), plan.resample), plan)
        if plan.resizer == "torch":
            return _cut(resize_image(image, (height, width), plan.resample), plan)
        image = image.resize((width, height), _filter(plan))
    return _cut(np.asarray(image), plan)


def preprocessed(pixels: NDArray[np.uint8], plan: Preprocess) -> PixelArray:
    """Preprocess an array.  (h, w, 3) -> (H, W, 3)"""
    return preprocess(Image.fromarray(pixels), plan).copy()


def preprocess_fast(
    image: Image.Image, plan: Preprocess, turn: Image.Transpose | None, full: Size, scale: int
) -> PixelArray:
    """Preprocess faster, to pixels that are close, not equal: reduce, resize bytes, then turn.

    -> `plan.dtype` (H, W, 3). `image` is not turned yet; its (height, width) is `full` divided by
    `scale`.
    """
    height, width = stored_target(full, plan, turn)
    box = (0, 0, full[1] / scale, full[0] / scale)
    image = image.resize((width, height), _filter(plan), box, REDUCING_GAP)
    return _cut(np.asarray(image if turn is None else image.transpose(turn)), plan)


def stored_target(full: Size, plan: Preprocess, turn: Image.Transpose | None) -> Size:
    """Return the resized size of an image of size `full`, both as stored, before the turn."""
    if turn not in ACROSS:
        return resized_size(full, plan)
    height, width = resized_size((full[1], full[0]), plan)
    return width, height


def seen(size: Size, plan: Preprocess) -> Box:
    """Return the part of an upright image (height, width) that the model sees, as fractions of its
    sides; below 0 and above 1 is padding."""
    if plan.varies:
        return 0.0, 0.0, 1.0, 1.0
    resized = size if plan.resize is None else resized_size(size, plan)
    offsets = [
        _offsets(length, target, plan.crop)
        for length, target in zip(resized, plan.size, strict=True)
    ]
    (top, bottom), (left, right) = offsets
    height, width = resized
    return top / height, left / width, bottom / height, right / width


def _filter(plan: Preprocess) -> Image.Resampling:
    return Image.Resampling[plan.resample.upper()]


def _cut(pixels: PixelArray, plan: Preprocess) -> PixelArray:
    """Crop the middle `plan.size`, and pad a side that is too short.  (h, w, 3) -> (H, W, 3)"""
    if plan.varies:
        return np.ascontiguousarray(pixels, plan.dtype)
    (height, width), sides = plan.size, zip(pixels.shape, plan.size, strict=False)
    (top, bottom), (left, right) = (_offsets(*side, plan.crop) for side in sides)
    inside = pixels[max(0, top) : bottom, max(0, left) : right]
    if inside.shape[:2] != plan.size:
        canvas = np.full((height, width, 3), plan.fill, pixels.dtype)
        canvas[max(0, -top) :, max(0, -left) :][: inside.shape[0], : inside.shape[1]] = inside
        inside = canvas
    return np.ascontiguousarray(inside, plan.dtype)


def resized_size(size: Size, plan: Preprocess) -> Size:
    """Return the size after resizing and before the crop.  (height, width) -> (height, width)

    Raises ValueError if it is too large.
    """
    height, width = _fitted(size, plan)
    if height * width > MAX_RESIZED_PIXELS:
        raise ValueError(f"an image of {size[1]}x{size[0]} would be resized to {width}x{height}")
    return height, width


def _fitted(size: Size, plan: Preprocess) -> Size:
    height, width = size
    assert plan.resize is not None
    target = plan.resize
    match plan.fit:
        case "squash":
            return target
        case "shortest":
            if plan.longest is not None:
                return _shortest_capped(size, target[0], plan.longest)
            if height <= width:
                return target[0], int(target[0] * width / height)
            return int(target[0] * height / width), target[0]
        case "cover" | "contain":
            ratios = height / target[0], width / target[1]
            ratio = min(ratios) if plan.fit == "cover" else max(ratios)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        case "patches":
            rows, columns = patch_grid(size, plan.patch, plan.max_patches)
            return rows * plan.patch, columns * plan.patch


def patch_grid(size: Size, patch: int, most: int) -> Size:
    """Return the largest grid of at most `most` patches for an image of this (height, width).

    The scale of the image is found by bisection, and each side is rounded up to whole patches, as
    in transformers' get_image_size_for_max_num_patches (siglip2/image_processing_siglip2.py).
    """

    def grid(scale: float) -> Size:
        rows, columns = (max(1, math.ceil(side * scale / patch)) for side in size)
        return rows, columns

    low, high = FINEST_SCALE / 10, 100.0
    while high - low >= FINEST_SCALE:
        scale = (low + high) / 2
        rows, columns = grid(scale)
        low, high = (scale, high) if rows * columns <= most else (low, scale)
    return grid(low)


def _shortest_capped(size: Size, shortest: int, longest: int) -> Size:
    """Compute transformers' get_size_with_aspect_ratio: the cap shrinks the shorter edge, too."""
    height, width = size
    short, long = float(min(size)), float(max(size))
    edge = float(shortest)
    if long / short * shortest > longest:
        edge = longest * short / long
        shortest = round(edge)
    if min(size) == shortest:
        return size
    if width < height:
        return int(edge * height / width), shortest
    return shortest, int(edge * width / height)


def _offsets(length: int, target: int, crop: str) -> tuple[int, int]:
    """Return the start and the end of the crop; a negative start is padding.

    transformers floors the offset. torchvision rounds it half to even when it crops, and floors
    the padding on the first side. transformers' fast processors floor both.
    """
    if crop == "hf":
        start = (length - target) // 2
    elif length < target:
        start = -((target - length) // 2)
    else:
        start = (length - target) // 2 if crop == "hf-fast" else round((length - target) / 2)
    return start, start + target
