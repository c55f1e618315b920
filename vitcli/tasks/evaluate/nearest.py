"""Classify embeddings by their nearest neighbours, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitcli.checkpoints.load import Model
from vitcli.errors import InputError
from vitcli.jobs.finite import are_finite, overflow, with_failures
from vitcli.jobs.job import Reporter
from vitcli.jobs.run import Ready, Run
from vitcli.models.engine import Features
from vitcli.records import Batch, Embedded, Failure, Row
from vitcli.sinks.memory import ListSink
from vitcli.tasks.evaluate.job import (
    TOP,
    EvaluateJob,
    Evaluation,
    ModelAnswers,
    check_any_read,
    run_on,
)
from vitcli.training.classes import class_names
from vitcli.training.example import Example
from vitcli.training.metrics import Answers, neighbours


def evaluate_neighbours(
    job: EvaluateJob,
    knn: int,
    examples: Sequence[Example],
    evaluated: Sequence[Example],
    reporter: Reporter,
) -> Evaluation:
    """Let the neighbours of each image in `evaluated` vote for its class. The neighbours are
    training examples or, if there are none, the other evaluated images."""
    train = [e for e in examples if e.split == "train"]
    labels = class_names(examples)
    numbers = {label: number for number, label in enumerate(labels)}
    loaded = [run_on(job, evaluated, reporter).load(spec, job.options) for spec in job.models]
    models: list[ModelAnswers] = []
    for model in loaded:
        run = run_on(job, evaluated, reporter)
        queries, truth, rows = _embedded(run, model, evaluated, numbers)
        gallery, classes = queries, truth
        if train:
            gallery, classes, _ = _embedded(run_on(job, train, reporter), model, train, numbers)
        if not train and len(queries) == 1:
            raise InputError("one image has no neighbours", "--knn needs two or more")
        scores, order = neighbours(queries, gallery, classes, len(labels), knn, leave_out=not train)
        answers = Answers(order[:, :TOP].numpy(), scores[:, :TOP].double().numpy(), truth.numpy())
        models.append(ModelAnswers(f"{model.spec}, {knn} neighbours", labels, answers))
    done = [row for row in rows if isinstance(row, Embedded)]
    return Evaluation(
        summary=run.summary(),
        models=tuple(models),
        images=tuple(evaluated[row.ref.index].found for row in done),
        failures=tuple(row for row in rows if isinstance(row, Failure)),
    )


def _embedded(
    run: Run, model: Model, examples: Sequence[Example], numbers: Mapping[str, int]
) -> tuple[Tensor, Tensor, list[Row]]:
    """The unit embeddings (N, D) and the classes (N,) of the readable images, and the rows of all
    images."""
    engine = run.engine(model, Features((model.config.depth,), model.config.pool, True))

    @torch.inference_mode()
    def forward(batch: Batch) -> list[Embedded | Failure]:
        features = engine(batch.pixels[0])
        vectors = F.normalize(features, dim=-1).numpy()
        rows = [Embedded(ref, v) for ref, v in zip(batch.refs, vectors, strict=True)]
        good = are_finite(features.norm(dim=-1, keepdim=True))  # the norm itself may overflow
        return with_failures(rows, good, overflow(run.running))

    sink = ListSink()
    run.into(sink, Ready(plans=(model.preprocess,), forward=forward, meta={}))
    done = [row for row in sink.rows if isinstance(row, Embedded)]
    check_any_read(done, [row for row in sink.rows if isinstance(row, Failure)])
    vectors = torch.from_numpy(np.stack([row.embedding for row in done])).float()
    classes = torch.tensor([numbers[examples[row.ref.index].label] for row in done])
    return vectors, classes, sink.rows
