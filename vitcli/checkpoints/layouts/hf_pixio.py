"""Pixio (arXiv 2512.15715) of transformers: `transformers/models/pixio`, a ViT with several class
tokens, in the names of the hub and in those of a 5.x model in memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vitcli.checkpoints.keymap import Rule, rename
from vitcli.checkpoints.layouts import hf_vit
from vitcli.checkpoints.layouts.layout import (
    HF_FIELDS,
    Json,
    Layout,
    Tensors,
    Writer,
    activation_name,
    ffn_width,
    image_pair,
    not_square,
    read_sizes,
    refuse_oblong,
)
from vitcli.checkpoints.preprocess.published import PIXIO
from vitcli.models.config import ViTConfig

L, B = "encoder.layer.{i}.", "blocks.{i}."
RULES = (
    rename(L + "norm1.{p}", B + "norm1.{p}", "layers.{i}.layernorm_before.{p}"),
    rename(L + "norm2.{p}", B + "norm2.{p}", "layers.{i}.layernorm_after.{p}"),
    *(
        rule
        for rule in hf_vit.RULES
        if rule.ours is not None
        and rule.ours not in (B + "norm1.{p}", B + "norm2.{p}", "dist_token")
        and not rule.ours.startswith("head")
    ),
)


def detect(names: Collection[str]) -> bool:
    """DINOv2's names of the norms, without its layer scale. In memory the names are a ViT's, and
    the config decides."""
    return (
        "embeddings.patch_embeddings.projection.weight" in names
        and "encoder.layer.0.norm1.weight" in names
        and "encoder.layer.0.layer_scale1.lambda1" not in names
    )


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read `PixioConfig` of transformers, with its defaults for keys that are left out."""
    defaults = {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 256,
    }
    sizes = read_sizes({**defaults, **config}, num_heads, 16, "gelu", 1e-6)
    hidden = ffn_width(sizes["embed_dim"], config.get("mlp_ratio", 4), is_swiglu=False)
    count = config.get("n_cls_tokens", 8)
    return refuse_oblong(
        ViTConfig(
            **{**sizes, "hidden_dim": hidden},
            num_class_tokens=count,
            pos_prefix=count,
            qkv_bias=config.get("qkv_bias", True),
        )
    )


ONLY: dict[str, tuple[object, ...]] = {
    "class_token": (True,),
    "num_registers": (0,),
    "dist_token": (False,),
    "patch_bias": (True,),
    "pre_norm": (False,),
    "layer_scale": (False,),
    "ffn": ("mlp",),
    "pool": ("cls",),
    "final_norm": ("tokens",),
    "head_blocks": (1,),
    "head_norm": (True,),
    "projection": (0,),
    "num_classes": (0,),
}


def refusals(config: ViTConfig) -> list[str]:
    obstacles = not_square(config)
    if config.num_class_tokens == 1:
        obstacles.append("one class token")  # a ViT, which other classes read
    if config.pos_prefix != config.num_prefix:
        obstacles.append("class tokens without positions")
    if config.hidden_dim % config.embed_dim:
        obstacles.append(f"hidden_dim={config.hidden_dim}, not a multiple of {config.embed_dim}")
    return obstacles


def write_config(config: ViTConfig) -> dict[str, Any]:
    return {
        "architectures": ["PixioModel"],
        "model_type": "pixio",
        "image_size": image_pair(config.image_size),
        "patch_size": image_pair(config.patch_size),
        "num_channels": config.in_chans,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": config.hidden_dim // config.embed_dim,
        "hidden_act": activation_name(config.act),
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": config.qkv_bias,
        "n_cls_tokens": config.num_class_tokens,
    }


WRITER = Writer(
    "transformers",
    ViTConfig,
    lambda config: RULES,
    write_config,
    ONLY,
    refusals,
    rare=("num_class_tokens",),
)
LAYOUT = Layout(
    "hf-pixio",
    ("pixio.",),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("pixio",),
    classes="Pixio",
    words="hf",
    family=PIXIO,
    fields={**HF_FIELDS, "hidden_dim": "mlp_ratio times hidden_size"},
)
