"""How good models are on labelled images: accuracy, each class, confusion, calibration, k-NN."""

from __future__ import annotations

import heapq
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.scoring import ScoreFunction, to_scores
from vitcli.errors import CheckpointError, InputError, UsageError, printable
from vitcli.images.sources import FoundSource
from vitcli.jobs.finite import are_finite, overflow, with_failures
from vitcli.jobs.job import (
    DEFAULT_MODEL,
    Inputs,
    ModelOptions,
    NullReporter,
    Reporter,
    Running,
    Summary,
)
from vitcli.jobs.run import Ready, Run
from vitcli.models.engine import Engine, Features, Logits
from vitcli.records import (
    Batch,
    Classified,
    Embedded,
    ErrorType,
    Failure,
    FoundImage,
    ImageRef,
    Row,
)
from vitcli.sinks.memory import ListSink
from vitcli.tasks.classify.classify import check_heads, top_k
from vitcli.training.classes import class_names, match_answers, match_classes, match_one_class
from vitcli.training.data import read_examples
from vitcli.training.example import SPLIT, Example, place_of, trained_on
from vitcli.training.metrics import Answers, neighbours

TOP = 5
MOST_CLASSES = 1 << 17  # that predictions of a file may tell apart
SLOWEST = 10
ROUNDING = 1e-3  # of scores with six decimals, added up


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """One run of `vit evaluate`. Several models are judged each alone and averaged. `knn` judges
    embeddings by so many neighbours, `preds` what `vit classify` has written as JSONL."""

    data: str
    inputs: Inputs = Inputs()
    models: tuple[str | Model, ...] = (DEFAULT_MODEL,)
    options: ModelOptions = ModelOptions()
    running: Running = Running()
    knn: int | None = None
    preds: Path | None = None

    def __post_init__(self) -> None:
        if self.knn is not None and self.knn < 1:
            raise UsageError(f"--knn {self.knn}", "ask for 1 neighbour or more")
        if self.knn is not None and self.preds is not None:
            raise UsageError("--preds has no embeddings", "leave out --knn")


