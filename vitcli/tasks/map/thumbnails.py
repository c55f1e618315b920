"""Choose the images of a map that get a thumbnail, and make it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import printable
from vitcli.images.decode import Picture, attempt, upright
from vitcli.images.job import Decoded
from vitcli.images.scan import choose_scan
from vitcli.images.workers import iter_decoded
from vitcli.indexes.index import Index
from vitcli.jobs.job import Reporter
from vitcli.jobs.named import iter_named
from vitcli.records import Failure, ImageRef, Limits, Preprocess, Sample
from vitcli.render.heat import file_bytes, fitted
from vitcli.render.styles import sized

SIDE = 96  # pixels of the longer side
QUALITY = 80
TURNED = Preprocess(size=(SIDE, SIDE), resize=None)


@dataclass(frozen=True, slots=True)
class ThumbnailJob:
    """Make the JPEG file of a thumbnail."""

    limits: Limits = Limits()
    formats: str = "all"

    def __call__(self, ref: ImageRef, *more: Any) -> Decoded:
        def made(image: Picture) -> Sample:
            full = image.width, image.height
            photo = upright(image, TURNED, fitted(full, min(SIDE, max(full))))
            small = sized(photo, SIDE) if max(photo.size) > SIDE else photo
            data = file_bytes(small, "JPEG", quality=QUALITY)
            return Sample(ref, (np.frombuffer(data, np.uint8),))

        return attempt(ref, self.limits, self.formats, made)


def choose_rows(
    clusters: NDArray[np.int64] | None,
    distances: NDArray[np.float64] | None,
    count: int,
    number: int,
    seed: int,
) -> NDArray[np.int64]:
    """Choose `number` of `count` rows, in ascending order: the oddest of all, a tenth; then of each
    cluster, by its size, the most typical ones and others at random.  -> (n,)"""
    if count <= number:
        return np.arange(count)
    random = np.random.default_rng(seed)
    if clusters is None or distances is None:
        return np.sort(random.choice(count, number, replace=False))
    chosen = np.argsort(-distances, kind="stable")[: number // 10]
    left = np.setdiff1d(np.arange(count), chosen)
    order = left[np.lexsort((random.random(len(left)), clusters[left]))]
    sizes = np.bincount(clusters[left])
    shares = np.maximum(1, sizes * (number - len(chosen)) // len(left))
    taken = [chosen]
    start = 0
    for size, share in zip(sizes, shares, strict=True):
        rows = order[start : start + size]
        typical = rows[np.argsort(distances[rows], kind="stable")[: -(-share // 3)]]
        others = rows[~np.isin(rows, typical)][: share - len(typical)]
        taken += [typical, others]
        start += size
    # More clusters than thumbnails: those of the largest come first.
    return np.sort(np.concatenate(taken)[:number])


def thumbnails_of(
    index: Index, rows: NDArray[np.int64], reporter: Reporter, workers: int | None
) -> dict[int, bytes]:
    """Make the thumbnails of rows, by row. Report images that cannot be read."""
    made: dict[int, bytes] = {}
    failures: list[Failure] = []
    named = ((int(row), index.name(int(row))) for row in rows)
    refs = iter_named(named, choose_scan("all", allow_outside=True))
    reporter.steps("thumbnails", 0, len(rows))
    for decoded in iter_decoded(refs, ThumbnailJob(), workers, note=lambda text: None):
        if isinstance(decoded, Failure):
            failures.append(decoded)
        else:
            made[decoded.ref.index] = decoded.pixels[0].tobytes()
        reporter.steps("thumbnails", len(made) + len(failures), len(rows))
    if failures:
        kinds = Counter(failure.type.value for failure in failures)
        words = ", ".join(f"{kind} {times:,}" for kind, times in kinds.most_common())
        first = failures[0]
        reporter.note(
            f"{len(failures):,} of {len(rows):,} images have no thumbnail ({words}): the first is "
            f"{printable(first.ref.path)}: {printable(first.message)}"
        )
    return dict(sorted(made.items()))
