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
from vitcli.records import Batch, Failure, ImageRef, Sample

BATCHES_AHEAD = 2


def iter_batches(
    refs: Iterable[ImageRef],
    job: ImageJob,
    batch_size: Callable[[], int],
    workers: int | None = None,
    notice: Callable[[str], None] = lambda text: None,
    *,
    keeps_data: bool = True,
) -> Generator[Batch, None, None]:
    """Batches of consecutive inputs, each of the `batch_size` that holds when it begins, the last
    one as short as it comes.

    A batch counts its failures, so batches fall on the same inputs whatever happens to them.
    `workers=None` takes one for each processor, eight at the most.
    """
    if workers is None:
        workers = min(MOST_WORKERS, available_cpus())

    def ahead() -> int:
        return BATCHES_AHEAD * batch_size()

    with closing(iter_decoded(refs, job, workers, ahead, notice, keeps_data=keeps_data)) as decoded:
        for group in _groups(decoded, batch_size):
            yield collate(group)


def _groups(items: Iterable[Decoded], batch_size: Callable[[], int]) -> Iterator[list[Decoded]]:
    """Consecutive items, `batch_size` of them in each group."""
    group: list[Decoded] = []
    size = batch_size()
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group, size = [], batch_size()
    if group:
        yield group


def collate(group: Iterable[Decoded]) -> Batch:
    """Stack the samples of a group.  Sample (H, W, 3) ... -> Batch (B, H, W, 3)"""
    samples: list[Sample] = []
    failures: list[Failure] = []
    for item in group:
        if isinstance(item, Sample):
            samples.append(item)
        else:
            failures.append(item)
    pixels = tuple(np.stack(arrays) for arrays in zip(*(s.pixels for s in samples), strict=True))
    refs = tuple(s.ref for s in samples)
    sizes, seconds = tuple(s.size for s in samples), tuple(s.seconds for s in samples)
    return Batch(refs, pixels, tuple(failures), sizes, seconds)
