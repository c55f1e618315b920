"""The events of a training: one after each step and one after each epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepDone:
    """The end of a step. `loss` and `accuracy` are means over the epoch so far and over all
    processes; a training without classes has no accuracy."""

    epoch: int
    step: int
    steps: int
    loss: float
    accuracy: float | None
    lr: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class EpochDone:
    """The end of an epoch, and a line of metrics.jsonl. `val_` fields are None if no images are
    held out."""

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float | None
    val_loss: float | None
    val_top1: float | None
    val_top5: float | None
    lr: float
    images_per_second: float
    seconds: float
    is_best: bool
