"""torchvision's Vision Transformers: `torchvision/models/vision_transformer.py`. They are plain
ViTs with epsilon 1e-6 and the exact GELU; the first version numbers a block's linear maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from vitcli.checkpoints.keymap import Rule, rename
from vitcli.checkpoints.layouts import timm
from vitcli.checkpoints.layouts.layout import Json, Layout, Tensors
from vitcli.checkpoints.preprocess.published import Family
from vitcli.models.config import ViTConfig
from vitcli.records import Size

L, B = "encoder.layers.encoder_layer_{i}.", "blocks.{i}."

RULES = (
    rename("class_token", "cls_token"),
    rename("conv_proj.{p}", "patch_embed.proj.{p}"),
    rename("encoder.pos_embedding", "pos_embed"),
    rename(L + "ln_1.{p}", B + "norm1.{p}"),
    rename(L + "self_attention.in_proj_{p}", B + "attn.qkv.{p}"),
    rename(L + "self_attention.out_proj.{p}", B + "attn.proj.{p}"),
    rename(L + "ln_2.{p}", B + "norm2.{p}"),
    rename(L + "mlp.linear_1.{p}", B + "mlp.fc1.{p}", L + "mlp.0.{p}"),
    rename(L + "mlp.linear_2.{p}", B + "mlp.fc2.{p}", L + "mlp.3.{p}"),
    rename("encoder.ln.{p}", "norm.{p}"),
    rename("heads.head.{p}", "head.{p}", "heads.0.{p}", "heads.{p}"),
)


def detect(names: Collection[str]) -> bool:
    return "conv_proj.weight" in names and L.format(i=0) + "ln_1.weight" in names


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read sizes from the tensors, as for a bare file of timm; torchvision has no JSON."""
    return replace(timm.read_config(tensors, {}, num_heads), pos_resize="bicubic")


def evaluation(size: Size) -> Mapping[str, Any]:
    """The transforms of torchvision's weights; SWAG's have other sizes than 224."""
    if size[0] in (384, 512, 518):
        return {"interpolation": "bicubic", "crop_pct": 1.0}
    return {"interpolation": "bilinear", "crop_pct": 0.875}


FAMILY = Family("torchvision", evaluation)
LAYOUT = Layout("torchvision", (), detect, rules, read_config, evaluation=evaluation, family=FAMILY)
