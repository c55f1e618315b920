"""Classify images from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

from vitcli.api.images import Images, inputs_of
from vitcli.api.running import RunningOptions
from vitcli.checkpoints.load import Model
from vitcli.fleet.share import share
from vitcli.jobs.job import DEFAULT_MODEL, Running
from vitcli.jobs.words import Classes, words_of
from vitcli.records import Classified, Failure, TextClean
from vitcli.sinks.memory import ListSink
from vitcli.tasks.classify.classify import ClassifyJob


def classify(
    images: Images,
    *,
    model: str | Model | Sequence[str | Model] = DEFAULT_MODEL,
    top_k: int = 5,
    scores: Literal["prob", "softmax", "sigmoid", "logit", "cosine"] = "prob",
    classes: Classes | None = None,
    templates: str | Sequence[str] | None = None,
    text_clean: TextClean | None = None,
    tokenizer: str | None = None,
    devices: Literal["all"] | Sequence[str] = (),
    ray: str | None = None,
    **running: Unpack[RunningOptions],
) -> list[Classified | Failure]:
    """Return the best labels of every image: one row for each, in input order.

    images: paths, directories (recursive), patterns, URLs, and images in memory: PIL.Image, uint8
    arrays (H, W, 3) or (H, W), uint8 tensors (3, H, W), bytes, open files; one, or any mixed
    sequence. A row is `Classified` with `ref.path` and `predictions`, or `Failure` with `type` and
    `message`. An image in memory has the name of its file, or else `image 0` for the first row.
    The scores of several models are averaged. scores: "prob" is what the head is trained for
    (softmax, sigmoid, or the number of a regression); the others override it. devices ("all", or
    ["cuda:0", "cuda:1"]): one process for each shares the work. ray: the address of a Ray cluster
    whose workers share it. Both need paths, and names of models, not loaded ones. classes: for a
    model with a text tower, the labels in words (["cat", "a red car"]), or phrases for each label
    ({"car": ["a car", "a van"]}). templates: "simple", "openai", "none", or templates such as
    "a photo of a {}."; the texts of a class are averaged. text_clean, tokenizer: instead of the
    model's. Raises VitError for an error that ends the run.
    """
    several = isinstance(model, Sequence) and not isinstance(model, str)
    names = (devices,) if isinstance(devices, str) else tuple(devices)
    sink = ListSink()
    share(
        ClassifyJob(
            inputs=inputs_of(images, are_shared=bool(names) or ray is not None),
            models=tuple(model) if several else (model,),  # type: ignore[arg-type]
            running=Running(**running),
            top_k=top_k,
            scores=scores,
            words=words_of(classes, templates=templates, clean=text_clean, tokenizer=tokenizer),
        ),
        devices=names,
        ray=ray,
        sink=sink,
    )
    return [row for row in sink.rows if isinstance(row, Classified | Failure)]
