"""Resize images on floats with antialiasing, as torch and torchvision do.

Pillow computes its weights in double precision. torch computes those of floats in fp32, which
moves a value by up to 2e-5 of the range, and the networks see torch's. So this module computes the
same weights: ATen's `UpSampleKernel.cpp`, `upsample_bilinear2d_aa` and `upsample_bicubic2d_aa`. It
runs in the image workers, which do not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitcli.records import Resample, Size

Floats: TypeAlias = NDArray[np.float32]

STRIP = 16  # output rows or columns of one product


def _triangle(x: Floats) -> Floats:
    return np.maximum(1 - x, 0, dtype=np.float32)


def _cubic(x: Floats) -> Floats:
    """Keys's cubic with a = -0.5."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0)).astype(np.float32)


# The curve of each filter, and the distance at which it ends.
CURVES: dict[Resample, tuple[Callable[[Floats], Floats], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (_cubic, 2),
}


def resize_floats(pixels: NDArray[np.uint8], size: Size, resample: Resample) -> Floats:
    """Resize, in the same range, without rounding.  uint8 (h, w, 3) -> fp32 (H, W, 3)

    The result equals torch's up to the rounding of fp32 sums: 1e-6 of the range with *bilinear*,
    2e-6 with *bicubic*, which overshoots the range.
    """
    (h, w, _), (H, W) = pixels.shape, size
    planes = pixels.transpose(2, 0, 1)
    columns = np.empty((3, h, W), np.float32)
    for made, used, weights in _strips(w, W, resample):
        columns[..., made] = planes[..., used].astype(np.float32) @ weights.T
    rows = np.empty((3, H, W), np.float32)
    for made, used, weights in _strips(h, H, resample):
        rows[:, made] = weights @ columns[:, used]
    return np.ascontiguousarray(rows.transpose(1, 2, 0))


def _strips(length: int, target: int, resample: Resample) -> Iterator[tuple[slice, slice, Floats]]:
    """Yield the parts of a resized side: the outputs, the inputs, and the weights of the latter.

    -> slice of n outputs, slice of m inputs, (n, m)
    """
    curve, end = CURVES[resample]
    scale = np.float32(length) / np.float32(target)
    stretch = max(scale, np.float32(1))
    centers = ((np.arange(target) + 0.5) * float(scale)).astype(np.float32)
    firsts = np.maximum(_whole(centers - end * stretch), 0)
    lasts = np.minimum(_whole(centers + end * stretch), length)
    for start in range(0, target, STRIP):
        made = slice(start, start + STRIP)
        center, first, last = (each[made, None] for each in (centers, firsts, lasts))
        inputs = np.arange(first[0, 0], last[-1, 0])
        distances = (inputs.astype(np.float32) - center).astype(np.float64) + 0.5
        weights = curve(np.abs(distances * float(1 / stretch)).astype(np.float32))
        weights *= (inputs >= first) & (inputs < last)
        yield made, slice(first[0, 0], last[-1, 0]), weights / weights.sum(axis=1, keepdims=True)


def _whole(x: Floats) -> NDArray[np.int64]:
    """Add 1/2 in double precision and cut, as torch does to find the first and last input."""
    return (x.astype(np.float64) + 0.5).astype(np.int64)
