"""Choose the recipe and the numbers of a training from the options, the model and the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from vitcli.checkpoints.load import Model
from vitcli.errors import UsageError
from vitcli.images.augment import Level
from vitcli.machine import available_cpus
from vitcli.models.config import ViTConfig
from vitcli.models.cost import cost
from vitcli.models.mae import MaskedAutoencoder
from vitcli.tasks.finetune.job import TrainingOptions
from vitcli.training.example import Example
from vitcli.training.recipe import Recipe, parse_recipe

MAX_FULL_SECONDS = 20 * 60  # to train the whole network; above, only the head trains
GFLOPS_PER_SECOND = {"cpu": 60.0, "mps": 2_000.0, "cuda": 10_000.0}  # of one processor or device
MIN_CLASS_IMAGES = 5  # to train the whole network; below, only the head trains


@dataclass(frozen=True, slots=True)
class ChosenRecipe:
    """The recipe, every number of the training, and a sentence that describes them."""

    recipe: Recipe
    epochs: int
    lr: float
    weight_decay: float
    layer_decay: float
    warmup: float
    batch_size: int
    augment: Level
    smoothing: float
    mask_ratio: float
    why: str


def choose_recipe(
    training: TrainingOptions,
    model: Model,
    examples: Sequence[Example],
    device: torch.device,
    processes: int = 1,
) -> ChosenRecipe:
    """Choose every number that the options leave open. Raises UsageError for contradictions.
    `processes` share each batch.

    Learning rates are proportional to 1 / width, as in muP (arXiv 2203.03466): 1.3e-4 for ViT-B.
    """
    train = [e for e in examples if e.split == "train"]
    is_mim = training.objective == "mim"
    epochs = training.epochs or (100 if is_mim else 20)
    recipe, why = asked_recipe(training), "as asked"
    if recipe is None:
        recipe, why = _recipe(model, train, epochs, device)
    elif training.train is None:
        why = "--objective mim trains the whole network"
    depth = model.network.num_blocks
    if recipe.blocks > depth:
        raise UsageError(
            f"--train {recipe}: {model.spec} has {depth} block{'s' * (depth != 1)}",
            "--train full trains them all",
        )
    is_head = recipe.kind == "head"
    if is_head and training.epochs is None:
        epochs = 50
    config = model.config
    width = config.embed_dim if isinstance(config, ViTConfig) else config.dims[-1]
    lr = {"head": 1e-3, "lora": 0.4 / width, "last": 0.1 / width, "full": 0.1 / width}[recipe.kind]
    decay = 0.75 if depth >= 12 else 0.9
    usual = 64 if is_head else 32
    takes_all = is_mim or recipe.kind in ("head", "lora")
    chosen = ChosenRecipe(
        recipe=recipe,
        epochs=epochs,
        lr=_or_default(training.lr, lr),
        weight_decay=_or_default(training.weight_decay, 1e-3 if is_head else 0.05),
        layer_decay=_or_default(training.layer_decay, 1.0 if takes_all else decay),
        warmup=_or_default(training.warmup, 0.05 * epochs),
        batch_size=training.batch_size or usual + -usual % processes,
        augment=training.augment or ("none" if is_head else "light"),
        smoothing=_or_default(training.smoothing, 0.0 if is_head else 0.1),
        mask_ratio=_mask_ratio(training, model),
        why="",
    )
    images = f"{len(train):,} images" + ("" if is_mim else f" of {len(model.labels):,} classes")
    sentence = (
        f"--train {recipe} ({why}), {images}, {epochs} epochs, batches of {chosen.batch_size}, "
        f"lr {chosen.lr:.2g}, --augment {chosen.augment}"
    )
    return replace(chosen, why=sentence)


def asked_recipe(training: TrainingOptions) -> Recipe | None:
    """Return the recipe that the options ask for; None if they leave the choice. Raises UsageError
    for an unknown recipe, and for one that the objective does not have."""
    is_mim = training.objective == "mim"
    if training.train is None:
        return Recipe("full") if is_mim else None
    recipe = parse_recipe(training.train, training.lora_rank, training.lora_alpha)
    if is_mim and recipe.kind != "full":
        raise UsageError(
            f"--objective mim trains the whole network, not {recipe}", "leave out --train"
        )
    return recipe


def _recipe(
    model: Model, train: Sequence[Example], epochs: int, device: torch.device
) -> tuple[Recipe, str]:
    fewest = min(Counter(e.label for e in train).values(), default=0)
    rate = GFLOPS_PER_SECOND[device.type] * (available_cpus() if device.type == "cpu" else 1)
    # 2 per multiply-add; forward and backward together cost 3 forward passes.
    flops_per_image = 3 * 2 * cost(model.config).gflops
    seconds = flops_per_image * len(train) * epochs / rate
    about = f"about {seconds / 60:.0f} min" if seconds < 3600 else f"about {seconds / 3600:.1f} h"
    about = "less than a minute" if seconds < 60 else about
    if fewest < MIN_CLASS_IMAGES:
        return Recipe("head"), f"a class has only {fewest} image{'s' * (fewest != 1)}"
    if seconds > MAX_FULL_SECONDS:
        return Recipe("head"), f"the whole network would take {about} here"
    return Recipe("full"), f"it takes {about} here"


def _mask_ratio(training: TrainingOptions, model: Model) -> float:
    """The ratio in the options, else that of a masked autoencoder's checkpoint, else SimMIM's."""
    if training.mask_ratio is not None:
        return training.mask_ratio
    if isinstance(model.reconstruction, MaskedAutoencoder):
        return model.reconstruction.mask_ratio
    return 0.6


def _or_default(value: float | None, default: float) -> float:
    return default if value is None else value