@dataclass(frozen=True, slots=True)
class Judged:
    """What one model, or several together, answered. `are_shares`: the scores of an image are
    probabilities of its classes that add up to 1, so that calibration can be told."""

    name: str
    labels: tuple[str, ...]
    answers: Answers
    are_shares: bool = True


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How it went: the images that have answers, those that failed, the slowest to read in
    (seconds, path), and what each model said."""

    summary: Summary
    judged: tuple[Judged, ...]
    images: tuple[FoundImage, ...]
    failures: tuple[Failure, ...]
    slowest: tuple[tuple[float, str], ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(image.path for image in self.images)


def evaluate(job: EvaluateJob, watcher: Reporter | None = None) -> Evaluation:
    """Run the job. An image that cannot be read counts for no model and is listed.

    Raises InputError for classes that a model does not have, and for data without labels.
    """
    watcher = watcher or NullReporter()
    run = Run(job.inputs, job.running, watcher)
    examples = read_examples(
        job.data, run.scan(), watcher.note, allow_outside=job.inputs.allow_outside
    )
    run.omissions.note_system()
    if {e.split for e in examples} >= {"train", "val"}:
        asked = [e for e in examples if e.split == "val"]
        watcher.note(f"{len(asked):,} images of val are judged, those of train are not")
    else:
        asked = list(examples)
    if job.preds is None:
        _note_trained(job.models, asked, watcher)
    if job.preds is not None:
        started = time.monotonic()
        found = _of_predictions(job.preds, asked, watcher)
        seconds = time.monotonic() - started
        return replace(found, summary=replace(found.summary, seconds=seconds))
    if job.knn is not None:
        return _of_neighbours(job, examples, asked, watcher)
    return _of_models(job, asked, watcher)


def _note_trained(
    models: Sequence[str | Model], asked: Sequence[Example], watcher: Reporter
) -> None:
    """Say where images are judged that a model was trained on: it knows their answers."""
    for model in models:
        spec = Path(model if isinstance(model, str) else model.spec)
        split = _split_of(spec)
        known = trained_on(split) if split is not None else set()
        if known and (seen := sum(place_of(example.path) in known for example in asked)):
            watcher.note(
                f"{seen:,} of {len(asked):,} images are among those that {printable(str(spec))} "
                f"was trained on ({SPLIT} lists them): they say little about new images"
            )


def _split_of(spec: Path) -> Path | None:
    """The record of the images that a model was trained on, in its folder; None without one."""
    try:
        splits = (spec / SPLIT, spec.parent / SPLIT) if spec.exists() else ()
        return next((file for file in splits if file.is_file()), None)
    except (OSError, ValueError):  # no name of a file: it is told when the model is loaded
        return None


def _run(job: EvaluateJob, examples: Sequence[Example], watcher: Reporter) -> Run:
    run = Run(job.inputs, job.running, watcher)
    run.list_inputs()
    run.listed = [FoundSource([example.found for example in examples])]
    return run


@dataclass(slots=True)
class _Heard:
    """Collects what a forward pass says, by the place of each image."""

    scores: list[list[Tensor]]
    best: list[list[Tensor]]
    places: list[int] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def hear(self, batch: Batch, said: Sequence[Tensor], good: Sequence[bool]) -> list[Classified]:
        """`said` has the probabilities of each model, `good` whether they count.  (B, K) each"""
        for number, probs in enumerate(said):
            scores, best = top_k(probs[torch.tensor(good)], TOP)
            self.scores[number].append(scores)
            self.best[number].append(best)
        self.places += [ref.index for ref in compress(batch.refs, good)]
        for ref, seconds in zip(batch.refs, batch.seconds, strict=True):
            heapq.heappush(self.slowest, (seconds, ref.path))
            if len(self.slowest) > SLOWEST:
                heapq.heappop(self.slowest)
        return [Classified(ref, ()) for ref in batch.refs]

    def write(self, rows: Sequence[Row]) -> None:
        self.failures += [row for row in rows if isinstance(row, Failure)]

    def finish(self, meta: Mapping[str, object]) -> None: ...

    def abort(self) -> None: ...


def _of_models(job: EvaluateJob, examples: Sequence[Example], watcher: Reporter) -> Evaluation:
    run = _run(job, examples, watcher)
    models = [run.load(spec, job.options) for spec in job.models]
    check_heads(models, "--knn 20 judges its embeddings")
    function = models[0].score_function
    labels, numbers = _classes(models[0], class_names(examples))
    are_shares = function == "softmax" or models[0].config.num_classes == 1
    if not are_shares:
        watcher.note(
            f"{models[0].spec} scores each label alone: the best one is its answer, and "
            "calibration is left out"
        )
    plans = tuple(dict.fromkeys(model.preprocess for model in models))
    members = [(run.engine(model, Logits()), plans.index(model.preprocess)) for model in models]
    names = [model.spec for model in models] + ["all, averaged"] * (len(models) > 1)
    heard, why = _Heard([[] for _ in names], [[] for _ in names]), overflow(job.running)
    work = Ready(plans=plans, forward=_forward(members, function, heard, why), meta={})
    summary = run.into(heard, work)
    _check_any(heard.places, heard.failures)
    truth = np.array([numbers[examples[place].label] for place in heard.places], np.int64)
    judged = [
        Judged(name, labels, _answers(scores, best, truth), are_shares)
        for name, scores, best in zip(names, heard.scores, heard.best, strict=True)
    ]
    return Evaluation(
        summary=summary,
        judged=tuple(judged),
        images=tuple(examples[place].found for place in heard.places),
        failures=tuple(heard.failures),
        slowest=tuple(sorted(heard.slowest, reverse=True)),
    )


def _classes(model: Model, names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes that a model tells apart, and which of them each class of the data is.

    Raises CheckpointError for a model that answers with a number, InputError for classes that it
    does not have.
    """
    if model.score_function == "none":
        raise CheckpointError(
            f"{model.spec} answers with a number (regression), and has no classes to judge",
            f"vit classify -m {model.spec} writes its numbers",
        )
    if model.config.num_classes > 1:
        return model.labels, match_classes(names, model.labels, model.spec)
    return match_one_class(names, model.labels[0], model.spec)


