"""Top-k labels for each image, from one classifier or the average of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitcli.checkpoints.scoring import DESCRIBED, ScoreFunction, to_scores
from vitcli.errors import CheckpointError, UsageError
from vitcli.images.workers import Decoded, WorkerPool
from vitcli.jobs.drawing import Drawing, Request, check_page
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
from vitcli.jobs.run import Destination, Ready, Run, Spec, row_defaults, row_options
from vitcli.pipeline import Forward
from vitcli.records import Batch, Classified, Failure, Prediction, Row, Sink
from vitcli.render.page import Page
from vitcli.runs.shard import Resuming
from vitcli.sinks import PREDICTIONS, FileSink, Form, choose_format, form_of, with_page
from vitcli.sinks.files import Target
from vitcli.sinks.memory import ListSink
from vitcli.sinks.page import PAGE
from vitcli.stores import Place, Url
from vitcli.tasks.classify.select import Selection, SelectSink

if TYPE_CHECKING:  # as in run.py
    from torch import Tensor

    from vitcli.checkpoints.load import Model
    from vitcli.models.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyJob:
    """One run of `vit classify`. Several models average their probabilities. `select` leaves out
    the rows of other images; `paths_only` writes no more of a row than its path. `html` is a page
    of all images, in the place of standard output or beside `out`."""

    inputs: Inputs
    models: tuple[str | Model, ...] = (DEFAULT_MODEL,)
    options: ModelOptions = ModelOptions()
    running: Running = Running()
    top_k: int = 5
    scores: Literal["prob", "logit"] = "prob"
    threshold: float | None = None
    select: Selection | None = None
    paths_only: bool = False
    out: Place | None = None
    format: str | None = None
    html: Path | None = None
    overwrite: bool = False
    resuming: Resuming = Resuming()

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UsageError(f"--top-k {self.top_k}", "ask for 1 label or more")
        if not self.models:
            raise UsageError("no model is given", "name one with -m")
        if self.scores == "logit" and len(self.models) > 1:
            raise UsageError(
                "several models are averaged as probabilities", "leave out --scores logit"
            )
        if self.html is not None and self.paths_only:
            raise UsageError("a page shows more than paths", "leave out --html or --paths-only")
        check_page(self.html, self.resuming)


def classify(
    job: ClassifyJob, watcher: Reporter | None = None, sink: Sink | None = None
) -> Summary:
    """Run the job. Rows go to `sink` where one is given, else to the job's output.

    Raises VitError for what ends the run; an image that fails is a row.
    """
    run = Run(job.inputs, job.running, watcher or NullReporter())
    run.list_inputs()
    open_things = ExitStack()

    def ready(specs: Sequence[Spec]) -> Ready:
        from vitcli.models.engine import Logits

        models = [run.load(spec, job.options) for spec in specs]
        check_heads(models, "its features are what there is: vit embed -m {}")
        if job.select is not None:
            job.select.check_labels(models[0].labels)
        plans = tuple(dict.fromkeys(model.preprocess for model in models))  # each one once
        members = [(run.engine(model, Logits()), plans.index(model.preprocess)) for model in models]
        forward: Forward = _forward(members, models[0].labels, models[0].score_function, job)
        if job.html is not None:
            inputs = job.inputs
            drawing = Drawing(
                plan=plans[0], limits=inputs.limits, formats=inputs.formats, has_thumbnail=True
            )
            crew = open_things.enter_context(
                WorkerPool(drawing, job.running.workers, run.watcher.note)
            )
            forward = _with_thumbnails(forward, crew)
        return Ready(plans=plans, forward=forward, meta={}, reads_again=job.html is not None)

    if sink is not None:
        selecting = SelectSink(sink, job.select)
        summary = run.into(selecting, ready(job.models))
    else:
        format = _format(job)
        out, form = _form(job, format)
        selecting = SelectSink(ListSink(), job.select)

        def open_sink(target: Target, meta: Mapping[str, object]) -> FileSink:
            selecting.sink, selecting.selected = form.open(target, meta), 0
            return selecting

        output = Destination(
            out=out,
            form=replace(form, open=open_sink),
            command="classify",
            options={
                "format": f"{format} and html" if job.html else format,
                **row_options(job),
                "select": job.select and job.select.text,
            },
            defaults=row_defaults(job),
            overwrite=job.overwrite,
            resuming=job.resuming,
            elsewhere={PAGE: job.html} if job.html else {},
        )
        with open_things:
            summary = run.write(output, job.models, ready, offline=job.options.offline)
    if job.select is None:
        return summary
    return replace(summary, selected=run.chosen + selecting.selected)


def _format(job: ClassifyJob) -> str:
    if job.paths_only:
        return "paths -0" if job.inputs.null else "paths"
    return choose_format(job.out, job.format, dict(PREDICTIONS))


def _form(job: ClassifyJob, format: str) -> tuple[Path | None, Form]:
    """The file of rows, which is the page where no other is asked for, and what is written."""
    assert not isinstance(job.out, Url)  # fleet/share.py has staged it
    rows = form_of("classify", format)
    if job.html is None:
        return job.out, rows
    if rows.is_sealed:
        raise UsageError(f"a page beside {format}", "leave out --html, or write .jsonl")
    title = f"vit classify, {', '.join(m if isinstance(m, str) else m.spec for m in job.models)}"
    if job.out is None:
        return job.html, with_page(None, lambda meta: Page(title))
    return job.out, with_page(rows, lambda meta: Page(title))


def _with_thumbnails(forward: Forward, crew: WorkerPool) -> Forward:
    """`forward`, and a small picture in each row, for the page."""

    def with_thumbnails(batch: Batch) -> list[Row]:
        rows = forward(batch)
        good = [row for row in rows if isinstance(row, Classified)]

        def pictured(number: int, answer: Decoded) -> Row:
            if isinstance(answer, Failure):
                return answer
            return replace(good[number], thumbnail=answer.pixels[0].tobytes())

        done = iter(crew.each([(row.ref, Request()) for row in good], pictured))
        return [next(done) if isinstance(row, Classified) else row for row in rows]

    return with_thumbnails


def check_heads(models: Sequence[Model], instead: str) -> None:
    """Raise CheckpointError for a backbone, and for heads that cannot be averaged; `instead` says
    what a backbone is for."""
    first = models[0]
    for model in models:
        if not model.config.num_classes:
            raise CheckpointError(
                f"{model.spec} is a backbone without a classifier", instead.format(model.spec)
            )
        if model.labels != first.labels:
            raise CheckpointError(
                f"{model.spec} and {first.spec} do not have the same labels",
                "only models of the same classes can be averaged",
            )
        if model.score_function != first.score_function:
            raise CheckpointError(
                f"{model.spec} and {first.spec} do not make scores alike: "
                f"{DESCRIBED[model.score_function]}, and {DESCRIBED[first.score_function]}",
                "only models with the same problem_type can be averaged",
            )


def _forward(
    members: Sequence[tuple[Engine, int]],
    labels: Sequence[str],
    function: ScoreFunction,
    job: ClassifyJob,
) -> Callable[[Batch], list[Classified | Failure]]:
    """The function from a batch to its rows."""
    import torch

    asked: ScoreFunction = function if job.scores == "prob" else "none"

    @torch.inference_mode()
    def forward(batch: Batch) -> list[Classified | Failure]:
        logits = [engine(batch.pixels[plan]) for engine, plan in members]
        scores = [to_scores(found, asked) for found in logits]
        mean = scores[0] if len(scores) == 1 else torch.stack(scores).mean(dim=0)
        best, indices = top_k(mean, job.top_k)
        found = zip(batch.refs, best.tolist(), indices.tolist(), strict=True)
        rows = [
            Classified(ref, tuple(predictions_of(values, places, labels, job.threshold)))
            for ref, values, places in found
        ]
        return with_failures(rows, are_finite(*logits), overflow(job.running))

    return forward


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best k and their indices, the lower index first among equals.  (B, K) -> (B, k) twice"""
    best, indices = scores.sort(dim=-1, descending=True, stable=True)
    return best[:, :k], indices[:, :k]


def predictions_of(
    values: Sequence[float], places: Sequence[int], labels: Sequence[str], threshold: float | None
) -> list[Prediction]:
    return [
        Prediction(labels[place], place, value)
        for value, place in zip(values, places, strict=True)
        if threshold is None or value >= threshold
    ]
