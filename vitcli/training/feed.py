"""Turn examples into the steps of a training: the same order and the same pixels in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitcli.errors import InputError, printable
from vitcli.images.augment import Augment, AugmentJob
from vitcli.images.loader import iter_batches
from vitcli.records import FoundImage, ImageRef, Limits, Preprocess
from vitcli.training.group import Group

MAX_KEPT_BYTES = 512 << 20  # held-out pixels are kept in memory if they take no more


@dataclass(frozen=True, slots=True)
class Step:
    """This process's share of one step: `inputs` are pixels (B, H, W, 3) or features (B, D),
    `labels` class numbers (B,), `places` indices (B,) of the training examples. `first` is the
    index, in the batch of all processes, of this share's first image."""

    epoch: int
    number: int  # in the epoch
    inputs: Tensor
    labels: Tensor
    places: Tensor
    first: int


@dataclass(frozen=True, slots=True)
class Order:
    """The order of the examples: shuffled for each epoch, depending on the seed. Examples that do
    not fill a last batch are left out of the epoch."""

    count: int
    batch: int  # images of a step, over all devices
    seed: int
    group: Group = Group()

    @property
    def steps(self) -> int:
        """The number of steps of an epoch."""
        return max(1, self.count // self.batch)

    @property
    def share(self) -> int:
        """The number of images in this process's share of a step."""
        return max(1, min(self.batch, self.count) // self.group.size)

    def places(self, epoch: int, step: int) -> NDArray[np.int64]:
        """The indices of the training examples in this process's share of a step."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        first = step * min(self.batch, self.count) + self.group.rank * self.share
        return order[first : first + self.share]


class Feed(Protocol):
    """The source of a training's steps."""

    @property
    def order(self) -> Order: ...

    def steps(self, epoch: int, step: int, epochs: int) -> Iterator[Step]:
        """Yield the steps from step `step` of epoch `epoch` to the end of the last of `epochs`."""

    def held_out(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield this process's share of the held-out images as (inputs, labels, indices)."""


@dataclass(slots=True)
class ImageFeed:
    """Images that workers decode and augment."""

    train: Sequence[FoundImage]
    train_labels: Sequence[int]
    val: Sequence[FoundImage]
    val_labels: Sequence[int]
    preprocess: Preprocess
    augment: Augment | None
    order: Order
    workers: int | None
    limits: Limits = Limits()
    formats: str = "common"
    val_batch: int = 32
    note: Callable[[str], None] = lambda text: None
    _kept: list[tuple[Tensor, Tensor, Tensor]] | None = None

    def steps(self, epoch: int, step: int, epochs: int) -> Iterator[Step]:
        order = self.order
        job = AugmentJob(
            self.preprocess, self.augment, order.seed, order.count, self.limits, self.formats
        )
        numbers = [
            (e, s)
            for e in range(epoch, epochs)
            for s in range(step if e == epoch else 0, order.steps)
        ]
        refs = self._refs(numbers)
        first = order.group.rank * order.share
        read = self._read(refs, job, order.share, self.train_labels)
        for (e, s), (pixels, labels, places) in zip(numbers, read, strict=True):
            yield Step(e, s, pixels, labels, places, first)

    def _read(
        self, refs: Iterable[ImageRef], job: AugmentJob, size: int, labels: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield batches of `size` images as (inputs, labels, indices). Raises InputError for an
        image that cannot be read any more."""
        with closing(iter_batches(refs, job, lambda: size, self.workers, self.note)) as batches:
            for batch in batches:
                for failure in batch.failures:
                    raise InputError(
                        f"{printable(failure.ref.path)} cannot be read any more: {failure.message}",
                        "restore the image, and repeat with --resume",
                    )
                places = [ref.index % len(labels) for ref in batch.refs]
                of_places = torch.tensor([labels[place] for place in places])
                yield torch.from_numpy(batch.pixels_for()), of_places, torch.tensor(places)

    def _refs(self, steps: Sequence[tuple[int, int]]) -> Iterator[ImageRef]:
        """Yield the images of steps, given as (epoch, number). AugmentJob reads the epoch and the
        example from the index of each ref, and draws the augmentation with them."""
        count = self.order.count
        for epoch, step in steps:
            for place in self.order.places(epoch, step).tolist():
                image = self.train[place]
                yield ImageRef(epoch * count + place, image.path, member=image.member)

    def held_out(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if self._kept is not None:
            yield from self._kept
            return
        held_bytes = len(self.val) * np.prod(self.preprocess.size) * 3
        keeps = held_bytes * np.dtype(self.preprocess.dtype).itemsize <= MAX_KEPT_BYTES
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        group = self.order.group
        share = range(group.rank, len(self.val), group.size)
        job = AugmentJob(self.preprocess, None, 0, max(1, len(self.val)), self.limits, self.formats)
        images = ((place, self.val[place]) for place in share)
        refs = (ImageRef(place, image.path, member=image.member) for place, image in images)
        for held in self._read(refs, job, self.val_batch, self.val_labels):
            if keeps:
                kept.append(held)
            yield held
        if keeps:
            self._kept = kept


@dataclass(slots=True)
class FeatureFeed:
    """Features (N, D) that were computed before the training."""

    train: Tensor
    train_labels: Tensor
    val: Tensor
    val_labels: Tensor
    order: Order

    def steps(self, epoch: int, step: int, epochs: int) -> Iterator[Step]:
        order = self.order
        for e in range(epoch, epochs):
            for s in range(step if e == epoch else 0, order.steps):
                places = torch.from_numpy(order.places(e, s))
                first = order.group.rank * order.share
                yield Step(e, s, self.train[places], self.train_labels[places], places, first)

    def held_out(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        share = torch.arange(self.order.group.rank, len(self.val), self.order.group.size)
        for places in share.split(4096):  # type: ignore[no-untyped-call]
            yield self.val[places], self.val_labels[places], places
