"""Image refs into batches: decoded ahead by the workers, stacked, failures kept in place."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from itertools import islice

import numpy as np

from vitcli.images.workers import Decoded, DecodeJob, available_cpus, iter_decoded
from vitcli.records import Batch, Failure, ImageRef, Sample

BATCHES_AHEAD = 2
MOST_WORKERS = 8


def iter_batches(
    refs: Iterable[ImageRef],
    job: DecodeJob,
    batch_size: int,
    workers: int | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> Generator[Batch, None, None]:
    """Batches of `batch_size` consecutive inputs, the last one as short as it comes.

    A batch counts its failures, so batches fall on the same inputs whatever happens to them.
    `workers=None` takes one for each processor, eight at the most.
    """
    if workers is None:
        workers = min(MOST_WORKERS, available_cpus())
    with closing(iter_decoded(refs, job, workers, BATCHES_AHEAD * batch_size, notice)) as decoded:
        while group := list(islice(decoded, batch_size)):
            yield collate(group)


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
    return Batch(tuple(s.ref for s in samples), pixels, tuple(failures))