def _probabilities(logits: Tensor, function: ScoreFunction) -> Tensor:
    """The scores of the classes that are judged.  (B, K) -> (B, K), and (B, 1) -> (B, 2)"""
    scores = to_scores(logits, function)
    return torch.cat([scores, 1 - scores], dim=-1) if scores.shape[-1] == 1 else scores


def _forward(
    members: Sequence[tuple[Engine, int]], function: ScoreFunction, heard: _Heard, why: str
) -> Callable[[Batch], list[Classified | Failure]]:
    @torch.inference_mode()
    def forward(batch: Batch) -> list[Classified | Failure]:
        logits = [engine(batch.pixels[plan]) for engine, plan in members]
        good = are_finite(*logits)
        said = [_probabilities(found, function) for found in logits]
        if len(said) > 1:
            said.append(torch.stack(said).mean(dim=0))
        return with_failures(heard.hear(batch, said, good), good, why)

    return forward


def _answers(
    scores: Sequence[Tensor], best: Sequence[Tensor], truth: np.ndarray[Any, Any]
) -> Answers:
    return Answers(
        torch.cat(list(best)).numpy().astype(np.int64),
        torch.cat(list(scores)).numpy().astype(np.float64),
        truth,
    )


def _check_any(done: Sequence[object], failures: Sequence[Failure]) -> None:
    if not done:
        first = failures[0]
        raise InputError(
            f"none of {len(failures)} images can be read; "
            f"the first, {printable(first.ref.path)}: {first.message}"
        )


def _of_neighbours(
    job: EvaluateJob, examples: Sequence[Example], asked: Sequence[Example], watcher: Reporter
) -> Evaluation:
    """Each image asks its neighbours: those of train, or where there is none, all the others."""
    assert job.knn is not None
    known = [e for e in examples if e.split == "train"]
    labels = class_names(examples)
    numbers = {label: number for number, label in enumerate(labels)}
    loaded = [_run(job, asked, watcher).load(spec, job.options) for spec in job.models]
    judged: list[Judged] = []
    for model in loaded:
        run = _run(job, asked, watcher)
        queries, truth, rows = _embedded(run, model, asked, numbers)
        gallery, classes = queries, truth
        if known:
            gallery, classes, _ = _embedded(_run(job, known, watcher), model, known, numbers)
        if not known and len(queries) == 1:
            raise InputError("one image has no neighbours", "--knn needs two or more")
        scores, order = neighbours(
            queries, gallery, classes, len(labels), job.knn, leave_out=not known
        )
        answers = Answers(order[:, :TOP].numpy(), scores[:, :TOP].double().numpy(), truth.numpy())
        judged.append(Judged(f"{model.spec}, {job.knn} neighbours", labels, answers))
    done = [row for row in rows if isinstance(row, Embedded)]
    return Evaluation(
        summary=run.summary(run.progress),
        judged=tuple(judged),
        images=tuple(asked[row.ref.index].found for row in done),
        failures=tuple(row for row in rows if isinstance(row, Failure)),
    )


