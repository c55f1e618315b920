"""The scores of a classifier as predictions: the best labels of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitcli.checkpoints.scoring import DESCRIBED, Numbers, ScoreFunction, Scores, chosen_function
from vitcli.errors import CheckpointError
from vitcli.jobs.job import Running
from vitcli.jobs.loading import open_model
from vitcli.records import Batch, Prediction, Preprocess

if TYPE_CHECKING:  # imports torch for its types
    from vitcli.checkpoints.load import Model
    from vitcli.models.engine import SplittingEngine


def check_heads(models: Sequence[Model], instead: str, scores: Scores) -> ScoreFunction:
    """Return the function that turns the logits of all models into scores. Raises CheckpointError
    for a backbone, and for heads that cannot be averaged; `instead` is the hint for a backbone."""
    first = models[0]
    if scores == "cosine" and all(model.config.cosine_head for model in models):
        scores = "logit"  # the outputs of a head of cosines are the cosines themselves
    for model in models:
        if not model.config.num_classes:
            if model.text_source is not None:
                instead = 'name classes in words: --classes "cat, dog, a red car"'
            raise CheckpointError(
                f"{model.spec} is a backbone without a classifier", instead.format(model.spec)
            )
        if model.labels != first.labels:
            raise CheckpointError(
                f"{model.spec} and {first.spec} do not have the same labels",
                "only models of the same classes can be averaged",
            )
        own, others = model.score_function, first.score_function
        if chosen_function(scores, own) != chosen_function(scores, others):
            raise CheckpointError(
                f"{model.spec} and {first.spec} compute scores differently: "
                f"{DESCRIBED[own]}, and {DESCRIBED[others]}",
                "use --scores softmax or --scores sigmoid for all of them",
            )
    return chosen_function(scores, first.score_function)


@dataclass(frozen=True, slots=True)
class Classifiers:
    """The function from a batch to the logits of each model, (B, K). Each engine has the number of
    its preprocessing."""

    engines: Sequence[tuple[SplittingEngine, int]]

    def __call__(self, batch: Batch) -> list[Numbers]:
        return [engine(batch.pixels_for(plan)) for engine, plan in self.engines]

    def start(self, batch: Batch) -> None:
        """Launch the work for a batch on a GPU."""
        for engine, plan in self.engines:
            engine.start(batch.pixels_for(plan))

    @property
    def starter(self) -> Callable[[Batch], None] | None:
        """`start`, if it launches something."""
        return self.start if all(engine.starts_ahead for engine, _ in self.engines) else None


def open_classifiers(
    models: Sequence[Model], running: Running, note: Callable[[str], None]
) -> tuple[tuple[Preprocess, ...], Classifiers]:
    """Return the preprocessings of the models without repeats, and the models in their engines."""
    from vitcli.models.engine import Logits

    plans = tuple(dict.fromkeys(model.preprocess for model in models))
    members = [(open_model(m, Logits(), running, note), plans.index(m.preprocess)) for m in models]
    return plans, Classifiers(members)


def top_k(scores: Numbers, k: int) -> tuple[Numbers, NDArray[np.int64]]:
    """The k best scores and their indices; of equal scores, the lower index first.
    (B, K) -> (B, k) twice"""
    negated = -scores
    k = min(k, scores.shape[-1])
    # Numpy finds the k-th best value much faster than the order of all classes.
    chosen = negated <= np.partition(negated, k - 1, axis=-1)[:, k - 1 : k]
    if (tied := np.flatnonzero(chosen.sum(axis=-1) != k)).size:  # the k-th is also the next, or NaN
        chosen[tied] = False
        order = np.argsort(negated[tied], axis=-1, kind="stable")
        chosen[tied[:, None], order[:, :k]] = True
    indices = np.nonzero(chosen)[1].reshape(-1, k)  # ascending in each row
    order = np.argsort(np.take_along_axis(negated, indices, axis=-1), axis=-1, kind="stable")
    indices = np.take_along_axis(indices, order, axis=-1)
    return np.take_along_axis(scores, indices, axis=-1), indices


def predictions_of(
    values: Sequence[float], places: Sequence[int], labels: Sequence[str], threshold: float | None
) -> list[Prediction]:
    """The labels of the scores at or above the threshold, in their order."""
    return [
        Prediction(labels[place], place, value)
        for value, place in zip(values, places, strict=True)
        if threshold is None or value >= threshold
    ]
