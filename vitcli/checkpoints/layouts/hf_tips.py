"""TIPSv2 (arXiv 2604.12012) in Google's files, which transformers reads and writes
(`transformers/models/tipsv2`): a DINOv2 whose register is a second class token."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.keymap import Rule, drop, rename
from vitcli.checkpoints.layouts import timm
from vitcli.checkpoints.layouts.layout import (
    HF_FIELDS,
    Json,
    Layout,
    Tensors,
    Writer,
    activation_name,
    ffn_width,
    image_pair,
    mlp_ratio,
    no_ratio,
    not_square,
    read_sizes,
    refuse_oblong,
)
from vitcli.checkpoints.preprocess.published import TIPS
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

B = "blocks.{i}."
RULES = (
    rename("register_tokens", "register_tokens"),
    *(
        rule
        for rule in timm.RULES
        if rule.ours in ("cls_token", "pos_embed", "patch_embed.proj.{p}", "norm.{p}")
        or ((rule.ours or "").startswith(B) and ".mlp." not in (rule.ours or ""))
    ),
    drop("mask_token", "only pre-training uses it"),
    drop("temperature", "it scales the scores of images and texts"),
    drop("text_encoder.{rest}", "the text tower", is_told=True),
)
MLP_RULES = (
    *RULES,
    rename(B + "mlp.c_fc.{p}", B + "mlp.fc1.{p}"),
    rename(B + "mlp.c_proj.{p}", B + "mlp.fc2.{p}"),
)
SWIGLU_RULES = (
    *RULES,
    rename(B + "mlp.w12.{p}", B + "mlp.fc1.{p}"),
    rename(B + "mlp.w3.{p}", B + "mlp.fc2.{p}"),
)


def detect(names: Collection[str]) -> bool:
    """Google's names of the feed-forward, or its text tower next to a SwiGLU of DINOv2's names."""
    is_dinov2 = "patch_embed.proj.weight" in names and "register_tokens" in names
    has_text = any(name.startswith("text_encoder.") for name in names)
    return is_dinov2 and ("blocks.0.mlp.c_fc.weight" in names or has_text)


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return SWIGLU_RULES if any(".mlp.w12." in name for name in names) else MLP_RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read `Tipsv2Config` or `Tipsv2VisionConfig` of transformers, with their defaults for keys
    that are left out."""
    vision = config.get("vision_config", config)
    if not isinstance(vision, dict):
        raise CheckpointError(f"vision_config is {vision!r}: expected an object")
    sizes = read_sizes({"image_size": 448, **vision}, num_heads, 14, "gelu", 1e-6)
    is_swiglu = bool(vision.get("use_swiglu_ffn", False))
    hidden = ffn_width(sizes["embed_dim"], vision.get("mlp_ratio", 4), is_swiglu=is_swiglu)
    return refuse_oblong(
        ViTConfig(
            **{**sizes, "hidden_dim": hidden},
            num_registers=vision.get("num_register_tokens", 1),
            pos_resize="bilinear-antialias",
            qkv_bias=vision.get("qkv_bias", True),
            layer_scale=True,
            ffn="swiglu" if is_swiglu else "mlp",
        )
    )


ONLY: dict[str, tuple[object, ...]] = {
    "class_token": (True,),
    "dist_token": (False,),
    "pos_prefix": (1,),
    "pos_resize": ("bilinear-antialias",),
    "patch_bias": (True,),
    "pre_norm": (False,),
    "layer_scale": (True,),
    "pool": ("cls",),
    "final_norm": ("tokens",),
    "head_blocks": (1,),
    "head_norm": (True,),
    "projection": (0,),
    "num_classes": (0,),
}


def refusals(config: ViTConfig) -> list[str]:
    return [*not_square(config), *no_ratio(config)]


def write_config(config: ViTConfig) -> dict[str, Any]:
    return {
        "architectures": ["Tipsv2VisionModel"],
        "model_type": "tipsv2_vision_model",
        "image_size": image_pair(config.image_size),
        "patch_size": image_pair(config.patch_size),
        "num_channels": config.in_chans,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": mlp_ratio(config),
        "use_swiglu_ffn": config.ffn == "swiglu",
        "hidden_act": activation_name(config.act),
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": config.qkv_bias,
        "num_register_tokens": config.num_registers,
    }


def adapt(config: ViTConfig, tensors: Tensors) -> tuple[ViTConfig, dict[str, Tensor]]:
    """Add the mask token that transformers expects, with its initial value."""
    import torch

    return config, {**tensors, "mask_token": torch.zeros(1, config.embed_dim)}


def rules_to_write(config: ViTConfig) -> tuple[Rule, ...]:
    table = SWIGLU_RULES if config.ffn == "swiglu" else MLP_RULES
    return (*table, rename("mask_token", "mask_token"))


WRITER = Writer(
    "transformers",
    ViTConfig,
    rules_to_write,
    write_config,
    ONLY,
    refusals,
    adapt,
    prefix=lambda config: "vision_encoder.",
)
LAYOUT = Layout(
    "hf-tips",
    ("vision_encoder.",),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("tipsv2", "tipsv2_vision_model"),
    classes="Tipsv2",
    words="hf",
    family=TIPS,
    fields={**HF_FIELDS, "hidden_dim": "mlp_ratio times hidden_size"},
)
