"""Draw attention maps of images into a folder that has the same tree as the inputs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.scoring import Numbers, to_scores
from vitcli.errors import UsageError
from vitcli.files import PARTIAL
from vitcli.images.kinds import suffixes
from vitcli.images.scan import DRAWN
from vitcli.images.workers import WorkerPool
from vitcli.jobs.drawing import Drawing, Request, check_page, data_name, draw_rows
from vitcli.jobs.finite import are_finite, overflow, with_failures
from vitcli.jobs.job import DEFAULT_MODEL, SILENT, Inputs, ModelOptions, Reporter, Running, Summary
from vitcli.jobs.listing import Listing, list_inputs
from vitcli.jobs.loading import Spec, describe_model, load_model, prepare_model
from vitcli.jobs.outputs import output_of
from vitcli.jobs.precision import settled
from vitcli.jobs.predictions import predictions_of, top_k
from vitcli.jobs.run import Computation, Run
from vitcli.jobs.writing import write_rows
from vitcli.models.prepare import Prepared
from vitcli.records import Attended, Batch, Failure, ImageRef, Maps, Prediction, Sink, Size
from vitcli.render.heat import FileFormat
from vitcli.render.page import Page
from vitcli.render.styles import Style
from vitcli.runs.journal import JOURNAL, journal_of
from vitcli.runs.output import Output
from vitcli.runs.shard import Resuming, check_start
from vitcli.sinks.format import Format
from vitcli.sinks.pictures import PictureTree
from vitcli.tasks.attention.query import AttentionQuery, check_running
from vitcli.tasks.attention.runner import AttentionRunner

ROWS = "attention.jsonl"  # in the output folder: a line for each image
TOP_K = 5
AttendBatch: TypeAlias = Callable[[Batch], list[Attended | Failure]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionJob:
    """One run of `vit attention`. The folder `out` gets the maps drawn in `style`, arrays if `raw`,
    and a file with a line for each image; `echo` also writes the lines to stdout. `html` is a page
    of all images. `show` is the largest (height, width) in pixels for a preview of the first
    image."""

    command: ClassVar[str] = "attention"

    inputs: Inputs
    model: str | Model = DEFAULT_MODEL
    options: ModelOptions = ModelOptions()
    running: Running = Running()
    look: AttentionQuery = AttentionQuery()
    style: Style = Style()
    file_format: FileFormat = "png"
    raw: bool = False
    out: Path | None = None
    html: Path | None = None
    echo: bool = False
    show: Size | None = None
    overwrite: bool = False
    resuming: Resuming = Resuming()
    config: str | None = None

    def __post_init__(self) -> None:
        check_start(overwrite=self.overwrite, resume=self.resuming.resume)
        check_running(self.running)
        if self.raw and self.out is None:
            raise UsageError("--raw writes files", "name a folder for them with --out DIR")
        if self.out is not None and self.out.suffix.lower() in suffixes("common"):
            raise UsageError(
                f"--out {self.out} names a folder, and this is named like a picture",
                "with --out maps, photos/cat.jpg becomes maps/photos/cat.png",
            )
        if self.style.mass != Style().mass and self.style.name != "mask":
            raise UsageError("--mass has no effect without --style mask", "add --style mask")
        check_page(self.html, self.resuming)

    def output_format(self) -> Format:
        """The format of the rows."""
        if self.html is None:
            return Format(echo=self.echo and self.out is not None)
        return Format(echo=self.echo, page="alone" if self.out is None else "beside")


def attention(
    job: AttentionJob,
    reporter: Reporter = SILENT,
    sink: Sink | None = None,
    show: Callable[[NDArray[np.uint8]], None] = lambda pixels: None,
) -> Summary:
    """Run the job. Rows go to `sink` if there is one, else to the job's output; `show` is called
    with the pixels of the preview.

    Raises VitError for errors that end the run; an image that fails is a row.
    """
    shard, is_once = job.resuming.shard, job.out is not None
    listing = list_inputs(job.inputs, reporter.note, shard=shard, is_once=is_once)
    job = replace(job, running=settled(job.running, _resumed(job)))
    run = Run(job.inputs, job.running, reporter, listing)
    tree = None if job.out is None else _tree(job, job.out, listing)
    with ExitStack() as open_things:
        if tree is not None:
            open_things.callback(tree.leave)
        load = partial(_computation, job, run, tree, show, open_things)
        output, offline = _output(job, tree), job.options.offline
        summary = write_rows(run, output, [job.model], load, sink=sink, offline=offline)
        if tree is not None:
            tree.end()
        return summary


def _resumed(job: AttentionJob) -> list[Path]:
    """The output that this run may resume."""
    shard, out = job.resuming.shard, job.html if job.out is None else job.out / ROWS
    if out is None or not job.resuming.resume:
        return []
    return [shard.named(out) if shard else out]


def _tree(job: AttentionJob, out: Path, listing: Listing) -> PictureTree:
    """Return the output folder. Raises OutputError if the run must not write to it."""
    tree = PictureTree(
        out,
        DRAWN,
        job.inputs.paths,
        overwrite=job.overwrite or job.resuming.resume,
        records=(ROWS, journal_of(Path(ROWS)).name, ROWS + PARTIAL + JOURNAL),
        is_image=lambda name: name.lower().endswith(tuple(suffixes("common"))),
        is_absolute=lambda: listing.is_absolute,
        # The picture of a missing image, whose row is kept, must stay its own.
        is_brief=not job.resuming.keep_missing,
    )
    tree.check()
    return tree


def _computation(
    job: AttentionJob,
    run: Run,
    tree: PictureTree | None,
    show: Callable[[NDArray[np.uint8]], None],
    open_things: ExitStack,
    specs: Sequence[Spec],
) -> Computation:
    """Load the model, and build the function that the run calls. The workers that draw run until
    `open_things` is closed."""
    note = run.reporter.note
    model = load_model(specs[0], job.options, note)
    has_caption = job.out is not None and job.style.name == "panel"
    wants_logits = has_caption or job.html is not None
    runner = AttentionRunner(model, job.look, wants_logits=wants_logits, note=note)
    prepared = prepare_model(model, job.running, note)
    forward = _forward(runner, prepared, job.running)
    if tree is not None or job.html is not None or job.show is not None:
        drawing = Drawing(
            plan=model.preprocess,
            limits=job.inputs.limits,
            formats=job.inputs.formats,
            style=job.style if tree else None,
            file_format=job.file_format,
            has_thumbnail=job.html is not None,
        )
        pool = open_things.enter_context(WorkerPool(drawing, job.running.workers, note))
        forward = MapRenderer(job, pool, tree, show).after(forward)
    if job.look.method == "grad" and (job.running.quantize or job.running.dtype != "fp32"):
        note("--method grad runs in fp32 on PyTorch: --dtype and --quantize have no effect")
    if tree is not None:
        tree.begin()
    meta = {**describe_model(model), "scores": model.score_function}
    plans = (model.preprocess,)
    return Computation(plans=plans, forward=forward, meta=meta, reads_again=True)


def _output(job: AttentionJob, tree: PictureTree | None) -> Output:
    return replace(
        output_of(job, None if job.out is None else job.out / ROWS, job.output_format()),
        html=job.html,
        page=partial(_page, job) if job.html else None,
        has_files=partial(_has_files, tree, bool(job.html)) if tree else None,
    )


def _has_files(tree: PictureTree, is_page: bool, ref: ImageRef, text: bytes) -> bool:
    """Whether all files of a row exist; `text` is the row's line, or its part of the page."""
    try:
        record = Page("").record_in(text) if is_page else json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and tree.has_all(ref, record.get("files"))


