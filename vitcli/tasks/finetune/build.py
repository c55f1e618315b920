"""Build the parts of a Trainer from the options of a finetuning and its recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch

from vitcli.checkpoints.load import Model
from vitcli.engines import DtypeName
from vitcli.errors import UsageError
from vitcli.models import onednn
from vitcli.models.config import ViTConfig
from vitcli.models.prepare import can_compile, choose_dtype, compile_layers
from vitcli.tasks.finetune.job import FinetuneJob, TrainingOptions
from vitcli.tasks.finetune.recipe_choice import ChosenRecipe
from vitcli.training.example import Example
from vitcli.training.feed import Order
from vitcli.training.loop import TrainingPlan
from vitcli.training.mixing import Mixing
from vitcli.training.objective import Classify, Normalise, Objective, Reconstruct, WithLoss
from vitcli.training.optim import Optimisation, class_weights
from vitcli.training.pretrain import fixed_of
from vitcli.training.recipe import Recipe, Trained

# The images that a CPU computes at a time have at most this many values in the widest layer.
MAX_MICRO_VALUES = 10 << 20


def make_trained(
    job: FinetuneJob,
    model: Model,
    recipe: Recipe,
    device: torch.device,
    note: Callable[[str], None],
) -> Trained:
    """Return the network to train, on its device: the head alone, or the whole network."""
    training, dtype = job.training, product_dtype(job.running.dtype, device)
    on_cpu, checkpointing = device.type == "cpu", training.checkpointing
    model.network.to(device)
    if recipe.kind == "head":
        return Trained(model.network.head, recipe)
    if training.objective == "mim":
        assert model.reconstruction is not None
        trained = Trained(
            model.reconstruction.to(device),
            recipe,
            on_cpu=on_cpu,
            dtype=dtype,
            checkpointing=checkpointing,
            fixed=fixed_of(model.reconstruction),
            wrap=WithLoss,
        )
        parts = list(trained.module.get_submodule("model").children())
    else:
        trained = Trained(
            model.network,
            recipe,
            on_cpu=on_cpu,
            dtype=dtype,
            checkpointing=checkpointing,
            seed=training.seed,
            drop_path=training.drop_path,
        )
        parts = [trained.module]
    if job.running.compile and on_cpu:
        note("--compile has no effect on a CPU: training already uses oneDNN kernels")
    elif job.running.compile and can_compile(device, note):
        for part in parts:
            compile_layers(part)
    return trained


def product_dtype(dtype: DtypeName, device: torch.device) -> torch.dtype:
    """The dtype of matrix products. Raises UsageError for fp16 on a CPU."""
    chosen = choose_dtype(dtype, device)
    if device.type == "cpu" and chosen == torch.float16:
        raise UsageError("fp16 does not train on a CPU", "use --dtype bf16 or fp32")
    return chosen


def make_objective(
    training: TrainingOptions,
    model: Model,
    examples: Sequence[Example],
    chosen: ChosenRecipe,
    device: torch.device,
) -> Objective:
    """Return the objective: classification, or the reconstruction of hidden patches."""
    normalise = Normalise(model.preprocess, device)
    if training.objective == "mim":
        assert isinstance(model.config, ViTConfig)
        return Reconstruct(normalise, model.config.grid, chosen.mask_ratio)
    weights = None
    if training.class_weights:
        counts = Counter(e.label for e in examples if e.split == "train")
        weights = class_weights(counts[label] for label in model.labels).to(device)
    mixing = Mixing(mixup=training.mixup, cutmix=training.cutmix, smoothing=chosen.smoothing)
    return Classify(normalise, len(model.labels), mixing, weights)


def make_plan(
    job: FinetuneJob, model: Model, chosen: ChosenRecipe, order: Order, device: torch.device
) -> TrainingPlan:
    """Return the plan of the training: its length, optimisation and saves."""
    training, dtype = job.training, product_dtype(job.running.dtype, device)
    has_own_dtype = device.type == "cpu" and onednn.supports(dtype)
    return TrainingPlan(
        epochs=chosen.epochs,
        seed=training.seed,
        optimisation=Optimisation(
            lr=chosen.lr,
            weight_decay=chosen.weight_decay,
            layer_decay=chosen.layer_decay,
            warmup=round(chosen.warmup * order.steps),
            steps=chosen.epochs * order.steps,
            clip=training.clip or None,
        ),
        device=device,
        micro=_micro_batch(training, model, chosen, order, device),
        autocast=None if dtype == torch.float32 or has_own_dtype else dtype,
        ema=training.ema,
        patience=training.patience,
        save_every=60 * training.save_every,
    )


def _micro_batch(
    training: TrainingOptions,
    model: Model,
    chosen: ChosenRecipe,
    order: Order,
    device: torch.device,
) -> int | None:
    """The number of images to compute at a time; None for all images of a step. `--accumulate`
    divides a step, and a CPU computes no more images at a time than fit its caches."""
    if chosen.recipe.kind == "head":
        return None
    part = -(-order.share // training.accumulate)
    config = model.config
    if device.type == "cpu" and isinstance(config, ViTConfig):
        fitting = max(1, MAX_MICRO_VALUES // config.widest_layer)
        part = min(part, max(2, fitting - fitting % 2))
    return part
