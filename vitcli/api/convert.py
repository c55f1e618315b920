"""Describe and convert checkpoints from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from vitcli.api.options import ModelArguments, PathLike, model_options
from vitcli.api.running import Watch
from vitcli.jobs.job import DEFAULT_MODEL
from vitcli.jobs.words import Classes, words_of
from vitcli.records import TextClean
from vitcli.tasks.info import InfoJob, ModelInfo
from vitcli.tasks.info import info as described

if TYPE_CHECKING:  # import torch
    from vitcli.checkpoints.load import Model
    from vitcli.tasks.convert import Conversion


def info(model: str | Model = DEFAULT_MODEL, **options: Unpack[ModelArguments]) -> ModelInfo:
    """Return what a model is: its sizes, parameters, cost, files, labels and preprocessing, each
    step with its source. `dataclasses.asdict` makes a dict of it. Raises VitError."""
    return described(InfoJob(model=model, options=model_options(options)))


def convert(
    source: str,
    target: PathLike,
    *,
    to: Literal["hf", "timm", "onnx"],
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32",
    verify: bool = False,
    overwrite: bool = False,
    classes: Classes | None = None,
    templates: str | Sequence[str] | None = None,
    text_clean: TextClean | None = None,
    tokenizer: str | None = None,
    **options: Unpack[ModelArguments],
) -> Conversion:
    """Write a checkpoint for transformers or timm (`target` is a folder), or as an ONNX file.

    verify: load both, and compare logits and hidden states. classes and the next three, for an ONNX
    file of a model with a text tower: the labels in words, as in `classify`. The result has the
    `changes` of the tensors, `notes`, and the differences that were measured (`deltas`).
    Raises VitError, and writes nothing, if the target cannot express the model or a difference is
    too large.
    """
    from vitcli.tasks import convert as task

    words = words_of(classes, templates=templates, clean=text_clean, tokenizer=tokenizer)
    job = task.ConvertJob(
        source=source,
        target=Path(target),
        to=to,
        dtype=dtype,
        verify=verify,
        overwrite=overwrite,
        options=model_options(options),
        words=words,
    )
    with Watch(progress=False) as watch:
        return task.convert(job, watch)
