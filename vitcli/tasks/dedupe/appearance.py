"""The appearance of an image as a digest: the same for images that look the same, and only then.

The upright RGB pixels decide, together with everything else that can be seen: all frames of an
animation with their times, or all pages; transparency; the colour space, unless it is sRGB; and the
stored values where RGB has fewer of them (grey of 16 bits, floats, CMYK). Colours of 16 bits and
icons of several sizes, of which only a part is decoded, look like nothing but their copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitcli.images import tiff
from vitcli.images.decode import Picture, check_pixels, turn_of, upright
from vitcli.records import Limits, Preprocess, Size
from vitcli.tasks.dedupe.colours import colours_of

PLAN = Preprocess(size=(1, 1), resize=None)
LAYERED = ("PSD",)  # its frames are layers, which have been merged into the image
TRANSPARENT = "transparency"  # a key of Pillow's `info`: the colour or the palette's alpha


class Hash(Protocol):
    """The part of a hash of hashlib that is needed."""

    def update(self, data: Any, /) -> None: ...


def appearance(image: Picture, limits: Limits, copy: Callable[[], bytes]) -> tuple[bytes, Size]:
    """Return the digest of an open image, and its upright (height, width). `copy` returns a digest
    of the bytes of its file. Memory grows with one frame, not with their number.

    Raises ImageError for a frame with too many pixels, and what Pillow raises for a damaged one.
    """
    digest = hashlib.sha256()
    if _is_cut(image):
        digest.update(copy())
    size = _add(digest, image)
    count = 1 if image.format in LAYERED else getattr(image, "n_frames", 1)
    if count > 1:
        first = image.tell()  # a TIFF may begin with a thumbnail
        _tell(digest, "frames", count, _milliseconds(image))
        for number in range(count):
            if number != first:
                image.seek(number)
                check_pixels(image, limits)
                if tiff.is_tiff(image):
                    tiff.correct(image)
                if _is_cut(image):
                    digest.update(copy())
                _add(digest, image)
                _tell(digest, "shown", _milliseconds(image))
    return digest.digest(), size


def _is_cut(image: Picture) -> bool:
    """Whether Pillow decodes only a part of an image that is not loaded yet: the upper bytes of
    colours of 16 bits, or one size of an icon."""
    if image.format in ("ICO", "ICNS"):
        return len(image.info.get("sizes", ())) > 1
    if image.mode[:1] in "IF":
        return False
    if tiff.is_tiff(image):
        return tiff.bits_of(image) > 8
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    if image.format == "PPM":
        return any(isinstance(a, tuple) and a[-1] > 255 for a in arguments)
    return any(";16" in str(a) for a in arguments)


def _add(digest: Hash, image: Picture) -> Size:
    """Add the current frame to a digest. Return its upright size."""
    image.load()
    turn = turn_of(image)
    rgb = np.asarray(upright(image, PLAN))
    size: Size = rgb.shape[0], rgb.shape[1]
    _tell(digest, size, colours_of(image))
    alpha = None
    if image.mode[:1] in "IF" or image.mode == "CMYK":
        stored = np.asarray(image if turn is None else image.transpose(turn))
        if image.mode[:1] == "I":
            stored = stored.astype("<i4")
        _tell(digest, "stored", image.mode[:1], image.info.get(TRANSPARENT))
        digest.update(np.ascontiguousarray(stored).data)
    elif image.has_transparency_data:
        alpha = _alpha(image if turn is None else image.transpose(turn))
    if alpha is not None and alpha.min(initial=255) < 255:
        _tell(digest, "alpha")
        digest.update(alpha.data)
        rgb = np.where(alpha[:, :, None] > 0, rgb, np.uint8(0))  # the colour of nothing
    digest.update(np.ascontiguousarray(rgb).data)
    return size


def _alpha(image: Picture) -> NDArray[np.uint8]:
    """The opacity of each pixel.  -> (H, W)"""
    if image.mode == "La":  # Pillow does not convert it directly
        image = image.convert("LA")
    return np.ascontiguousarray(image.convert("RGBA").getchannel("A"), np.uint8)


def _milliseconds(image: Picture) -> int:
    """How long the current frame of an animation is shown; 0 where that is not said."""
    time = image.info.get("duration")
    return round(float(time)) if isinstance(time, int | float) else 0


def _tell(digest: Hash, *values: object) -> None:
    digest.update(repr(values).encode() + b"\0")
