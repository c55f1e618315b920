"""Hugging Face DINOv2, with and without registers: `transformers/models/dinov2*`, in the names of
the hub and 4.x, and in those of a 5.x model in memory (`conversion_mapping.py`, "Dinov2Model")."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.keymap import Rule, drop, fuse, rename
from vitcli.checkpoints.layouts.layout import (
    HF_FIELDS,
    Json,
    Layout,
    Tensors,
    Writer,
    activation_name,
    count_classes,
    ffn_width,
    image_pair,
    not_square,
    read_sizes,
    refuse_oblong,
    shape,
    with_positions,
)
from vitcli.checkpoints.preprocess.published import DINOV2
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

L, B = "encoder.layer.{i}.", "blocks.{i}."
L5 = "layers.{i}."

RULES = (
    rename("embeddings.cls_token", "cls_token"),
    rename("embeddings.register_tokens", "register_tokens"),
    rename("embeddings.position_embeddings", "pos_embed"),
    rename("embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    rename(L + "norm1.{p}", B + "norm1.{p}", L5 + "norm1.{p}"),
    fuse(
        tuple(f"{L}attention.attention.{x}.{{p}}" for x in ("query", "key", "value")),
        B + "attn.qkv.{p}",
        *(tuple(f"{at}attention.{x}_proj.{{p}}" for x in ("q", "k", "v")) for at in (L, L5)),
    ),
    rename(
        L + "attention.output.dense.{p}",
        B + "attn.proj.{p}",
        L + "attention.o_proj.{p}",
        L5 + "attention.o_proj.{p}",
    ),
    rename(L + "layer_scale1.lambda1", B + "ls1.gamma", L5 + "layer_scale1.lambda1"),
    rename(L + "norm2.{p}", B + "norm2.{p}", L5 + "norm2.{p}"),
    rename(L + "mlp.fc1.{p}", B + "mlp.fc1.{p}", L5 + "mlp.fc1.{p}"),
    rename(L + "mlp.fc2.{p}", B + "mlp.fc2.{p}", L5 + "mlp.fc2.{p}"),
    rename(L + "layer_scale2.lambda1", B + "ls2.gamma", L5 + "layer_scale2.lambda1"),
    rename("layernorm.{p}", "norm.{p}"),
    rename("classifier.{p}", "head.{p}"),
    drop("embeddings.mask_token", "only pre-training uses it"),
)
# vitcli gives a SwiGLU and a plain feed-forward the same names, so each has its own table.
SWIGLU_RULES = (
    *(rule for rule in RULES if rule.ours is None or ".mlp." not in rule.ours),
    rename(L + "mlp.weights_in.{p}", B + "mlp.fc1.{p}"),
    rename(
        L + "mlp.weights_out.{p}",
        B + "mlp.fc2.{p}",
        L + "mlp.down_proj.{p}",
        L5 + "mlp.down_proj.{p}",
    ),
    *(
        fuse((at + "mlp.gate_proj.{p}", at + "mlp.up_proj.{p}"), B + "mlp.fc1.{p}")
        for at in (L, L5)
    ),
)


def detect(names: Collection[str]) -> bool:
    return "embeddings.patch_embeddings.projection.weight" in names and (
        "encoder.layer.0.layer_scale1.lambda1" in names or "layers.0.layer_scale1.lambda1" in names
    )


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    is_swiglu = any(".mlp.weights_in." in name or ".mlp.gate_proj." in name for name in names)
    return SWIGLU_RULES if is_swiglu else RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read `Dinov2Config` of transformers, with its defaults for keys that are left out.

    The classifier reads the class token and the mean of the patches. Registers have no position
    embeddings. Position embeddings are resampled with antialiasing only in models with registers.
    """
    sizes = read_sizes(config, num_heads, 14, "gelu", 1e-6)
    is_swiglu = bool(config.get("use_swiglu_ffn", False))
    hidden = ffn_width(sizes["embed_dim"], config.get("mlp_ratio", 4), is_swiglu=is_swiglu)
    num_classes = count_classes(tensors)
    registers = shape(tensors, "register_tokens", 3)[1] if "register_tokens" in tensors else 0
    if config.get("model_type") == "dinov2_with_registers":
        registers = config.get("num_register_tokens", 4)
    return refuse_oblong(
        ViTConfig(
            **{**sizes, "hidden_dim": hidden},
            num_classes=num_classes,
            num_registers=registers,
            pos_resize="bicubic-antialias" if registers else "bicubic",
            qkv_bias=config.get("qkv_bias", True),
            layer_scale=True,
            ffn="swiglu" if is_swiglu else "mlp",
            pool="cls+mean" if num_classes else "cls",
        )
    )


