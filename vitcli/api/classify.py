"""Classify images from Python."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, Unpack

from vitcli.api.images import Images, inputs_of
from vitcli.api.rows import CLASSIFIED, Rows, record_of
from vitcli.api.running import OnError, RowSink, RunningOptions, Watch, check_on_error, streamed
from vitcli.checkpoints.scoring import Scores
from vitcli.fleet.share import share
from vitcli.jobs.job import DEFAULT_MODEL, Inputs, Running
from vitcli.jobs.words import Classes, words_of
from vitcli.records import Classified, Failure, TextClean
from vitcli.tasks.classify.classify import TOP_K, ClassifyJob, iter_classified

if TYPE_CHECKING:  # imports torch
    from vitcli.checkpoints.load import Model

Models: TypeAlias = "str | Model | Sequence[str | Model]"


def classify(
    images: Images,
    *,
    model: Models = DEFAULT_MODEL,
    top_k: int = TOP_K,
    scores: Scores = "prob",
    classes: Classes | None = None,
    templates: str | Sequence[str] | None = None,
    text_clean: TextClean | None = None,
    tokenizer: str | None = None,
    devices: Literal["all"] | Sequence[str] = (),
    ray: str | None = None,
    on_error: OnError = "row",
    progress: bool = False,
    **running: Unpack[RunningOptions],
) -> Rows[Classified | Failure]:
    """Return the best labels of every image: one row for each, in input order.

    images: paths, directories (recursive), patterns, URLs, and images in memory: PIL.Image, uint8
    arrays (H, W, 3) or (H, W), uint8 tensors (3, H, W), bytes, open files; one, or any mixed
    sequence. A row is `Classified` with `path`, and `predictions` (`label`, `index`, `score`), best
    first; or `Failure` with `path`, `type` and `message`, whose `ok` is False. An image in memory
    has the name of its file, or else `image 0` for the first row.

    The scores of several models are averaged. scores: "prob" is what the head is trained for
    (softmax, sigmoid, or the number of a regression); the others override it. classes: for a model
    with a text tower, the labels in words (["cat", "a red car"]), or phrases for each label
    ({"car": ["a car", "a van"]}). templates: "simple", "openai", "none", or templates such as
    "a photo of a {}."; the texts of a class are averaged. text_clean, tokenizer: instead of the
    model's.

    devices ("all", or ["cuda:0", "cuda:1"]): one process for each shares the work. ray: the address
    of a Ray cluster whose workers share it. Both need paths, and names of models, not loaded ones.
    on_error: an image that fails has a "row", is left out ("skip"), or ends the run with an
    ImageFailed ("raise"). progress: a bar on stderr, in a terminal or a notebook.
    Raises VitError for an error that ends the run.
    """
    names = (devices,) if isinstance(devices, str) else tuple(devices)
    job = _job(
        inputs_of(images, are_shared=bool(names) or ray is not None),
        *(model, top_k, scores, classes, templates, text_clean, tokenizer, running),
    )
    sink = RowSink(on_error)
    with Watch(progress=progress) as watch:
        share(job, watch, devices=names, ray=ray, sink=sink)
    rows = [row for row in sink.rows if isinstance(row, Classified | Failure)]
    return Rows(rows, CLASSIFIED, record_of, watch.notes)


def classify_iter(
    images: Images,
    *,
    model: Models = DEFAULT_MODEL,
    top_k: int = TOP_K,
    scores: Scores = "prob",
    classes: Classes | None = None,
    templates: str | Sequence[str] | None = None,
    text_clean: TextClean | None = None,
    tokenizer: str | None = None,
    on_error: OnError = "row",
    progress: bool = False,
    **running: Unpack[RunningOptions],
) -> Generator[Classified | Failure, None, None]:
    """Yield the rows of `classify` one after the other. Memory does not grow with their number, so
    the images may come from a generator that has no end.

    Two batches are read ahead, and at least two images for each worker process. With batch_size=1
    and workers=0, an image is taken only when its row is asked for. The model is loaded for the
    first row. Closing the generator ends the workers. Raises as `classify` does.
    """
    job = _job(
        inputs_of(images),
        *(model, top_k, scores, classes, templates, text_clean, tokenizer, running),
    )
    check_on_error(on_error)
    watch = Watch(progress=progress)
    return streamed(iter_classified(job, watch), watch, on_error)


def models_of(model: Models) -> tuple[str | Model, ...]:
    """One model or several as a tuple."""
    several = isinstance(model, Sequence) and not isinstance(model, str)
    return tuple(model) if several else (model,)  # type: ignore[arg-type, return-value]


def _job(
    inputs: Inputs,
    model: Models,
    top_k: int,
    scores: Scores,
    classes: Classes | None,
    templates: str | Sequence[str] | None,
    clean: TextClean | None,
    tokenizer: str | None,
    running: RunningOptions,
) -> ClassifyJob:
    words = words_of(classes, templates=templates, clean=clean, tokenizer=tokenizer)
    return ClassifyJob(
        inputs=inputs,
        models=models_of(model),
        running=Running(**running),
        top_k=top_k,
        scores=scores,
        words=words,
    )
