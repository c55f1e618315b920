"""Turn the readable examples into the feed of a training, as pixels or as features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from vitcli.checkpoints.load import Model
from vitcli.errors import InputError
from vitcli.images.augment import LEVELS
from vitcli.images.workers import default_workers
from vitcli.jobs.listing import list_images
from vitcli.jobs.run import Computation, Run
from vitcli.models.prepare import choose_device
from vitcli.records import Batch, Classified, Failure, FoundImage
from vitcli.sinks.memory import ListSink
from vitcli.tasks.evaluate.job import check_any_read
from vitcli.tasks.finetune.features import features
from vitcli.tasks.finetune.job import FinetuneJob, TrainingReporter
from vitcli.tasks.finetune.recipe_choice import ChosenRecipe
from vitcli.training.example import Example
from vitcli.training.feed import FeatureFeed, Feed, ImageFeed, Order
from vitcli.training.group import Group


@dataclass(frozen=True, slots=True)
class FeedMaker:
    """Makes the feed of a training from its examples. Under torchrun, each process reads a share of
    the examples, and all processes gather the results."""

    job: FinetuneJob
    reporter: TrainingReporter
    group: Group
    model: Model
    chosen: ChosenRecipe

    def readable(self, examples: Sequence[Example]) -> tuple[list[Example], list[Failure]]:
        """Decode every example once, and return the readable ones and the failures."""
        mine = self._mine(examples)
        run = self._run([examples[place].found for place in mine])
        sink = ListSink()

        def forward(batch: Batch) -> list[Classified]:
            return [Classified(ref, ()) for ref in batch.refs]

        run.into(sink, Computation(plans=(self.model.preprocess,), forward=forward))
        failed = [row for row in sink.rows if isinstance(row, Failure)]
        failures = self._gathered(failed, mine)
        broken = {failure.ref.index for failure in failures}
        readable = [e for place, e in enumerate(examples) if place not in broken]
        check_any_read(readable, failures)
        return readable, failures

    def of_features(self, examples: Sequence[Example]) -> tuple[Feed, list[Example], list[Failure]]:
        """Compute the features that a head reads. Return their feed, the readable examples and the
        failures."""
        mine = self._mine(examples)
        vectors_of, failed = features(
            self._run([]), self.model, [examples[place].found for place in mine]
        )
        placed = {mine[place]: vector for place, vector in vectors_of.items()}
        every = {p: v for part in self.group.gather(placed) for p, v in part.items()}
        failures = self._gathered(failed, mine)
        check_any_read(every, failures)
        kept = sorted(every)
        examples = [examples[place] for place in kept]
        labels = torch.tensor(self._numbers(examples))
        vectors = torch.stack([every[place] for place in kept])
        train = torch.tensor([e.split == "train" for e in examples])
        feed = FeatureFeed(
            vectors[train],
            labels[train],
            vectors[~train],
            labels[~train],
            self._order(int(train.sum())),
        )
        return feed, examples, failures

    def of_images(self, examples: Sequence[Example]) -> Feed:
        """Return the feed of augmented images."""
        train = [e for e in examples if e.split == "train"]
        val = [e for e in examples if e.split == "val"]
        if not train:
            raise InputError("none of the training images can be read")
        augment = LEVELS[self.chosen.augment]
        if augment is not None and not self.job.training.flip:
            augment = replace(augment, flip=0.0)
        workers = self.job.running.workers
        if workers is None and self.group.size == 1:
            workers = default_workers(choose_device(self.job.running.device).type)
        return ImageFeed(
            [e.found for e in train],
            self._numbers(train),
            [e.found for e in val],
            self._numbers(val),
            self.model.preprocess,
            augment,
            self._order(len(train)),
            workers,
            self.job.inputs.limits,
            self.job.inputs.formats,
            note=self.reporter.note,
        )

    def _run(self, images: Sequence[FoundImage]) -> Run:
        return Run(self.job.inputs, self.job.running, self.reporter, list_images(images))

    def _mine(self, examples: Sequence[Example]) -> range:
        return range(self.group.rank, len(examples), self.group.size)

    def _gathered(self, failed: Sequence[Failure], mine: range) -> list[Failure]:
        """Gather the failures of all processes, in the order of the examples."""
        placed = [replace(f, ref=replace(f.ref, index=mine[f.ref.index])) for f in failed]
        every = [failure for part in self.group.gather(placed) for failure in part]
        return sorted(every, key=lambda failure: failure.ref.index)

    def _numbers(self, examples: Sequence[Example]) -> list[int]:
        """The class numbers of the examples; zeros without classes."""
        numbers = {label: number for number, label in enumerate(self.model.labels)}
        return [numbers.get(e.label, 0) for e in examples]

    def _order(self, count: int) -> Order:
        batch = min(self.chosen.batch_size * self.job.training.accumulate, count)
        batch = max(self.group.size, batch - batch % self.group.size)
        return Order(count, batch, self.job.training.seed, self.group)
