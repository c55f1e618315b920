"""Describe a training for the card of its model: data, results and recipe."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitcli.checkpoints.card import Metric
from vitcli.errors import printable
from vitcli.jobs.cards.card import TrainingFacts
from vitcli.render.markdown import Markdown, code
from vitcli.tasks.finetune.directory import RUN
from vitcli.tasks.finetune.job import FinetuneJob
from vitcli.tasks.finetune.recipe_choice import ChosenRecipe
from vitcli.training.example import Example
from vitcli.training.parts import Split
from vitcli.training.recipe import Recipe

SPLITS: tuple[Split, ...] = ("train", "val")


def training_of(
    job: FinetuneJob,
    chosen: ChosenRecipe,
    examples: Sequence[Example],
    history: Sequence[Mapping[str, Any]],
    left_out: int,
) -> TrainingFacts:
    """Describe a training that has ended. Nothing in it depends on the time or the machine."""
    best = next(row for row in reversed(history) if row["is_best"])
    images = Counter(example.split for example in examples)
    splits = [split for split in SPLITS if images[split]]
    counts = Counter((example.label, example.split) for example in examples)
    has_classes = job.training.objective == "classify"
    return TrainingFacts(
        data=_name_of(job.data),
        images=_images(job, images, left_out),
        splits=splits if has_classes else (),
        counts={label: [counts[label, s] for s in splits] for label in {e.label for e in examples}},
        header=["split", "images", "loss", *["accuracy", "top-5 accuracy"] * has_classes],
        results=[_result(split, images[split], best, has_classes) for split in splits],
        explained=" ".join(_explained(best, history, splits, chosen)),
        recipe=list(_recipe(job, chosen)),
        metrics=list(_metrics(best)),
        again=_again(job),
    )


def _name_of(data: str) -> str:
    """The name of the folder, table or archive."""
    return printable(Path(os.path.normpath(data)).name)


def _images(job: FinetuneJob, images: Mapping[Any, int], left_out: int) -> Markdown:
    """The sentences on the images: where they are from, how many, and in which splits."""
    data = code(job.data)
    sentences = [f"{_count(images['train'])} of {data} trained the model."]
    if images["val"]:
        of = "" if job.val is None else f" of {code(job.val)}"
        sentences.append(f"{_count(images['val'])}{of} were held out.")
    if left_out:
        sentences.append(f"{_count(left_out)} could not be read and did not take part.")
    return Markdown(" ".join(sentences))


def _count(images: int) -> str:
    return f"{images:,} image{'s' * (images != 1)}"


def _result(
    split: str, images: int, best: Mapping[str, Any], has_classes: bool
) -> Sequence[object]:
    """The row of a split: images, loss, accuracies."""
    loss, top1, top5 = best["train_loss"], best["train_accuracy"], None
    if split == "val":
        loss, top1, top5 = best["val_loss"], best["val_top1"], best["val_top5"]
    figures = ("" if share is None else f"{share:.2%}" for share in (top1, top5))
    return (split, f"{images:,}", f"{loss:.4f}", *(figures if has_classes else ()))


def _explained(
    best: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    splits: Sequence[str],
    chosen: ChosenRecipe,
) -> Iterator[str]:
    """Yield sentences on how to read the results."""
    if "val" in splits:
        yield f"The model is that of epoch {best['epoch']}, the best of {len(history)}."
        yield "The held-out images chose this epoch, so new images may have slightly worse figures."
    else:
        yield "No images were held out, so the figures do not show how well it does on new images."
    how = "" if chosen.augment == "none" else ", of augmented images"
    yield f"The figures of train are means over the epoch, while the model changed{how}."


def _recipe(job: FinetuneJob, chosen: ChosenRecipe) -> Iterator[tuple[str, object]]:
    """Yield the name and the value of each choice that has an effect."""
    training, is_head = job.training, chosen.recipe.kind == "head"
    is_mim = training.objective == "mim"
    yield "objective", "hidden patches" if is_mim else "classes"
    yield "trained", _trained(chosen.recipe)
    yield "optimizer", "AdamW, with a warm-up and a cosine schedule"
    yield "epochs", f"{chosen.epochs}, with a warm-up of {chosen.warmup:g}"
    yield "batch size", chosen.batch_size
    yield "learning rate", f"{chosen.lr:.4g}"
    yield "weight decay", f"{chosen.weight_decay:g}"
    if chosen.layer_decay != 1:
        yield "layer decay", f"{chosen.layer_decay:g}"
    if training.clip:
        yield "gradient norm", f"at most {training.clip:g}"
    flips = training.flip and not is_head
    yield "augmentation", chosen.augment + (", with mirrored images" if flips else ", no mirroring")
    if is_mim:
        yield "mask ratio", f"{chosen.mask_ratio:g}"
    else:
        yield "label smoothing", f"{chosen.smoothing:g}"
    for name, value in (
        ("mixup", training.mixup),
        ("cutmix", training.cutmix),
        ("drop path", training.drop_path),
        ("average of the weights", training.ema),
    ):
        if value:
            yield name, f"{value:g}"
    if training.class_weights:
        yield "class weights", "by the number of images"
    if training.patience is not None:
        yield "patience", f"{training.patience} epochs"
    yield "precision", job.running.dtype
    yield "seed", training.seed


def _trained(recipe: Recipe) -> str:
    """The weights that changed."""
    match recipe.kind:
        case "head":
            return "the head alone"
        case "last":
            return f"the last {recipe.blocks} blocks and the head"
        case "lora":
            return f"LoRA of rank {recipe.rank} (alpha {recipe.alpha:g}), and the head"
        case "full":
            return "the whole network"


def _metrics(best: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the figures of the held-out images."""
    if best["val_top1"] is not None:
        yield Metric("accuracy", "accuracy", best["val_top1"])
        yield Metric("accuracy", "top-5 accuracy", best["val_top5"])
    if best["val_loss"] is not None:
        yield Metric("loss", "loss", best["val_loss"])


def _again(job: FinetuneJob) -> Markdown | None:
    """The command that repeats the training; None if it did not come from a command line."""
    if job.config is None:
        return None
    file = shlex.quote(f"{job.out.resolve().name}/{RUN}")
    return Markdown(printable(f"vit finetune --config {file} --out again"))