def _page(job: AttentionJob, meta: Mapping[str, object]) -> Page:
    about = f"model {meta['model']}, method {job.look.method}"
    title, has_bars = f"Attention on {data_name(job.inputs)}", meta.get("scores") != "none"
    return Page(title, job.style, about=about, has_bars=has_bars)


def _forward(runner: AttentionRunner, prepared: Prepared, running: Running) -> AttendBatch:
    """Return the function from a batch to its rows."""
    labels, function = runner.model.labels, runner.model.score_function
    query = runner.query

    def forward(batch: Batch) -> list[Attended | Failure]:
        attended = runner(prepared, batch)
        rows: list[Attended] = []
        for image, (ref, size) in enumerate(zip(batch.refs, batch.sizes, strict=True)):
            logits = None if attended.logits is None else attended.logits[image].numpy()
            scores = None if logits is None else to_scores(logits, function, "torch")
            row = Attended(
                ref,
                runner.maps_of(attended, image, size),
                query.method,
                runner.patch_of(attended, size),
                predictions=() if scores is None else _best(scores, labels),
            )
            if query.method == "grad" and logits is not None and scores is not None:
                top = int(logits.argmax())  # not by scores, of which several may round to 1
                target = top if runner.target is None else runner.target
                score = float(scores[target])
                row = replace(row, target=Prediction(labels[target], target, score))
            rows.append(row)
        results = [maps.numpy() for maps in attended.maps.values()]
        if attended.logits is not None:
            results.append(attended.logits.numpy())
        return with_failures(rows, are_finite(*results), overflow(running))

    return forward


