"""Train, measure and reconstruct from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from vitcli.api.classify import Models, models_of
from vitcli.api.images import Images, inputs_of
from vitcli.api.options import ModelArguments, PathLike, model_options, path_of
from vitcli.api.running import RunningOptions, Watch
from vitcli.checkpoints.scoring import Scores
from vitcli.engines import DtypeName
from vitcli.jobs.job import DEFAULT_MASKED_MODEL, DEFAULT_MODEL, Running, Summary
from vitcli.jobs.words import Classes, words_of
from vitcli.records import Failure, TextClean

if TYPE_CHECKING:  # import torch
    from vitcli.checkpoints.load import Model
    from vitcli.images.augment import Level
    from vitcli.tasks.evaluate.job import Evaluation
    from vitcli.tasks.finetune.job import Finetuned
    from vitcli.training.events import EpochDone, StepDone


class TrainingArguments(TypedDict, total=False):
    """How to train: the options of `vit finetune`, whose page describes them. What is not given is
    chosen, and told to the logger `vitcli`."""

    objective: Literal["classify", "mim"]
    train: str | None
    epochs: int | None
    lr: float | None
    weight_decay: float | None
    layer_decay: float | None
    warmup: float | None
    batch_size: int | None
    accumulate: int
    clip: float
    seed: int
    val_split: float
    augment: Level | None
    flip: bool
    smoothing: float | None
    mixup: float
    cutmix: float
    drop_path: float
    ema: float | None
    patience: int | None
    class_weights: bool
    checkpointing: bool
    lora_rank: int
    lora_alpha: float
    mask_ratio: float | None
    save_every: float


class _TrainingWatch(Watch):
    """Names the epoch in the bar, and keeps a note of images that cannot be read."""

    def trained(self, event: StepDone | EpochDone, epochs: int) -> None:
        self.doing(f"epoch {event.epoch} of {epochs}")

    def left_out(self, failures: Sequence[Failure], where: Path) -> None:
        self.note(f"{len(failures):,} images cannot be read; {where} lists them")


def finetune(
    data: PathLike,
    out: PathLike,
    *,
    model: str | Model = DEFAULT_MODEL,
    val: PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    dtype: DtypeName = "fp32",
    compile: bool = False,
    workers: int | None = None,
    progress: bool = False,
    options: ModelArguments | None = None,
    **training: Unpack[TrainingArguments],
) -> Finetuned:
    """Train a model on a folder for each class, a table, or archives, and write it to the folder
    `out`, which every function opens as a model.

    The result has the number of `epochs`, the `best_epoch`, and its accuracy (`score`) on the
    `held_out` images. resume: go on with the training in `out`. options: those of the model, as a
    dict. Raises VitError; UsageError for options that contradict each other.
    """
    from vitcli.tasks.finetune.finetune import finetune as task
    from vitcli.tasks.finetune.job import FinetuneJob, TrainingOptions

    job = FinetuneJob(
        data=os.fspath(data),
        out=Path(out),
        model=model,
        val=None if val is None else os.fspath(val),
        options=model_options(options or {}),
        running=Running(device=device, dtype=dtype, compile=compile, workers=workers),
        training=TrainingOptions(**training),
        overwrite=overwrite,
        resume=resume,
    )
    with _TrainingWatch(progress=progress) as watch:
        return task(job, watch)


def evaluate(
    data: PathLike,
    *,
    model: Models = DEFAULT_MODEL,
    scores: Scores = "prob",
    threshold: float | None = None,
    knn: int | None = None,
    preds: PathLike | None = None,
    classes: Classes | None = None,
    templates: str | Sequence[str] | None = None,
    text_clean: TextClean | None = None,
    tokenizer: str | None = None,
    progress: bool = False,
    options: ModelArguments | None = None,
    **running: Unpack[RunningOptions],
) -> Evaluation:
    """Measure models on labelled images: a folder for each class, a table, or archives.

    The result has one of `models` for each model, and the last is their average: `headline()` has
    its most important numbers, and `numbers(paths)` all of them, with `paths` of the result.
    Images that fail are its `failures`, and count in no score. knn: measure embeddings, by the
    votes of this many neighbours. preds: measure a file of `vit classify`. threshold: which of
    several labels an image gets. options: those of the model, as a dict. Raises VitError.
    """
    from vitcli.tasks.evaluate.evaluate import evaluate as task
    from vitcli.tasks.evaluate.job import EvaluateJob

    job = EvaluateJob(
        data=os.fspath(data),
        models=models_of(model),
        options=model_options(options or {}),
        running=Running(**running),
        scores=scores,
        threshold=threshold,
        words=words_of(classes, templates=templates, clean=text_clean, tokenizer=tokenizer),
        knn=knn,
        preds=path_of(preds),
    )
    with Watch(progress=progress) as watch:
        return task(job, watch)


def reconstruct(
    images: Images,
    out: PathLike,
    *,
    model: str | Model = DEFAULT_MASKED_MODEL,
    mask_ratio: float | None = None,
    seed: int = 0,
    paste: bool = True,
    overwrite: bool = False,
    progress: bool = False,
    options: ModelArguments | None = None,
    **running: Unpack[RunningOptions],
) -> Summary:
    """Draw the original, the masked image and the reconstruction of a masked autoencoder next to
    each other, a PNG for each image below the folder `out`.

    mask_ratio: the share of hidden patches; None is the model's own. paste: show the visible
    patches unchanged. Returns how many were `done`, and how many `failed`. Raises VitError.
    """
    from vitcli.tasks.reconstruct import ReconstructJob
    from vitcli.tasks.reconstruct import reconstruct as task

    job = ReconstructJob(
        inputs=inputs_of(images),
        out=Path(out),
        model=model,
        options=model_options(options or {}),
        running=Running(**running),
        mask_ratio=mask_ratio,
        seed=seed,
        paste=paste,
        overwrite=overwrite,
    )
    with Watch(progress=progress) as watch:
        return task(job, watch)
