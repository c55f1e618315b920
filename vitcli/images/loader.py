"""Image refs into batches: decoded ahead by the workers, stacked, failures kept in place."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing

import numpy as np

from vitcli.images.workers import (
    MOST_WORKERS,
    Decoded,
    ImageJob,
    iter_decoded,
)
from vitcli.processes import available_cpus
from vitcli.records import Batch, Failure, ImageRef, Kept, Sample

BATCHES_AHEAD = 2
MOST_KEPT = 1024  # rows of an earlier run in one batch


def iter_batches(
    refs: Iterable[ImageRef | Kept],
    job: ImageJob,
    batch_size: Callable[[], int],
    workers: int | None = None,
    notice: Callable[[str], None] = lambda text: None,
    *,
    keeps_data: bool = True,
) -> Generator[Batch, None, None]:
    """Batches of consecutive inputs, each of the `batch_size` that holds when it begins, the last
    one as short as it comes.

    A batch counts its failures, so batches fall on the same inputs whatever happens to them. Rows
    of an earlier run pass through in their places and do not count. `workers=None` takes one for
    each processor, eight at the most.
    """
    if workers is None:
        workers = min(MOST_WORKERS, available_cpus())

    def ahead() -> int:
        return BATCHES_AHEAD * batch_size()

    with closing(iter_decoded(refs, job, workers, ahead, notice, keeps_data=keeps_data)) as decoded:
        for group in _groups(decoded, batch_size):
            yield collate(group)


def _groups(
    items: Iterable[Decoded | Kept], batch_size: Callable[[], int]
) -> Iterator[list[Decoded | Kept]]:
    """Consecutive items, `batch_size` of them from this run."""
    group: list[Decoded | Kept] = []
    fresh, size = 0, batch_size()
    for item in items:
        group.append(item)
        fresh += not isinstance(item, Kept)
        if fresh == size or len(group) - fresh == MOST_KEPT:
            yield group
            group, fresh, size = [], 0, batch_size()
    if group:
        yield group


def collate(group: Iterable[Decoded | Kept]) -> Batch:
    """Stack the samples of a group.  Sample (H, W, 3) ... -> Batch (B, H, W, 3)"""
    samples: list[Sample] = []
    failures: list[Failure] = []
    kept: list[Kept] = []
    for item in group:
        if isinstance(item, Sample):
            samples.append(item)
        elif isinstance(item, Kept):
            kept.append(item)
        else:
            failures.append(item)
    pixels = tuple(np.stack(arrays) for arrays in zip(*(s.pixels for s in samples), strict=True))
    refs = tuple(s.ref for s in samples)
    sizes, seconds = tuple(s.size for s in samples), tuple(s.seconds for s in samples)
    return Batch(refs, pixels, tuple(failures), tuple(kept), sizes, seconds)