def _best(scores: Numbers, labels: Sequence[str]) -> tuple[Prediction, ...]:
    best, indices = top_k(scores[None], TOP_K)
    return tuple(predictions_of(best[0].tolist(), indices[0].tolist(), labels, None))


class MapRenderer:
    """Draws the rows of a batch and writes the files, several images at a time."""

    def __init__(
        self,
        job: AttentionJob,
        pool: WorkerPool,
        tree: PictureTree | None,
        show: Callable[[NDArray[np.uint8]], None],
    ) -> None:
        self._job = job
        self._pool = pool
        self._tree = tree
        self._show = show
        self._has_shown = job.show is None

    def after(self, forward: AttendBatch) -> AttendBatch:
        """Return a function that runs `forward` and draws its rows."""
        return lambda batch: draw_rows(self._pool, forward(batch), self._request, self._written)

    def _request(self, number: int, row: Attended) -> Request:
        best = row.target or next(iter(row.predictions), None)
        caption = f"{best.label}  {best.score:.2f}" if best else ""
        preview = self._job.show if number == 0 and not self._has_shown else None
        return Request(maps=row.maps, caption=caption, note=row.method, preview=preview)

    def _written(self, row: Attended, arrays: Sequence[NDArray[np.uint8]]) -> Attended:
        *pictures, thumbnail, preview = arrays
        if len(preview):
            self._has_shown = True
            self._show(preview)
        row = replace(row, thumbnail=thumbnail.tobytes())
        if self._tree is None:
            return row
        suffix = f".{self._job.file_format}"
        is_sheet = self._job.style.name == "grid"
        names = [suffix] if is_sheet else [name + suffix for name in _names(row.maps)]
        files = {self._tree.path_of(row.ref, n): p for n, p in zip(names, pictures, strict=True)}
        data: dict[Path, bytes | memoryview] = {path: p.data for path, p in files.items()}
        if self._job.raw:
            for maps, name in zip(row.maps, _layer_names(row.maps), strict=True):
                stream = io.BytesIO()
                np.save(stream, np.ascontiguousarray(maps.values))
                data[self._tree.path_of(row.ref, f"{name}.npy")] = stream.getvalue()
        for path, content in data.items():
            self._tree.write(path, content)
        return replace(row, files=tuple(map(str, data)))


def _names(layers: Sequence[Maps]) -> list[str]:
    """The parts of the file names for layer and head. A single layer or head has none."""
    return [
        layer + (f".head{head:0>2}" if len(maps.heads) > 1 else "")
        for maps, layer in zip(layers, _layer_names(layers), strict=True)
        for head in maps.heads
    ]


def _layer_names(layers: Sequence[Maps]) -> list[str]:
    if len(layers) == 1:
        return [""]
    return [f".layer{m.layer:0>2}" if m.layer.isdecimal() else f".{m.layer}" for m in layers]
