"""Top-k labels for each image, from one classifier or the average of several."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias, cast

from vitcli.checkpoints.scoring import Numbers, ScoreFunction, Scores, averaged, to_scores
from vitcli.checkpoints.text.files import local_digest
from vitcli.errors import UsageError, printable
from vitcli.images.workers import WorkerPool
from vitcli.jobs.drawing import Drawing, Request, check_page, data_name, draw_rows
from vitcli.jobs.finite import are_finite, overflow, with_failures
from vitcli.jobs.job import DEFAULT_MODEL, SILENT, Inputs, ModelOptions, Reporter, Running, Summary
from vitcli.jobs.listing import list_inputs
from vitcli.jobs.loading import Spec, described_merging
from vitcli.jobs.outputs import output_of
from vitcli.jobs.precision import settled
from vitcli.jobs.predictions import check_heads, open_classifiers, predictions_of, top_k
from vitcli.jobs.run import Computation, Run
from vitcli.jobs.word_head import load_classifier
from vitcli.jobs.words import Words
from vitcli.jobs.writing import write_rows
from vitcli.records import Batch, Classified, Failure, Row, Sink
from vitcli.render.page import Page
from vitcli.runs.output import Output
from vitcli.runs.shard import Resuming, check_start
from vitcli.sinks import PREDICTIONS, choose_format
from vitcli.sinks.format import Format
from vitcli.stores import Place, Url
from vitcli.tasks.classify.select import Selection

if TYPE_CHECKING:  # for types only: importing these is slow
    import numpy as np
    from numpy.typing import NDArray

    from vitcli.checkpoints.load import Model

ClassifyBatch: TypeAlias = Callable[[Batch], list[Classified | Failure]]
TOP_K = 5  # labels of each image, unless the user wants another number


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyJob:
    """One run of `vit classify`.

    The scores of several models are averaged. Without `top_k`, an image gets its TOP_K best labels,
    or with `threshold` all that reach it, if the score of each label is independent of the others.
    With `select`, only selected images and failures get a row; `paths_only` writes only the paths
    of the rows. `html` is a page of the rows, written along with `out`, or without `out` instead of
    standard output. `words` are classes to score instead of the model's own.
    """

    command: ClassVar[str] = "classify"

    inputs: Inputs
    models: tuple[str | Model, ...] = (DEFAULT_MODEL,)
    options: ModelOptions = ModelOptions()
    running: Running = Running()
    top_k: int | None = None
    scores: Scores = "prob"
    threshold: float | None = None
    select: Selection | None = None
    words: Words | None = None
    paths_only: bool = False
    out: Place | None = None
    format: str | None = None
    html: Path | None = None
    overwrite: bool = False
    resuming: Resuming = Resuming()
    config: str | None = None

    def __post_init__(self) -> None:
        check_start(overwrite=self.overwrite, resume=self.resuming.resume)
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"--top-k {self.top_k} is too small", "ask for 1 label or more")
        if not self.models:
            raise UsageError("no model is given", "name one with -m")
        if self.scores in ("logit", "cosine") and len(self.models) > 1:
            raise UsageError(
                "several models are averaged as probabilities", f"leave out --scores {self.scores}"
            )
        if self.html is not None and self.paths_only:
            raise UsageError(
                "--html shows labels, and --paths-only writes none",
                "leave out --html or --paths-only",
            )
        check_page(self.html, self.resuming)

    def output_format(self) -> Format:
        """The format of the output. Raises UsageError for options that contradict each other."""
        if self.paths_only:
            return Format("paths", null=self.inputs.null)
        name = choose_format(self.out, self.format, PREDICTIONS, has_page=True)
        if self.html is None:
            return Format(name)
        if PREDICTIONS[name].is_sealed:
            raise UsageError(f"--html does not go with {name}", "leave out --html, or write .jsonl")
        return Format(name, page="alone" if self.out is None else "beside")


def classify(job: ClassifyJob, reporter: Reporter = SILENT, sink: Sink | None = None) -> Summary:
    """Run the job. Rows go to `sink` if there is one, else to the job's output.

    Raises VitError for errors that end the run; an image that fails is a row.
    """
    listing = list_inputs(job.inputs, reporter.note, shard=job.resuming.shard)
    run = Run(job.inputs, job.running, reporter, listing)
    with ExitStack() as open_things:
        load = partial(_computation, job, run, open_things)
        offline = job.options.offline
        return write_rows(run, _output(job), job.models, load, sink=sink, offline=offline)


def iter_classified(
    job: ClassifyJob, reporter: Reporter = SILENT
) -> Generator[Classified | Failure, None, None]:
    """Run the job in this process. Return its rows, each as soon as it is there; the model is
    loaded for the first. Raises VitError, at once for inputs that cannot be listed."""
    job = replace(job, running=settled(job.running))
    run = Run(job.inputs, job.running, reporter, list_inputs(job.inputs, reporter.note))

    def rows() -> Iterator[Row]:
        with ExitStack() as open_things:
            yield from run.rows(_computation(job, run, open_things, job.models))

    return cast(Generator[Classified | Failure, None, None], rows())


def _output(job: ClassifyJob) -> Output:
    assert not isinstance(job.out, Url)  # fleet/share.py gives a local file, and uploads it later
    names = [printable(m if isinstance(m, str) else m.spec) for m in job.models]
    about = f"{'models' if len(names) > 1 else 'model'} {', '.join(names)}"
    output = output_of(job, job.out, job.output_format())
    # Without a threshold, no number of labels is TOP_K of them.
    takes_five = job.top_k is None and job.threshold is None
    count: dict[str, object] = {"top_k": TOP_K if takes_five else job.top_k}
    if job.words is not None:  # its texts are in the options; here are the files that read them
        specs = [m if isinstance(m, str) else m.spec for m in job.models]
        named = [job.words.tokenizer] if job.words.tokenizer else specs
        count["tokenizer_files"] = list(map(local_digest, named))
    return replace(
        output,
        options={**output.options, **count, "select": job.select and job.select.text},
        defaults={**output.defaults, "top_k": TOP_K},
        html=job.html,
        page=partial(_page, data_name(job.inputs), about) if job.html else None,
        takes=None if job.select is None else _selected(job.select),
    )


def _page(data: str, about: str, meta: Mapping[str, object]) -> Page:
    return Page(f"Labels of {data}", about=about, has_bars=meta.get("scores") != "none")


def _computation(
    job: ClassifyJob, run: Run, open_things: ExitStack, specs: Sequence[Spec]
) -> Computation:
    """Load the models, and build the function that the run calls.

    With `html`, the workers that make thumbnails run until `open_things` is closed.
    """
    models = [
        load_classifier(spec, job.options, job.words, job.running, run.reporter, scores=job.scores)
        for spec in specs
    ]
    function = check_heads(models, "vit embed -m {} computes its features", job.scores)
    if job.select is not None:
        job.select.check_labels(models[0].labels)
    plans, logits_of = open_classifiers(models, job.running, run.reporter.note)
    forward = _forward(logits_of, models[0].labels, function, job)
    if job.html is not None:
        limits, formats = job.inputs.limits, job.inputs.formats
        drawing = Drawing(plan=plans[0], limits=limits, formats=formats, has_thumbnail=True)
        pool = WorkerPool(drawing, job.running.workers, run.reporter.note)
        forward = _with_thumbnails(forward, open_things.enter_context(pool))
    return Computation(
        plans=plans,
        forward=forward,
        start=logits_of.starter,
        meta={"scores": function, **described_merging(models, job.running)},
        reads_again=job.html is not None,
    )


def _selected(selection: Selection) -> Callable[[Row], bool]:
    """Return the test of the rows to write: selected images and all failures."""
    return lambda row: not isinstance(row, Classified) or selection.takes(row)


def _with_thumbnails(forward: ClassifyBatch, pool: WorkerPool) -> ClassifyBatch:
    """Add a small image to each row of `forward`, for the page."""

    def add(row: Classified, pixels: Sequence[NDArray[np.uint8]]) -> Classified:
        return replace(row, thumbnail=pixels[0].tobytes())

    return lambda batch: draw_rows(pool, forward(batch), lambda number, row: Request(), add)


def _forward(
    logits_of: Callable[[Batch], list[Numbers]],
    labels: Sequence[str],
    function: ScoreFunction,
    job: ClassifyJob,
) -> ClassifyBatch:
    """Return the function from a batch to its rows."""
    takes_all = function == "sigmoid" and job.threshold is not None
    count = job.top_k or (len(labels) if takes_all else TOP_K)

    def forward(batch: Batch) -> list[Classified | Failure]:
        logits = logits_of(batch)
        scores = [to_scores(output, function, job.running.engine) for output in logits]
        best, indices = top_k(averaged(scores, job.running.engine), count)
        images = zip(batch.refs, best.tolist(), indices.tolist(), strict=True)
        rows = [
            Classified(
                ref,
                tuple(predictions_of(values, classes, labels, job.threshold)),
                are_shares=function != "none",
            )
            for ref, values, classes in images
        ]
        return with_failures(rows, are_finite(*logits), overflow(job.running))

    return forward
