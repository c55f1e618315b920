"""Read images again, small, for the mistakes of a report."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitcli.images.decode import decode
from vitcli.records import FoundImage, ImageRef, Limits, Preprocess, Sample

THUMBNAIL = Preprocess(size=(192, 192), resize=(192, 192), fit="contain", decode="fast")


def thumbnail(image: FoundImage) -> NDArray[np.uint8] | None:
    """The pixels (192, 192, 3) of an image; None if it cannot be read any more."""
    decoded = decode(ImageRef(0, image.path, member=image.member), (THUMBNAIL,), Limits())
    return decoded.pixels[0] if isinstance(decoded, Sample) else None
