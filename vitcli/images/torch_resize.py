"""Resize images with antialiasing as torch does, which torchvision calls for tensors.

Both torch and Pillow compute weighted means along the rows, then along the columns. But torch's
weights of floats are of fp32, which moves a value by up to 2e-5 of the range, and its weights of
bytes are of 16 bits, which moves some by 1 of 255. The networks see torch's, so this module
computes the same weights as ATen's `UpSampleKernel.cpp`. Most image workers do not import torch;
where it is imported, it resizes bytes itself, to the same values in a tenth of the time.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitcli.records import Resample, Size

if TYPE_CHECKING:  # only some workers import torch
    from torch import Tensor

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
Reals: TypeAlias = NDArray[Any]  # of float32 or float64
Strip: TypeAlias = tuple[slice, slice, Reals]
"""A part of a resized side: n outputs, the m inputs that they are means of, the weights (n, m)."""

Real: TypeAlias = type[Any]  # float32 or float64

STRIP = 16  # outputs
# OpenBLAS computes a product of at most this many multiplications in one thread. The threads of a
# larger one add in another order, and a worker has fewer of them than the main process.
ONE_THREAD = 1 << 18
MAX_STRIP_BYTES = 8 << 20  # which are surely in one of Pillow's blocks


def _triangle(x: Reals) -> Reals:
    made: Reals = np.maximum(1 - x, 0)
    return made


def _cubic(x: Reals) -> Reals:
    """Keys's cubic with a = -0.5."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0)).astype(x.dtype)


