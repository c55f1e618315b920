"""The types of `vit finetune`: its job, options, reporter and result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from vitcli.checkpoints.load import Model
from vitcli.errors import UsageError
from vitcli.images.augment import Level
from vitcli.jobs.job import (
    DEFAULT_MODEL,
    Inputs,
    ModelOptions,
    NullReporter,
    Reporter,
    Running,
    Summary,
)
from vitcli.records import Failure
from vitcli.runs.shard import check_start
from vitcli.training.events import EpochDone, StepDone

OPTION_NAMES = {
    "smoothing": "label-smoothing",
    "checkpointing": "gradient-checkpointing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How to train. For None, `choose_recipe` chooses a value; `ema` and `patience` are off."""

    objective: Literal["classify", "mim"] = "classify"
    train: str | None = None
    epochs: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None
    warmup: float | None = None  # epochs
    batch_size: int | None = None
    accumulate: int = 1
    clip: float = 1.0
    seed: int = 0
    val_split: float = 0.2
    augment: Level | None = None
    flip: bool = True
    smoothing: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    ema: float | None = None
    patience: int | None = None
    class_weights: bool = False
    checkpointing: bool = False
    lora_rank: int = 8
    lora_alpha: float = 16.0
    mask_ratio: float | None = None
    save_every: float = 10.0  # minutes

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "patience", "lora_rank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{option_of(name)} {value} is too small", "give 1 or more")
        if not 0 <= self.seed < 1 << 32:
            raise UsageError(f"--seed {self.seed} is too large", "give 0 to 4294967295")
        for name in ("val_split", "ema", "mask_ratio", "smoothing", "drop_path"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UsageError(
                    f"{option_of(name)} {value:g} is not a share", "give a share below 1"
                )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise UsageError(
                f"--layer-decay {self.layer_decay:g} is out of range", "give more than 0, at most 1"
            )


def option_of(name: str) -> str:
    """The command-line option of a field."""
    if name == "data":
        return "DATA"
    return f"--{OPTION_NAMES.get(name, name).replace('_', '-')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneJob:
    """One run of `vit finetune`."""

    data: str
    out: Path
    model: str | Model = DEFAULT_MODEL
    val: str | None = None
    inputs: Inputs = Inputs()
    options: ModelOptions = ModelOptions()
    running: Running = Running()
    training: TrainingOptions = TrainingOptions()
    overwrite: bool = False
    resume: bool = False
    config: str | None = None

    def __post_init__(self) -> None:
        check_start(overwrite=self.overwrite, resume=self.resume)


class TrainingReporter(Reporter, Protocol):
    """A reporter that also receives every step and epoch."""

    def trained(self, event: StepDone | EpochDone, epochs: int) -> None: ...

    def left_out(self, failures: Sequence[Failure], where: Path) -> None:
        """Receive the images that cannot be read, and the file that lists them."""


class NullTrainingReporter(NullReporter):
    """Reports nothing."""

    def trained(self, event: StepDone | EpochDone, epochs: int) -> None: ...

    def left_out(self, failures: Sequence[Failure], where: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class Finetuned:
    """The result. `score` is the accuracy of the best epoch on the `held_out` images; None without
    held-out images or classes."""

    summary: Summary
    epochs: int
    best_epoch: int
    score: float | None
    held_out: int
