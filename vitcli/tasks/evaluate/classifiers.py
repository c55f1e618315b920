"""Evaluate classifiers on labelled images, each alone and all averaged."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.scoring import ScoreFunction, to_scores
from vitcli.errors import CheckpointError
from vitcli.jobs.finite import are_finite, overflow, with_failures
from vitcli.jobs.job import Reporter
from vitcli.jobs.loading import load_model
from vitcli.jobs.predictions import check_heads, open_classifiers, top_k
from vitcli.jobs.run import Computation
from vitcli.records import Batch, Classified, Failure, Row
from vitcli.sinks.memory import NoSink
from vitcli.tasks.evaluate.job import (
    TOP,
    EvaluateJob,
    Evaluation,
    ModelAnswers,
    check_any_read,
    run_on,
)
from vitcli.training.classes import class_names, match_classes, match_one_class
from vitcli.training.example import Example
from vitcli.training.metrics import Answers

MAX_SLOWEST = 10


def evaluate_classifiers(
    job: EvaluateJob, examples: Sequence[Example], reporter: Reporter
) -> Evaluation:
    """Classify the images of the examples with every model.

    Raises InputError for classes that the models do not have, CheckpointError for models that
    cannot be averaged or do not classify.
    """
    run = run_on(job, examples, reporter)
    models = [load_model(spec, job.options, reporter.note) for spec in job.models]
    check_heads(models, "--knn 20 evaluates its embeddings")
    function = models[0].score_function
    labels, numbers = _classes(models[0], class_names(examples))
    are_shares = function == "softmax" or models[0].config.num_classes == 1
    if not are_shares:
        reporter.note(
            f"{models[0].spec} scores each label independently: the highest score is the answer, "
            "and calibration is left out"
        )
    plans, logits_of = open_classifiers(models, job.running, reporter.note)
    names = [model.spec for model in models] + ["all, averaged"] * (len(models) > 1)
    sink = _AnswerSink([[] for _ in names], [[] for _ in names])
    forward = _forward(logits_of, function, sink, overflow(job.running))
    summary = run.into(sink, Computation(plans=plans, forward=forward))
    check_any_read(sink.places, sink.failures)
    truth = np.array([numbers[examples[place].label] for place in sink.places], np.int64)
    answers = [
        Answers(
            torch.cat(best).numpy().astype(np.int64),
            torch.cat(scores).numpy().astype(np.float64),
            truth,
        )
        for best, scores in zip(sink.best, sink.scores, strict=True)
    ]
    return Evaluation(
        summary=summary,
        models=tuple(
            ModelAnswers(name, labels, own, are_shares)
            for name, own in zip(names, answers, strict=True)
        ),
        images=tuple(examples[place].found for place in sink.places),
        failures=tuple(sink.failures),
        slowest=tuple(sorted(sink.slowest, reverse=True)),
    )


@dataclass(slots=True)
class _AnswerSink(NoSink):
    """Collects the answers of each model on the readable images, and the failures."""

    best: list[list[Tensor]]
    scores: list[list[Tensor]]
    places: list[int] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add(self, batch: Batch, probabilities: Sequence[Tensor], good: Sequence[bool]) -> None:
        """Add each model's probabilities for the good images of a batch.  (B, K) each"""
        for number, probs in enumerate(probabilities):
            scores, best = top_k(probs[torch.tensor(good)], TOP)
            self.best[number].append(best)
            self.scores[number].append(scores)
        self.places += [ref.index for ref in compress(batch.refs, good)]
        for ref, seconds in zip(batch.refs, batch.seconds, strict=True):
            heapq.heappush(self.slowest, (seconds, ref.path))
            if len(self.slowest) > MAX_SLOWEST:
                heapq.heappop(self.slowest)

    def write(self, rows: Sequence[Row]) -> None:
        self.failures += [row for row in rows if isinstance(row, Failure)]


def _forward(
    logits_of: Callable[[Batch], list[Tensor]],
    function: ScoreFunction,
    sink: _AnswerSink,
    reason: str,
) -> Callable[[Batch], list[Classified | Failure]]:
    @torch.inference_mode()
    def forward(batch: Batch) -> list[Classified | Failure]:
        logits = logits_of(batch)
        good = are_finite(*logits)
        probabilities = [_probabilities(output, function) for output in logits]
        if len(probabilities) > 1:
            probabilities.append(torch.stack(probabilities).mean(dim=0))
        sink.add(batch, probabilities, good)
        return with_failures([Classified(ref, ()) for ref in batch.refs], good, reason)

    return forward


def _probabilities(logits: Tensor, function: ScoreFunction) -> Tensor:
    """The scores of the classes.  (B, K) -> (B, K), and (B, 1) -> (B, 2)"""
    scores = to_scores(logits, function)
    return torch.cat([scores, 1 - scores], dim=-1) if scores.shape[-1] == 1 else scores


def _classes(model: Model, names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes of a model, and the number that each class of the data has among them.

    Raises CheckpointError for a regression model, InputError for classes that the model does not
    have.
    """
    if model.score_function == "none":
        raise CheckpointError(
            f"{model.spec} answers with a number (regression) and has no classes",
            f"vit classify -m {model.spec} writes its numbers",
        )
    if model.config.num_classes > 1:
        return model.labels, match_classes(names, model.labels, model.spec)
    return match_one_class(names, model.labels[0], model.spec)
