"""Hugging Face DINOv2, with and without registers: `transformers/models/dinov2*`, as the hub and
4.x spell it and as a 5.x model holds it in memory (`conversion_mapping.py`, "Dinov2Model")."""

from __future__ import annotations

from collections.abc import Collection

from vitcli.checkpoints.keymap import Rule, drop, fuse, rename
from vitcli.checkpoints.layouts.layout import (
    Json,
    Layout,
    Tensors,
    activation,
    number,
    pair,
    shape,
)
from vitcli.models.config import ViTConfig

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
    drop("embeddings.mask_token"),  # pre-training only
)
# SwiGLU stands under the same names of ours as the plain feed-forward, so it has its own table.
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
    """`Dinov2Config` of transformers; its defaults where a key is left out.

    The classifier reads the class token beside the mean of the patches (without registers).
    Position embeddings cover class and patches; registers come in after them. Without registers
    they are resampled plainly, with registers with antialiasing.
    """
    embed_dim = config.get("hidden_size", 768)
    ratio = number(config.get("mlp_ratio", 4), "mlp_ratio")
    hidden_dim = int(number(embed_dim, "hidden_size") * ratio)
    is_swiglu = bool(config.get("use_swiglu_ffn", False))
    if is_swiglu:
        hidden_dim = (int(hidden_dim * 2 / 3) + 7) // 8 * 8
    has_head = "head.weight" in tensors
    registers = shape(tensors, "register_tokens", 3)[1] if "register_tokens" in tensors else 0
    return ViTConfig(
        image_size=pair(config.get("image_size", 224), "image_size"),
        patch_size=pair(config.get("patch_size", 14), "patch_size"),
        in_chans=config.get("num_channels", 3),
        embed_dim=embed_dim,
        depth=config.get("num_hidden_layers", 12),
        num_heads=num_heads or config.get("num_attention_heads", 12),
        hidden_dim=hidden_dim,
        num_classes=shape(tensors, "head.weight", 2)[0] if has_head else 0,
        num_registers=registers,
        pos_resize="bicubic-antialias" if registers else "bicubic",
        qkv_bias=config.get("qkv_bias", True),
        layer_scale=True,
        ffn="swiglu" if is_swiglu else "mlp",
        act=activation(config.get("hidden_act", "gelu")),
        pool="cls+mean" if has_head else "cls",
        norm_eps=config.get("layer_norm_eps", 1e-6),
    )


LAYOUT = Layout("hf-dinov2", ("dinov2.", "dinov2_with_registers."), detect, rules, read_config)