# The curve of each filter, and the distance at which it ends.
CURVES: dict[Resample, tuple[Callable[[Reals], Reals], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (_cubic, 2),
}


def resize_floats(pixels: Bytes, size: Size, resample: Resample) -> Floats:
    """Resize, in the same range, without rounding.  uint8 (h, w, 3) -> fp32 (H, W, 3)

    The result equals torch's up to the rounding of fp32 sums: 1e-6 of the range with *bilinear*,
    2e-6 with *bicubic*, which overshoots the range.
    """
    x: NDArray[Any] = pixels.transpose(2, 1, 0)  # each step resizes the last side
    for target in (size[1], size[0]):
        x = x.swapaxes(1, 2)
        made = np.empty((*x.shape[:2], target), np.float32)
        for outputs, inputs, weights in _strips(x.shape[2], target, resample, np.float32):
            rows = max(1, ONE_THREAD // weights.size)
            for top in range(0, x.shape[1], rows):
                some = x[:, top : top + rows, inputs].astype(np.float32)
                made[:, top : top + rows, outputs] = some @ weights.T
        x = made
    return np.ascontiguousarray(x.transpose(2, 1, 0))


def resize_image(image: Image.Image, size: Size, resample: Resample) -> Bytes:
    """Resize an RGB image bit for bit as torch, with torch itself where it is imported.
    -> uint8 (H, W, 3)"""
    if min(size) < 1:
        raise ValueError("height and width must be > 0")  # as Pillow says
    if "torch" not in sys.modules:
        return resize_bytes(np.asarray(image), size, resample)
    import torch

    try:
        return _by_torch(_tensor(image), size, resample).numpy()
    except ValueError:  # a large image is in several blocks
        rows = max(1, MAX_STRIP_BYTES // (4 * image.width))
    strips = []  # torch, too, resizes the rows first
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        strips.append(_by_torch(_tensor(strip), (strip.height, size[1]), resample))
    return _by_torch(torch.cat(strips), size, resample).numpy()


def _by_torch(pixels: Tensor, size: Size, resample: Resample) -> Tensor:
    """uint8 (h, w, C) -> (H, W, 3); C is 3, or 4 of which the last is left out"""
    from torch.nn.functional import interpolate

    height, width, channels = pixels.shape
    # The first stride tells torch that the channels are last; of one image, it would not know.
    strides = (pixels.numel(), 1, width * channels, channels)
    batch = pixels.as_strided((1, channels, height, width), strides)
    made = interpolate(batch, size, mode=resample, antialias=True, align_corners=False)
    return made[0, :3].permute(1, 2, 0).contiguous()


def _tensor(image: Image.Image) -> Tensor:
    """The values of an RGB image without a copy.  -> (h, w, 4)

    Raises ValueError for an image in several blocks.
    """
    import torch

    return torch.as_tensor(np.asarray(_Memory(image)))


class _ArrowArray(ctypes.Structure):
    """The array of Arrow's C data interface; see
    https://arrow.apache.org/docs/format/CDataInterface.html"""


_ArrowArray._fields_ = [
    *(
        (name, ctypes.c_int64)
        for name in ("length", "null_count", "offset", "n_buffers", "n_children")
    ),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]
_address_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Memory:
    """The memory of an RGB image, which NumPy reads as (h, w, 4); the last value means nothing.

    Pillow gives it to Arrow. Every other way copies the image, which takes longer than the resize.
    """

    def __init__(self, image: Image.Image) -> None:
        """Raise ValueError for an image in several blocks."""
        _, self._held = image.__arrow_c_array__()
        array = _ArrowArray.from_address(_address_in(self._held, b"arrow_array"))
        values = array.children[0].contents  # `array` is a list of 4 of them for each pixel
        shape = (image.height, image.width, 4)
        if values.length != np.prod(shape) or values.offset or array.offset:
            raise ValueError("an unknown layout of pixels")
        data = (values.buffers[1], False)
        self.__array_interface__ = {"shape": shape, "typestr": "|u1", "data": data, "version": 3}


def resize_bytes(pixels: Bytes, size: Size, resample: Resample) -> Bytes:
    """Resize, and round after each side, bit for bit as torch.  uint8 (h, w, 3) -> uint8 (H, W, 3)

    The weights are whole numbers of 16 bits. The products are exact in double precision.
    """
    x = pixels.transpose(2, 1, 0)
    for target in (size[1], size[0]):
        x = x.swapaxes(1, 2)
        made = np.empty((*x.shape[:2], target), np.uint8)
        strips = list(_strips(x.shape[2], target, resample, np.float64))
        scale = _largest_scale(max(float(weights.max()) for _, _, weights in strips))
        for outputs, inputs, weights in strips:
            whole = np.trunc(weights * scale + np.copysign(0.5, weights))
            sums = x[..., inputs].astype(np.float64) @ whole.T + scale // 2
            made[..., outputs] = np.clip(sums // scale, 0, 255)
        x = made
    return np.ascontiguousarray(x.transpose(2, 1, 0))


def _largest_scale(weight: float) -> int:
    """The largest power of 2, up to 2^22, by which a weight stays within 16 bits."""
    return next(1 << n for n in range(23) if n == 22 or int(0.5 + weight * (2 << n)) >= 1 << 15)


def _strips(length: int, target: int, resample: Resample, real: Real) -> Iterator[Strip]:
    """Yield the parts of a side of `length` that is resized to `target`. `real` is the precision
    of torch's positions and weights."""
    curve, end = CURVES[resample]
    scale = real(length) / real(target)
    stretch = max(scale, real(1))
    centers = ((np.arange(target) + 0.5) * float(scale)).astype(real)
    firsts = np.maximum(_whole(centers - end * stretch), 0)
    lasts = np.minimum(_whole(centers + end * stretch), length)
    for start in range(0, target, STRIP):
        made = slice(start, start + STRIP)
        center, first, last = (each[made, None] for each in (centers, firsts, lasts))
        inputs = np.arange(first[0, 0], last[-1, 0])
        distances = (inputs.astype(real) - center).astype(np.float64) + 0.5
        weights = curve(np.abs(distances * float(1 / stretch)).astype(real))
        weights *= (inputs >= first) & (inputs < last)
        yield made, slice(first[0, 0], last[-1, 0]), weights / weights.sum(axis=1, keepdims=True)


def _whole(x: Reals) -> NDArray[np.int64]:
    """Add 1/2 in double precision and cut, as torch does to find the first and last input."""
    return (x.astype(np.float64) + 0.5).astype(np.int64)
