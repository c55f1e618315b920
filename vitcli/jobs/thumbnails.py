"""Small JPEG files of images that an earlier output names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from vitcli.images.decode import Picture, attempt, upright
from vitcli.images.job import Decoded
from vitcli.images.scan import choose_scan
from vitcli.images.workers import iter_decoded
from vitcli.jobs.named import iter_named
from vitcli.records import Failure, ImageRef, Limits, Preprocess, Sample
from vitcli.render.heat import file_bytes, fitted
from vitcli.render.styles import sized

QUALITY = 80


@dataclass(frozen=True, slots=True)
class ThumbnailJob:
    """Make the JPEG file of a thumbnail whose longer side has at most `side` pixels."""

    side: int
    limits: Limits = Limits()
    formats: str = "all"
    imports_torch: ClassVar[bool] = False

    def __call__(self, ref: ImageRef, *more: Any) -> Decoded:
        turned = Preprocess(size=(self.side, self.side), resize=None)

        def made(image: Picture) -> Sample:
            full = image.width, image.height
            photo = upright(image, turned, fitted(full, min(self.side, max(full))))
            small = sized(photo, self.side) if max(photo.size) > self.side else photo
            data = file_bytes(small, "JPEG", quality=QUALITY)
            return Sample(ref, (np.frombuffer(data, np.uint8),))

        return attempt(ref, self.limits, self.formats, made)


def thumbnails_of(
    named: Iterable[tuple[int, str]],
    side: int,
    workers: int | None,
    tick: Callable[[int], None] = lambda done: None,
) -> Mapping[int, bytes | Failure]:
    """The thumbnail of each (number, path), by number; or why there is none. `tick`
    receives how many are done."""
    refs = iter_named(named, choose_scan("all", allow_outside=True))
    made: dict[int, bytes | Failure] = {}
    for decoded in iter_decoded(refs, ThumbnailJob(side), workers, note=lambda text: None):
        if isinstance(decoded, Failure):
            made[decoded.ref.index] = decoded
        else:
            made[decoded.ref.index] = decoded.pixels[0].tobytes()
        tick(len(made))
    return made
