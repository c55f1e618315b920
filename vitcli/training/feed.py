"""Examples into batches for training: the same order and the same pixels in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

KEPT_BYTES = 512 << 20  # of pixels of a validation set that are read once


@dataclass(frozen=True, slots=True)
class Step:
    """Our part of the images of one step: pixels as bytes (B, H, W, 3) or features (B, D), the
    numbers of their classes, and their places among the examples; `first` is the place of our
    first in the whole batch."""

    epoch: int
    number: int  # in the epoch
    inputs: Tensor
    labels: Tensor
    places: Tensor
    first: int


@dataclass(frozen=True, slots=True)
class Order:
    """Which examples each step takes: a new order for each epoch, drawn with the seed. What is
    left over at the end of an epoch is not seen in it."""

    count: int
    batch: int  # images of a step, on all devices together
    seed: int
    group: Group = Group()

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return max(1, self.count // self.batch)

    @property
    def share(self) -> int:
        """Images of a step that are ours."""
        return max(1, min(self.batch, self.count) // self.group.size)

    def places(self, epoch: int, step: int) -> NDArray[np.int64]:
        """The places of our images in a step."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        first = step * min(self.batch, self.count) + self.group.rank * self.share
        return order[first : first + self.share]


class Feed(Protocol):
    """Where the steps of a training come from."""

    @property
    def order(self) -> Order: ...

    def steps(self, epoch: int, step: int, epochs: int) -> Iterator[Step]:
        """From a step of an epoch to the end of the last epoch."""

    def held_out(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Our part of what is not trained on: inputs, labels, places."""


@dataclass(slots=True)
class ImageFeed:
    """Images, decoded and augmented by workers."""

    train: Sequence[FoundImage]
    train_labels: Sequence[int]
    val: Sequence[FoundImage]
    val_labels: Sequence[int]
    plan: Preprocess
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
            self.plan, self.augment, order.seed, order.count, self.limits, self.formats
        )
        plan = [
            (e, s)
            for e in range(epoch, epochs)
            for s in range(step if e == epoch else 0, order.steps)
        ]
        batches = iter_batches(self._refs(plan), job, lambda: order.share, self.workers, self.note)
        with closing(batches):
            for (e, s), batch in zip(plan, batches, strict=True):
                for failure in batch.failures:
                    raise InputError(
                        f"{printable(failure.ref.path)} could be read when the training began, "
                        f"and cannot any more: {failure.message}",
                        "repeat with --resume when it is there again",
                    )
                places = torch.tensor([ref.index % order.count for ref in batch.refs])
                labels = torch.tensor([self.train_labels[i] for i in places.tolist()])
                first = order.group.rank * order.share
                yield Step(e, s, torch.from_numpy(batch.pixels[0]), labels, places, first)

    def _refs(self, plan: Sequence[tuple[int, int]]) -> Iterator[ImageRef]:
        count = self.order.count
        for epoch, step in plan:
            for place in self.order.places(epoch, step).tolist():
                image = self.train[place]
                yield ImageRef(epoch * count + place, image.path, member=image.member)

    def held_out(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if self._kept is not None:
            yield from self._kept
            return
        height, width = self.plan.size
        keeps = len(self.val) * height * width * 3 <= KEPT_BYTES
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        group = self.order.group
        mine = range(group.rank, len(self.val), group.size)
        job = AugmentJob(self.plan, None, 0, max(1, len(self.val)), self.limits, self.formats)
        images = ((place, self.val[place]) for place in mine)
        refs = (ImageRef(place, image.path, member=image.member) for place, image in images)
        for batch in iter_batches(refs, job, lambda: self.val_batch, self.workers, self.note):
            for failure in batch.failures:
                raise InputError(
                    f"{printable(failure.ref.path)} cannot be read any more: {failure.message}"
                )
            places = torch.tensor([ref.index for ref in batch.refs])
            labels = torch.tensor([self.val_labels[i] for i in places.tolist()])
            found = (torch.from_numpy(batch.pixels[0]), labels, places)
            if keeps:
                kept.append(found)
            yield found
        if keeps:
            self._kept = kept


@dataclass(slots=True)
class FeatureFeed:
    """Features that were computed once, (N, D)."""

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
        mine = torch.arange(self.order.group.rank, len(self.val), self.order.group.size)
        for places in mine.split(4096):  # type: ignore[no-untyped-call]
            yield self.val[places], self.val_labels[places], places