ONLY: dict[str, tuple[object, ...]] = {
    "class_token": (True,),
    "dist_token": (False,),
    "patch_bias": (True,),
    "pre_norm": (False,),
    "layer_scale": (True,),
    "final_norm": ("tokens",),
    "head_blocks": (1,),
    "head_norm": (True,),
    "projection": (0,),
}


def refusals(config: ViTConfig) -> list[str]:
    obstacles = not_square(config)
    pool = "cls+mean" if config.num_classes else "cls"
    if config.pool != pool:
        obstacles.append(f"pool={config.pool}")
    ratio = config.hidden_dim // config.embed_dim
    if config.ffn == "mlp" and ratio * config.embed_dim != config.hidden_dim:
        obstacles.append(f"hidden_dim={config.hidden_dim}, not a multiple of {config.embed_dim}")
    if config.ffn == "swiglu" and _swiglu_ratio(config) is None:
        obstacles.append(f"hidden_dim={config.hidden_dim} of a SwiGLU")
    return obstacles


def _swiglu_ratio(config: ViTConfig) -> int | None:
    width, hidden = config.embed_dim, config.hidden_dim
    return next((r for r in range(1, 17) if ffn_width(width, r, is_swiglu=True) == hidden), None)


def adapt(config: ViTConfig, tensors: Tensors) -> tuple[ViTConfig, dict[str, Tensor]]:
    """Give the class token a position. For models with registers, transformers also expects the
    mask token of pre-training: write zeros, its initial value."""
    import torch

    placed = with_positions(config, tensors, 1)
    if config.num_registers:
        placed["mask_token"] = torch.zeros(1, config.embed_dim)
    return replace(config, pos_prefix=1), placed


def rules_to_write(config: ViTConfig) -> tuple[Rule, ...]:
    table = SWIGLU_RULES if config.ffn == "swiglu" else RULES
    return (*table, rename("embeddings.mask_token", "mask_token"))


def write_config(config: ViTConfig) -> dict[str, Any]:
    family = "Dinov2WithRegisters" if config.num_registers else "Dinov2"
    head = "ForImageClassification" if config.num_classes else "Model"
    is_swiglu = config.ffn == "swiglu"
    ratio = _swiglu_ratio(config) if is_swiglu else config.hidden_dim // config.embed_dim
    values = {
        "architectures": [family + head],
        "model_type": "dinov2_with_registers" if config.num_registers else "dinov2",
        "image_size": image_pair(config.image_size),
        "patch_size": image_pair(config.patch_size),
        "num_channels": config.in_chans,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": ratio,
        "use_swiglu_ffn": is_swiglu,
        "hidden_act": activation_name(config.act),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "layerscale_value": 1.0,
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": config.qkv_bias,
    }
    if config.num_registers:
        return {**values, "num_register_tokens": config.num_registers}
    return {**values, "use_mask_token": False}


def prefix(config: ViTConfig) -> str:
    """The prefix of the backbone in a model with a head; a bare backbone has none."""
    if not config.num_classes:
        return ""
    return "dinov2_with_registers." if config.num_registers else "dinov2."


WRITER = Writer(
    "transformers", ViTConfig, rules_to_write, write_config, ONLY, refusals, adapt, prefix
)
LAYOUT = Layout(
    "hf-dinov2",
    ("dinov2.", "dinov2_with_registers."),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("dinov2", "dinov2_with_registers"),
    classes="Dinov2",
    words="hf",
    family=DINOV2,
    fields={**HF_FIELDS, "hidden_dim": "mlp_ratio times hidden_size"},
)