def _embedded(
    run: Run, model: Model, examples: Sequence[Example], numbers: Mapping[str, int]
) -> tuple[Tensor, Tensor, list[Row]]:
    """Embeddings of unit length (N, D) and classes (N,) of the images that can be read."""
    features = Features((model.config.depth,), model.config.pool, True)
    engine = run.engine(model, features)

    @torch.inference_mode()
    def forward(batch: Batch) -> list[Embedded | Failure]:
        found = engine(batch.pixels[0])
        vectors = F.normalize(found, dim=-1).numpy()
        rows = [Embedded(ref, v) for ref, v in zip(batch.refs, vectors, strict=True)]
        good = are_finite(found.norm(dim=-1, keepdim=True))  # its square may overflow alone
        return with_failures(rows, good, overflow(run.running))

    sink = ListSink()
    run.into(sink, Ready(plans=(model.preprocess,), forward=forward, meta={}))
    done = [row for row in sink.rows if isinstance(row, Embedded)]
    _check_any(done, [row for row in sink.rows if isinstance(row, Failure)])
    vectors = torch.from_numpy(np.stack([row.embedding for row in done])).float()
    classes = torch.tensor([numbers[examples[row.ref.index].label] for row in done])
    return vectors, classes, sink.rows


def _of_predictions(preds: Path, examples: Sequence[Example], watcher: Reporter) -> Evaluation:
    """Rows that `vit classify` wrote, found by their paths."""
    lines = _read_predictions(preds)
    named = {
        p["index"]: str(p["label"]) for line in lines.values() for p in line.get("predictions", ())
    }
    if not named:
        raise InputError(f"{printable(str(preds))} has no predictions")
    known = [named.get(index, f"LABEL_{index}") for index in range(max(named) + 1)]
    numbers, labels = match_answers(class_names(examples), known)
    width = max(1, *(len(line.get("predictions", ())) for line in lines.values()))
    best = np.full((len(examples), width), -1, np.int64)
    scores = np.zeros((len(examples), width))
    failures, done = [], []
    for place, example in enumerate(examples):
        line = lines.get(Path(example.path).resolve())
        ref = ImageRef(place, example.path)
        if line is None:
            failures.append(Failure(ref, ErrorType.NOT_FOUND, f"no row in {preds}"))
        elif "error" in line:
            error = line["error"]
            failures.append(Failure(ref, ErrorType(error["type"]), str(error["message"])))
        else:
            for rank, prediction in enumerate(line["predictions"]):
                best[place, rank] = prediction["index"]
                scores[place, rank] = prediction["score"]
            done.append(place)
    _check_any(done, failures)
    truth = np.array([numbers[examples[place].label] for place in done], np.int64)
    are_shares = bool((scores >= 0).all() and (scores.sum(axis=1) < 1 + ROUNDING).all())
    if not are_shares:
        watcher.note(f"{preds}: scores are no probabilities of classes, calibration is left out")
    answers = Answers(best[done], scores[done], truth)
    judged = Judged(str(preds), labels, answers, are_shares)
    return Evaluation(
        summary=Summary(len(done), len(failures), 0.0),
        judged=(judged,),
        images=tuple(examples[place].found for place in done),
        failures=tuple(failures),
    )


def _check_row(row: dict[str, Any]) -> None:
    """Raises ValueError, KeyError or TypeError for what vit classify does not write."""
    if "error" in row:
        ErrorType(row["error"]["type"])
        str(row["error"]["message"])
        return
    for prediction in row["predictions"]:
        if not math.isfinite(float(prediction["score"])):
            raise ValueError("a score is a number")
        str(prediction["label"])
        if type(prediction["index"]) is not int or not 0 <= prediction["index"] < MOST_CLASSES:
            raise ValueError("the index of a class is a number from 0")


def _read_predictions(file: Path) -> dict[Path, dict[str, Any]]:
    """The lines by their whole paths; classify writes them relative to where it was called."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {printable(str(file))}: {why}") from None
    found: dict[Path, dict[str, Any]] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            row = json.loads(line)
            _check_row(row)
            found[Path(row["path"]).resolve()] = row
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, RuntimeError):
            raise InputError(
                f"{printable(str(file))}, line {number} is no row of vit classify",
                "--preds reads the JSONL that vit classify -o preds.jsonl writes",
            ) from None
    return found
