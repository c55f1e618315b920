"""Find options of a training that have no effect with its other options, its recipe or its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from vitcli.errors import UsageError
from vitcli.images.augment import Level
from vitcli.tasks.finetune.job import TrainingOptions, option_of
from vitcli.training.recipe import RecipeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """The facts that decide whether an option has an effect; None for what is not known yet."""

    is_mim: bool
    recipe: RecipeKind | None = None
    augment: Level | None = None
    has_own_split: bool | None = None
    holds_out: bool | None = None


@dataclass(frozen=True, slots=True)
class Unused:
    """One reason why an option has no effect. `off` is a value that asks for nothing. With
    `is_error` the options contradict each other: the training they ask for is another one."""

    name: str
    applies: Callable[[Circumstances], bool]
    why: str
    hint: str
    is_error: bool = True
    off: object = None


def _not_lora(now: Circumstances) -> bool:
    return now.recipe not in (None, "lora")


def _is_head(now: Circumstances) -> bool:
    return now.recipe == "head"


def _is_mim(now: Circumstances) -> bool:
    return now.is_mim


LORA = "it is for --train lora", "add --train lora, or leave it out"
HEAD = (
    "--train head computes the features of each image once",
    "leave it out, or train last-1, lora or full",
)
LABELS = "--objective mim learns without labels", "leave it out"
UNUSED = (
    Unused("lora_rank", _not_lora, *LORA),
    Unused("lora_alpha", _not_lora, *LORA),
    Unused(
        "mask_ratio",
        lambda now: not now.is_mim,
        "it is for --objective mim",
        "add --objective mim, or leave it out",
    ),
    Unused("smoothing", _is_mim, *LABELS, off=0.0),
    Unused("mixup", _is_mim, *LABELS),
    Unused("cutmix", _is_mim, *LABELS),
    Unused("class_weights", _is_mim, *LABELS),
    Unused("drop_path", _is_mim, "--objective mim drops no blocks", "leave it out"),
    Unused("augment", _is_head, *HEAD, off="none"),
    Unused("mixup", _is_head, *HEAD),
    Unused("cutmix", _is_head, *HEAD),
    Unused("drop_path", _is_head, *HEAD),
    Unused("layer_decay", _is_head, "a head is one layer", "", is_error=False, off=1.0),
    Unused("checkpointing", _is_head, HEAD[0], "", is_error=False),
    Unused(
        "flip",
        lambda now: now.augment == "none",
        "without augmentation nothing is mirrored",
        "",
        is_error=False,
    ),
    Unused(
        "val_split",
        lambda now: now.has_own_split is True,
        "the data have validation images of their own",
        "",
        is_error=False,
    ),
    Unused(
        "patience",
        lambda now: now.holds_out is False,
        "no images are held out for validation",
        "",
        is_error=False,
    ),
)
NAMES = {"flip": "--no-flip"}


def unused(training: TrainingOptions, now: Circumstances) -> Iterator[str]:
    """Yield a note for each option that is given and has no effect. Raises UsageError for one that
    contradicts another."""
    defaults = {field.name: field.default for field in fields(TrainingOptions)}
    for row in UNUSED:
        value = getattr(training, row.name)
        if value in (defaults[row.name], row.off) or not row.applies(now):
            continue
        told = f"{NAMES.get(row.name, option_of(row.name))} has no effect: {row.why}"
        if row.is_error:
            raise UsageError(told, row.hint)
        yield told
