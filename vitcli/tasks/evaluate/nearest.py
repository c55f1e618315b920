"""Classify embeddings by their nearest neighbours, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vitcli.checkpoints.load import Model
from vitcli.engines import check_engine
from vitcli.errors import InputError
from vitcli.jobs.finite import are_finite, overflow, with_failures
from vitcli.jobs.job import Reporter
from vitcli.jobs.loading import load_model, open_model, starter
from vitcli.jobs.run import Computation, Run
from vitcli.models.engine import Features
from vitcli.records import Batch, Embedded, Failure
from vitcli.sinks.memory import ListSink
from vitcli.tasks.evaluate.job import TOP, EvaluateJob, Evaluation, check_any_read, run_on
from vitcli.tasks.evaluate.one_label import OneLabelResult, check_one_label
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
    check_one_label(examples, "--knn")
    train = [e for e in examples if e.split == "train"]
    labels = class_names(examples)
    numbers = {label: number for number, label in enumerate(labels)}
    check_engine(job.running.engine)
    loaded = [load_model(spec, job.options, reporter.note) for spec in job.models]
    queries: list[dict[int, Tensor]] = []
    failures: dict[int, Failure] = {}
    for model in loaded:
        run = run_on(job, evaluated, reporter)
        vectors, failed = _embedded(run, model)
        queries.append(vectors)
        failures |= failed
    places = [place for place in queries[0] if place not in failures]  # every model has them
    check_any_read(places, list(failures.values()))
    if not train and len(places) == 1:
        raise InputError("one image has no neighbours", "--knn needs two or more")
    truth = torch.tensor([numbers[evaluated[place].label] for place in places])
    models: list[OneLabelResult] = []
    for model, vectors in zip(loaded, queries, strict=True):
        asked = gallery = torch.stack([vectors[place] for place in places])
        classes = truth
        if train:
            known, failed = _embedded(run_on(job, train, reporter), model)
            check_any_read(known, list(failed.values()))
            gallery = torch.stack(list(known.values()))
            classes = torch.tensor([numbers[train[place].label] for place in known])
        scores, order = neighbours(asked, gallery, classes, len(labels), knn, leave_out=not train)
        answers = Answers(order[:, :TOP].numpy(), scores[:, :TOP].double().numpy(), truth.numpy())
        models.append(OneLabelResult(f"{model.spec}, {knn} neighbours", labels, answers))
    return Evaluation(
        summary=replace(run.summary(), done=len(places), failed=len(failures)),
        models=tuple(models),
        images=tuple(evaluated[place].found for place in places),
        failures=tuple(failures[place] for place in sorted(failures)),
    )


def _embedded(run: Run, model: Model) -> tuple[dict[int, Tensor], dict[int, Failure]]:
    """The unit embeddings (D,) of the images of a run and its failures, by the image's place."""
    output = Features((model.config.depth,), model.config.pool, True)
    engine = open_model(model, output, run.running, run.reporter.note)

    @torch.inference_mode()
    def forward(batch: Batch) -> list[Embedded | Failure]:
        features = torch.from_numpy(engine(batch.pixels_for()))
        vectors = F.normalize(features, dim=-1).numpy()
        rows = [Embedded(ref, v) for ref, v in zip(batch.refs, vectors, strict=True)]
        norms = features.norm(dim=-1, keepdim=True).numpy()  # they may overflow
        return with_failures(rows, are_finite(norms), overflow(run.running))

    sink = ListSink()
    run.into(sink, Computation(plans=(model.preprocess,), forward=forward, start=starter(engine)))
    embeddings: dict[int, Tensor] = {}
    failures: dict[int, Failure] = {}
    for row in sink.rows:
        if isinstance(row, Embedded):
            embeddings[row.ref.index] = torch.from_numpy(row.embedding).float()
        elif isinstance(row, Failure):
            failures[row.ref.index] = row
    return embeddings, failures
