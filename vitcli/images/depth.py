"""Convert images of any depth to 8-bit RGB; refuse numbers without a known black and white."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitcli.images import tiff
from vitcli.images.kinds import ImageError
from vitcli.records import ErrorType, Preprocess

GREY16 = "16-bit grey is scaled to 8 bits (--preprocess hf clamps it, as transformers does)"
GREY12 = "12-bit grey is scaled to 8 bits (v >> 4)"
DARK = (
    "a 16-bit image uses only its lowest 12 bits or fewer, and is nearly black: scale it to 16 "
    "bits if it should not be"
)
UNIT_FLOATS = "floats from 0 to 1 are scaled to 0…255"
BYTE_FLOATS = "floats from 0 to 255 are truncated to integers"

_MIN_BRIGHTEST = 16  # of 256: an image whose largest value is below it is nearly black
# Formats whose 16-bit grey is unsigned, and those that Pillow opens in its 32-bit mode.
_SHORT = ("PNG", "PPM", "TIFF", "JPEG2000")
SHORT_IN_I = ("PNG", "PPM")


def to_rgb(image: Image.Image, plan: Preprocess) -> tuple[Image.Image, str]:
    """Convert an image as `convert("RGB")` does, and return it with a note for the user, or "".

    Images of more than 8 bits differ. 16-bit grey is scaled to 8 bits (v >> 8), unless
    `plan.grey16` is "clamp": Pillow and transformers clamp it, so all but the darkest 1/256 is
    white. Raises ImageError for numbers without a known range.
    """
    mode = image.mode
    if mode == "RGB":
        return image, DARK if _is_dark(image) else ""
    if mode == "La":  # Pillow does not convert it to RGB directly
        image = image.convert("LA")
    if mode.startswith("I"):
        _refuse_without_range(image)
        if plan.grey16 == "scale":
            return _grey16(image)
    if mode == "F":
        return _floats(image)
    return image.convert("RGB"), ""


def _grey16(image: Image.Image) -> tuple[Image.Image, str]:
    values = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
    is_short = tiff.bits_of(image) == 12
    note = GREY12 if is_short else GREY16
    if not is_short and 0 < values.max(initial=0) < _MIN_BRIGHTEST << 8:
        note = DARK
    return _grey((values >> (4 if is_short else 8)).astype(np.uint8), image), note


def _floats(image: Image.Image) -> tuple[Image.Image, str]:
    """Scale floats that are clearly from 0 to 1 or from 0 to 255; others could be either."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ImageError(ErrorType.UNREADABLE, "32-bit floats, some of which are not finite")
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low >= 0 and high <= 1:
        return _grey(np.rint(values * 255).astype(np.uint8), image), UNIT_FLOATS
    if low >= 0 and _MIN_BRIGHTEST <= high <= 255:
        return _grey(values.astype(np.uint8), image), BYTE_FLOATS
    message = f"32-bit floats from {low:g} to {high:g}: scale them to 0…1 or to 0…255"
    raise ImageError(ErrorType.UNREADABLE, message)


def _grey(values: NDArray[np.uint8], image: Image.Image) -> Image.Image:
    if tiff.is_white_zero(image):
        values = 255 - values
    return Image.fromarray(values).convert("RGB")


def _refuse_without_range(image: Image.Image) -> None:
    """Refuse Pillow's mode I, integers of any range, unless the format implies their range."""
    is_short = image.format in (_SHORT if image.mode.startswith("I;16") else SHORT_IN_I)
    if not is_short:
        message = f"{image.format} of integers without a known black and white"
        raise ImageError(ErrorType.UNREADABLE, f"{message}: convert it to 8 bits")


def _is_dark(image: Image.Image) -> bool:
    """Whether a 16-bit colour image uses only its lowest bits."""
    if tiff.bits_of(image) != 16:
        return False
    extrema = image.getextrema()
    tops = [top for _, top in extrema if isinstance(top, int)]  # type: ignore[misc]
    return 0 < max(tops, default=0) < _MIN_BRIGHTEST
