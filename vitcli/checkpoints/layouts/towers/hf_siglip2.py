"""Hugging Face SigLIP 2 for images of any shape (NaFlex), the vision tower:
`transformers/models/siglip2`. SigLIP 2 of a fixed resolution has SigLIP's class and layout.

Its parts are SigLIP's. The patches are embedded by a linear map of their values in the order (row,
column, channel), which is a convolution, and the positions of a square grid are resampled for the
grid of each image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.keymap import Rule, reshape
from vitcli.checkpoints.layouts import hf_siglip
from vitcli.checkpoints.layouts.hf_clip import prefix, vision_config
from vitcli.checkpoints.layouts.layout import (
    HF_FIELDS,
    Json,
    Layout,
    Tensors,
    Writer,
    number,
    pair,
)
from vitcli.checkpoints.layouts.texts.hf import SIGLIP_TEXTS, block_config
from vitcli.checkpoints.preprocess.published import SIGLIP2
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

CHANNELS = 3


def as_kernel(tensor: Tensor) -> Tensor:
    """(D, P*P*C) -> (D, C, P, P)"""
    side = math.isqrt(tensor.shape[1] // CHANNELS)
    return tensor.reshape(len(tensor), side, side, CHANNELS).permute(0, 3, 1, 2)


def as_matrix(tensor: Tensor) -> Tensor:
    """(D, C, P, P) -> (D, P*P*C)"""
    return tensor.permute(0, 2, 3, 1).flatten(1)


PATCHES = reshape(
    ("embeddings.patch_embedding.weight",), "patch_embed.proj.weight", as_kernel, as_matrix
)
RULES = (PATCHES, *hf_siglip.RULES)
CLASSIFIER_RULES = (PATCHES, *hf_siglip.CLASSIFIER_RULES)


def detect(tensors: Tensors) -> bool:
    return hf_siglip.is_siglip(tensors) and hf_siglip.is_naflex(tensors)


def rules(tensors: Tensors) -> tuple[Rule, ...]:
    return CLASSIFIER_RULES if "classifier.weight" in tensors else RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read `Siglip2VisionConfig` of transformers, with its defaults for keys that are left out.

    `num_patches` is the number of stored positions, those of a square. As in SigLIP, a tower
    without attention pooling and a classifier read the mean of the patches.
    """
    vision = vision_config(config)
    patch = pair(vision.get("patch_size", 16), "patch_size")
    stored = number(vision.get("num_patches", 256), "num_patches")
    side = math.isqrt(max(0, int(stored)))
    if side < 1 or side * side != stored:
        raise CheckpointError(
            f"config.json: num_patches is {stored}: expected the number of patches of a square"
        )
    fields = hf_siglip.read_fields(tensors, vision, num_heads)
    return ViTConfig(
        **{**fields, "image_size": (side * patch[0], side * patch[1])},
        pos_resize="bilinear-antialias",
        any_grid=True,
    )


ONLY: dict[str, tuple[object, ...]] = {
    **hf_siglip.ONLY,
    "any_grid": (True,),
    "pos_resize": ("bilinear-antialias",),
}


def write_config(config: ViTConfig) -> dict[str, Any]:
    sizes = {
        "num_patches": config.grid[0] * config.grid[1],
        "patch_size": config.patch_size[0],
        "num_channels": config.in_chans,
        **block_config(config),
        "attention_dropout": 0.0,
    }
    return hf_siglip.config_of(config, "Siglip2", sizes)


WRITER = Writer(
    "transformers",
    ViTConfig,
    lambda config: RULES,
    write_config,
    ONLY,
    hf_siglip.refusals,
    prefix=prefix,
    rare=("any_grid",),
)
LAYOUT = Layout(
    "hf-siglip2",
    ("vision_model.",),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("siglip2", "siglip2_vision_model"),
    classes="Siglip2",
    words="hf",
    family=SIGLIP2,
    texts=SIGLIP_TEXTS,
    fields=HF_FIELDS,
)
