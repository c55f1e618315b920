"""Evaluate classifiers on labelled images, each alone and all averaged."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.scoring import Numbers, ScoreFunction, averaged, to_scores
from vitcli.errors import UsageError
from vitcli.jobs.finite import are_finite, overflow, with_failures
from vitcli.jobs.job import Reporter, Running
from vitcli.jobs.predictions import check_heads, open_classifiers
from vitcli.jobs.run import Computation
from vitcli.jobs.word_head import load_classifier
from vitcli.records import Batch, Classified, Failure, Row
from vitcli.sinks.memory import NoSink
from vitcli.tasks.evaluate.job import EvaluateJob, Evaluation, Problem, check_any_read, run_on
from vitcli.tasks.evaluate.number import Number, are_numbers
from vitcli.tasks.evaluate.one_label import OneLabel
from vitcli.tasks.evaluate.several_labels import SeveralLabels
from vitcli.training.example import Example

MAX_SLOWEST = 10


def evaluate_classifiers(
    job: EvaluateJob, examples: Sequence[Example], reporter: Reporter
) -> Evaluation:
    """Classify the images of the examples with every model.

    Raises InputError for labels that do not fit the models, CheckpointError for models that cannot
    be averaged or do not classify.
    """
    run = run_on(job, examples, reporter)
    models = [
        load_classifier(spec, job.options, job.words, job.running, reporter, scores=job.scores)
        for spec in job.models
    ]
    function = check_heads(models, "--knn 20 evaluates its embeddings", job.scores)
    problem = _problem(models[0], function, examples, job.threshold)
    if problem.note:
        reporter.note(problem.note)
    plans, logits_of = open_classifiers(models, job.running, reporter.note)
    names = [model.spec for model in models] + ["all, averaged"] * (len(models) > 1)
    sink = _ScoreSink(problem.kept, [[] for _ in names])
    forward = _forward(logits_of, function, sink, job.running)
    summary = run.into(sink, Computation(plans=plans, forward=forward))
    check_any_read(sink.places, sink.failures)
    places = sink.places
    return Evaluation(
        summary=summary,
        models=tuple(
            problem.result(name, [*map(np.concatenate, zip(*kept, strict=True))], places)
            for name, kept in zip(names, sink.kept, strict=True)
        ),
        images=tuple(examples[place].found for place in sink.places),
        failures=tuple(sink.failures),
        slowest=tuple(sorted(sink.slowest, reverse=True)),
    )


@dataclass(slots=True)
class _ScoreSink(NoSink):
    """Collects what the problem keeps of each model's scores on the readable images, and the
    failures."""

    keep: Callable[[Numbers], tuple[NDArray[Any], ...]]
    kept: list[list[tuple[NDArray[Any], ...]]]
    places: list[int] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add(self, batch: Batch, scores: Sequence[Numbers], good: Sequence[bool]) -> None:
        """Add each model's scores for the good images of a batch.  (B, K) each"""
        for kept, of_model in zip(self.kept, scores, strict=True):
            kept.append(self.keep(of_model[np.array(good)]))
        self.places += [ref.index for ref in compress(batch.refs, good)]
        for ref, seconds in zip(batch.refs, batch.seconds, strict=True):
            heapq.heappush(self.slowest, (seconds, ref.path))
            if len(self.slowest) > MAX_SLOWEST:
                heapq.heappop(self.slowest)

    def write(self, rows: Sequence[Row]) -> None:
        self.failures += [row for row in rows if isinstance(row, Failure)]


def _forward(
    logits_of: Callable[[Batch], list[Numbers]],
    function: ScoreFunction,
    sink: _ScoreSink,
    running: Running,
) -> Callable[[Batch], list[Classified | Failure]]:
    def forward(batch: Batch) -> list[Classified | Failure]:
        logits = logits_of(batch)
        good = are_finite(*logits)
        scores = [to_scores(output, function, running.engine) for output in logits]
        if len(scores) > 1:
            scores.append(averaged(scores, running.engine))
        sink.add(batch, scores, good)
        rows = [Classified(ref, ()) for ref in batch.refs]
        return with_failures(rows, good, overflow(running))

    return forward


def _problem(
    model: Model, function: ScoreFunction, examples: Sequence[Example], threshold: float | None
) -> Problem:
    """Choose the problem by the function that makes the scores; where each label has a score of its
    own, also by the data. The raw outputs of a classifier rank its labels: they are numbers only
    for a regression, or if the data have numbers.

    Raises UsageError for ranked labels and data with several an image, or with one class.
    """
    labels, who = model.labels, model.spec
    several = any(example.labels is not None for example in examples)
    is_apart = len(labels) == 1 or any(len(example.names) != 1 for example in examples)
    if function == "none" and is_apart and model.config.cosine_head:
        raise UsageError(
            "--scores logit and cosine rank the classes of an image, and here each is right or "
            "wrong alone",
            "leave out --scores",
        )
    is_number = model.score_function == "none" or all(are_numbers(e, len(labels)) for e in examples)
    if function == "none" and is_number:
        return Number.of(labels, who, examples, threshold)
    if function == "sigmoid" and several:
        return SeveralLabels.of(labels, who, examples, threshold)
    return OneLabel.of(model, function, examples, threshold)
