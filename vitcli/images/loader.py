"""Image refs into batches: workers decode them ahead, and failures keep their places."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import islice

import numpy as np

from vitcli.images.job import Decoded, ImageJob
from vitcli.images.workers import iter_decoded
from vitcli.records import Batch, Failure, ImageRef, Sample

BATCHES_AHEAD = 2


def iter_batches(
    refs: Iterable[ImageRef],
    job: ImageJob,
    batch_size: Callable[[], int],
    workers: int | None = None,
    note: Callable[[str], None] = lambda text: None,
    *,
    keeps_data: bool = True,
) -> Generator[Batch, None, None]:
    """Decode consecutive inputs into batches; `batch_size` is called as each one begins.

    A batch counts its failures, so the same inputs make a batch whether or not they decode. The
    last batch may be smaller. `workers`, `note` and `keeps_data` are as for `iter_decoded`.
    """

    def ahead() -> int:
        return BATCHES_AHEAD * batch_size()

    with closing(iter_decoded(refs, job, workers, ahead, note, keeps_data=keeps_data)) as decoded:
        while group := list(islice(decoded, batch_size())):
            yield collate(group)


def collate(group: Sequence[Decoded]) -> Batch:
    """Stack the samples of a group.  Sample (H, W, 3) ... -> Batch (B, H, W, 3)"""
    samples = [item for item in group if isinstance(item, Sample)]
    failures = tuple(item for item in group if isinstance(item, Failure))
    pixels = tuple(np.stack(arrays) for arrays in zip(*(s.pixels for s in samples), strict=True))
    refs = tuple(s.ref for s in samples)
    sizes, seconds = tuple(s.size for s in samples), tuple(s.seconds for s in samples)
    return Batch(refs, pixels, failures, sizes, seconds)
