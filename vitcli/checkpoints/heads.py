"""Read a linear classifier from its own file as the head of its backbone.

DINO's `eval_linear.py` trains two kinds. For ViT-S, the classifier reads the normed class tokens of
the last n blocks (n=4), the earliest first. For ViT-B, it reads the last class token and the mean
of the last patch tokens, interleaved. DINOv2's (`hub/classifiers.py`) reads the class tokens of one
block or four, then the mean of the last patch tokens. The classifier's width tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitcli.checkpoints.weights.tensors import Weights, read_weights
from vitcli.errors import CheckpointError
from vitcli.models.config import Config, ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Head:
    """A head's tensors in vitcli's names, the config of a model with it, and a note on its
    input."""

    config: ViTConfig
    tensors: dict[str, Tensor]
    note: str


def read_head(
    file: Path, backbone: Config, read: Callable[[Sequence[Path]], Weights] = read_weights
) -> Head:
    """Read the classifier of a backbone, with tensors from `read`. Raises CheckpointError if the
    two do not fit."""
    state = {n.removeprefix("module."): t for n, t in read((file,)).tensors.items()}
    is_dino = "linear.weight" in state
    tensors = {re.sub(r"^linear\.", "", name): tensor for name, tensor in state.items()}
    if tensors.keys() != {"weight", "bias"} or tensors["weight"].ndim != 2:
        shown = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"{file} is not a linear classifier alone: it has {shown}",
            "--head takes DINO's linearweights.pth, or a linear head of DINOv2",
        )
    obstacle = ""
    if not isinstance(backbone, ViTConfig) or not backbone.class_token:
        obstacle = "no class token"
    elif backbone.num_classes or backbone.projection:
        obstacle = "a head of its own"
    elif backbone.summary:
        obstacle = "a summary of several class tokens"
    if obstacle or not isinstance(backbone, ViTConfig):
        raise CheckpointError(
            f"--head {file} needs a plain backbone, and this model has {obstacle}"
        )
    weight, dim = tensors["weight"], backbone.embed_dim
    classes, width = weight.shape
    blocks, rest = divmod(width, dim)
    has_mean = blocks == 2 or not is_dino
    blocks -= has_mean
    if rest or not 1 <= blocks <= backbone.depth or (not is_dino and blocks not in (1, 4)):
        raise CheckpointError(
            f"{file} reads {width} numbers, and the class token of a block has {dim}: "
            "it belongs to another backbone"
        )
    if is_dino and has_mean:
        weight = weight.reshape(classes, dim, 2).transpose(1, 2).reshape(classes, width)
    config = replace(
        backbone,
        num_classes=classes,
        pool="cls+mean" if has_mean else "cls",
        head_blocks=blocks,
    )
    tokens = "the class token" if blocks == 1 else f"the class tokens of the last {blocks} blocks"
    reads = tokens + " and the mean of the patches" * has_mean
    named = {"head.weight": weight.contiguous(), "head.bias": tensors["bias"]}
    return Head(config, named, f"{file.name} is taken to read {reads}, as its width is {width}")
