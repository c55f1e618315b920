"""Image refs into batches: workers decode them ahead, and failures keep their places."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.images.job import Decoded, ImageJob
from vitcli.images.workers import iter_decoded
from vitcli.records import Batch, Failure, ImageRef, Pixels, Sample

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
    """Stack the samples of a group, unless their sizes differ.
    Sample (H, W, 3) ... -> Batch (B, H, W, 3)"""
    samples = [item for item in group if isinstance(item, Sample)]
    failures = tuple(item for item in group if isinstance(item, Failure))
    pixels = tuple(map(_stacked, zip(*(s.pixels for s in samples), strict=True)))
    refs = tuple(s.ref for s in samples)
    sizes, seconds = tuple(s.size for s in samples), tuple(s.seconds for s in samples)
    return Batch(refs, pixels, failures, sizes, seconds)


def _stacked(arrays: tuple[NDArray[Any], ...]) -> NDArray[Any] | tuple[NDArray[Any], ...]:
    """(H, W, 3) ... -> (B, H, W, 3), or copies of images of several sizes"""
    is_one = len({array.shape for array in arrays}) == 1
    return np.stack(arrays) if is_one else tuple(array.copy() for array in arrays)


def iter_parts(batch: Batch, most: int | None = None) -> Iterator[Batch]:
    """Yield the images of a batch in parts of one size each, so that a network needs no padding,
    with at most `most` images. The failures are in none, unless the whole batch is a part."""
    most = most or max(1, len(batch.refs))
    if len(batch.refs) <= most and not any(isinstance(item, tuple) for item in batch.pixels):
        yield batch
        return
    places_of: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for place in range(len(batch.refs)):
        shapes = tuple(tuple(item[place].shape) for item in batch.pixels)
        places_of.setdefault(shapes, []).append(place)
    for same in places_of.values():
        for places in (same[start : start + most] for start in range(0, len(same), most)):
            yield Batch(
                tuple(batch.refs[place] for place in places),
                tuple(_taken(item, places) for item in batch.pixels),
                sizes=tuple(batch.sizes[place] for place in places),
                seconds=tuple(batch.seconds[place] for place in places),
            )


def _taken(item: Pixels | tuple[Pixels, ...], places: list[int]) -> Pixels:
    """The pixels of these images, which have one size.  -> (B, H, W, 3)"""
    if not isinstance(item, tuple):
        return item[places]
    if isinstance(item[0], np.ndarray):
        return np.stack([item[place] for place in places])
    import torch

    return torch.stack([torch.as_tensor(item[place]) for place in places])
