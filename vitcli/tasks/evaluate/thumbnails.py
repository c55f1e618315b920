"""Read images again, small, for the mistakes of a report."""

from __future__ import annotations

from vitcli.jobs.thumbnails import ThumbnailJob
from vitcli.records import FoundImage, ImageRef, Sample

SIDE = 320  # pixels of the longer side


def thumbnail(image: FoundImage) -> bytes | None:
    """The JPEG file of a small image, in its own shape; None if it cannot be read any more."""
    decoded = ThumbnailJob(SIDE)(ImageRef(0, image.path, member=image.member))
    return decoded.pixels[0].tobytes() if isinstance(decoded, Sample) else None
