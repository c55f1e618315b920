"""The `.pth` files of DINO, DeiT, MAE and DINOv2 from their own repositories:
`facebookresearch/{dino,deit,mae,dinov2}`.

All four use the tensor names of timm's Vision Transformer, so a bare backbone of DINO, DeiT or MAE
looks like a timm model, and the `timm` layout reads it with the right numbers. A family is
recognised by names that only its files have: DINO's projection head, MAE's decoder, DeiT-III's
`gamma_1`, DINOv2's `register_tokens` and `mask_token`. The key around the state dict ("model",
"teacher") proves nothing, as many training scripts use it. Apart from names, a family only changes
the preprocessing, and how positions are resampled for another image size. If a file does not show
its family, `--layout dino|deit|mae|dinov2` selects it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from vitcli.checkpoints.keymap import Rule, drop, rename
from vitcli.checkpoints.layouts import dinov3, hf_tips, timm, timm_eva
from vitcli.checkpoints.layouts.decoders import meta_decoders
from vitcli.checkpoints.layouts.layout import Decoders, Json, Layout, Tensors
from vitcli.checkpoints.layouts.towers import eva
from vitcli.checkpoints.preprocess.published import (
    DEIT,
    DINO,
    DINOV2,
    MAE,
    Evaluation,
    Family,
    always,
)
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig
from vitcli.models.fields import PosResize

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

B = timm.B

DINO_RULES = (
    *timm.RULES,
    *(
        drop(f"head.{part}.{{rest}}", "only DINO's training uses it")
        for part in ("mlp", "last_layer")
    ),
)
MAE_RULES = (
    *timm.RULES,
    drop("decoder_{rest}", "MAE's decoder: only reconstruction uses it", is_told=True),
)
DINOV2_RULES = (
    rename("register_tokens", "register_tokens"),
    *(rule for rule in timm.RULES if rule.ours != "register_tokens"),
    drop("student.{rest}", "the student: the teacher is taken", is_told=True),
    *(
        drop(f"{part}.{{rest}}", "only DINOv2's training uses it")
        for part in ("dino_head", "ibot_head", "dino_loss", "ibot_patch_loss")
    ),
)
# vitcli gives a SwiGLU and a plain feed-forward the same names, so each has its own table.
SWIGLU_RULES = (
    *(rule for rule in DINOV2_RULES if rule.ours is None or ".mlp." not in rule.ours),
    rename(B + "mlp.w12.{p}", B + "mlp.fc1.{p}"),
    rename(B + "mlp.w3.{p}", B + "mlp.fc2.{p}"),
)


def dinov2_rules(names: Collection[str]) -> tuple[Rule, ...]:
    return SWIGLU_RULES if any(".mlp.w12." in name for name in names) else DINOV2_RULES


def unchunk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename `blocks.{chunk}.{i}.` of sharded training, where `i` already counts all blocks."""
    renamed = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", n): t for n, t in state.items()}
    if len(renamed) < len(state):
        raise CheckpointError("two chunks of blocks hold a block of the same number")
    return renamed


def plain(tensors: Tensors) -> PosResize:
    """Resample to a size, as MAE's `util/pos_embed.py` and DeiT's `main.py` do."""
    return "bicubic"


def offset(tensors: Tensors) -> PosResize:
    """Resample as `interpolate_pos_encoding` in DINO's `vision_transformer.py` does."""
    return "bicubic-offset"


def offset_or_antialias(tensors: Tensors) -> PosResize:
    """Resample as `dinov2/hub/backbones.py` does: models with registers have another default."""
    return "bicubic-antialias" if "register_tokens" in tensors else "bicubic-offset"


# From `eval_knn.py` of DINO, `datasets.py` of DeiT and `util/datasets.py` of MAE. DINOv2's
# `dinov2/data/transforms.py` evaluates at 224, although its training ends at 518.
CROPPED = always(interpolation="bicubic", crop_pct=0.875)
CROPPED_AT_224 = always(interpolation="bicubic", crop_pct=0.875, size=(224, 224))


def _layout(
    family: Family,
    signs: Collection[frozenset[str]],
    rules: Callable[[Tensors], tuple[Rule, ...]],
    pos_resize: Callable[[Tensors], PosResize],
    evaluation: Evaluation = CROPPED,
    unpack: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state,
    decoders: Decoders | None = None,
    doubt: str = "",
) -> Layout:
    """The layout of a family, whose files have all names of one of the `signs`."""

    def detect(names: Collection[str]) -> bool:
        is_ours = any(sign.issubset(names) for sign in signs) and timm.detect(names)
        others = (timm_eva.detect, eva.detect, hf_tips.detect)
        is_other = dinov3.is_named(names) or any(detects(names) for detects in others)
        return is_ours and not is_other

    def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
        read = timm.read_config(tensors, config, num_heads)
        return replace(read, pos_resize=pos_resize(tensors))

    return Layout(
        family.name,
        timm.PREFIXES,
        detect,
        rules,
        read_config,
        unpack=unpack,
        decoders=decoders,
        doubt=doubt,
        evaluation=evaluation,
        family=family,
    )


def _signs(*names: str) -> tuple[frozenset[str], ...]:
    """Split each sign into its names, which are separated by spaces."""
    return tuple(frozenset(name.split()) for name in names)


LAYOUTS = (
    _layout(
        DINO,
        _signs("head.mlp.0.weight", "head.mlp.weight", "head.last_layer.weight_v"),
        lambda names: DINO_RULES,
        offset,
    ),
    _layout(
        DEIT,
        _signs("blocks.0.gamma_1 blocks.0.attn.qkv.bias pos_embed"),
        lambda names: timm.RULES,
        plain,
        doubt="read as a DeiT-III; a RoPE-ViT has the same tensors, but computes something else",
    ),
    _layout(
        MAE,
        _signs("decoder_embed.weight", "decoder_pred.weight"),
        lambda names: MAE_RULES,
        plain,
        decoders=meta_decoders(
            [r for r in timm.RULES if r.ours and r.ours.startswith(B) and "gamma" not in r.ours]
        ),
    ),
    _layout(
        DINOV2,
        _signs("register_tokens", "mask_token blocks.0.ls1.gamma", "blocks.0.mlp.w12.weight"),
        dinov2_rules,
        offset_or_antialias,
        CROPPED_AT_224,
        unchunk,
    ),
)
