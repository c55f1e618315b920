"""InternViT-300M (arXiv 2312.14238): the vision tower of InternVL in the names of transformers
(`transformers/models/internvl`), and in those of OpenGVLab's own code on the hub
(`modeling_intern_vit.py`).

It has no final norm. OpenGVLab's code and timm pool the class token; transformers pools nothing.
InternViT-6B, which norms queries and keys, is not read.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vitcli.checkpoints.keymap import Rule, drop, fuse, rename
from vitcli.checkpoints.layouts.hf_clip import vision_config
from vitcli.checkpoints.layouts.layout import (
    HF_FIELDS,
    Json,
    Layout,
    Tensors,
    Writer,
    not_square,
    read_sizes,
)
from vitcli.checkpoints.layouts.texts.hf import block_config
from vitcli.checkpoints.preprocess.published import INTERNVIT
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig

L, G, B = "encoder.layer.{i}.", "encoder.layers.{i}.", "blocks.{i}."
LANGUAGE = "part of the language model"
RULES = (
    rename("embeddings.cls_token", "cls_token", "embeddings.class_embedding"),
    rename("embeddings.position_embeddings", "pos_embed", "embeddings.position_embedding"),
    rename(
        "embeddings.patch_embeddings.projection.{p}",
        "patch_embed.proj.{p}",
        "embeddings.patch_embedding.{p}",
    ),
    rename(L + "layernorm_before.{p}", B + "norm1.{p}", G + "norm1.{p}"),
    fuse(
        tuple(f"{L}attention.{x}_proj.{{p}}" for x in "qkv"),
        B + "attn.qkv.{p}",
        (G + "attn.qkv.{p}",),
    ),
    *(
        rename(
            f"{L}attention.{x}_norm.weight", f"{B}attn.{x}_norm.weight", f"{G}attn.{x}_norm.weight"
        )
        for x in "qk"
    ),
    rename(L + "attention.projection_layer.{p}", B + "attn.proj.{p}", G + "attn.proj.{p}"),
    rename(L + "lambda_1", B + "ls1.gamma", G + "ls1"),
    rename(L + "layernorm_after.{p}", B + "norm2.{p}", G + "norm2.{p}"),
    rename(L + "mlp.fc1.{p}", B + "mlp.fc1.{p}", G + "mlp.fc1.{p}"),
    rename(L + "mlp.fc2.{p}", B + "mlp.fc2.{p}", G + "mlp.fc2.{p}"),
    rename(L + "lambda_2", B + "ls2.gamma", G + "ls2"),
    rename("layernorm.{p}", "norm.{p}"),
    drop("embeddings.mask_token", "only masked image modelling uses it"),
    *(
        drop(name, LANGUAGE, is_told=True)
        for name in ("language_model.{rest}", "lm_head.weight", "mlp1.{rest}")
    ),
    drop("multi_modal_projector.{rest}", LANGUAGE, is_told=True),
)
# The defaults of `InternVLVisionConfig`, and of `InternVisionConfig` in OpenGVLab's code.
HF: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 448,
}
OWN: dict[str, Any] = {
    "hidden_size": 3200,
    "intermediate_size": 12_800,
    "num_hidden_layers": 48,
    "num_attention_heads": 25,
    "norm_type": "rms_norm",
    "qk_normalization": True,
}
OWN_TYPES = ("intern_vit_6b", "internvl_chat")
NORMS = {"layer_norm": "layer", "rms_norm": "rms"}


def detect(names: Collection[str]) -> bool:
    """The names of the layer scales, next to those of the attention."""
    of_hf = (L + "attention.projection_layer.weight", L + "attention.projection_layer.bias")
    of_own = (G + "ls1", G + "ls2")
    return any(name.replace("{i}", "0") in names for name in (*of_hf, *of_own))


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read `InternVLVisionConfig` of transformers, or `InternVisionConfig` of OpenGVLab, with their
    defaults for keys that are left out. Raises CheckpointError for norms of queries and keys."""
    is_own = config.get("model_type") in OWN_TYPES
    vision = {**(OWN if is_own else HF), **vision_config(config)}
    if vision.get("use_qk_norm") or vision.get("qk_normalization"):
        raise CheckpointError(
            "this is an InternViT with norms of queries and keys, as InternViT-6B has",
            "it is not supported; InternViT-300M is: OpenGVLab/InternViT-300M-448px",
        )
    kind = vision.get("norm_type", "layer_norm")
    if kind not in NORMS:
        raise CheckpointError(f"norm_type is {kind!r}: expected one of {', '.join(NORMS)}")
    has_norm = not is_own and not vision.get("use_mean_pooling", True)
    if has_norm and kind != "layer_norm":
        raise CheckpointError("a final LayerNorm after blocks of RMS norms is not supported")
    has_table = vision.get("use_absolute_position_embeddings", True)
    return ViTConfig(
        **read_sizes(vision, num_heads, 14, "gelu", 1e-6),
        pos_embed=has_table,
        pos_prefix=int(has_table),
        norm="rms" if kind == "rms_norm" else "layer",
        qkv_bias=vision.get("qkv_bias" if is_own else "attention_bias", False),
        layer_scale=True,
        final_norm="tokens" if has_norm else "none",
    )


ONLY: dict[str, tuple[object, ...]] = {
    "class_token": (True,),
    "dist_token": (False,),
    "num_registers": (0,),
    "patch_bias": (True,),
    "pre_norm": (False,),
    "layer_scale": (True,),
    "ffn": ("mlp",),
    "pool": ("cls",),
    "final_norm": ("none",),
    "head_blocks": (1,),
    "head_norm": (True,),
    "num_classes": (0,),
    "projection": (0,),
}


def refusals(config: ViTConfig) -> list[str]:
    obstacles = not_square(config)
    if config.pos_embed and not config.pos_prefix:
        obstacles.append("no position of the class token")
    return obstacles


def write_config(config: ViTConfig) -> dict[str, Any]:
    return {
        "architectures": ["InternVLVisionModel"],
        "model_type": "internvl_vision",
        "image_size": list(config.image_size),
        "patch_size": list(config.patch_size),
        "num_channels": config.in_chans,
        **block_config(config),
        "norm_type": "rms_norm" if config.norm == "rms" else "layer_norm",
        "attention_bias": config.qkv_bias,
        "use_qk_norm": False,
        "use_absolute_position_embeddings": config.pos_embed,
        "use_mean_pooling": True,  # then transformers has no final norm
    }


WRITER = Writer(
    "transformers",
    ViTConfig,
    lambda config: RULES,
    write_config,
    ONLY,
    refusals,
    rare=("pos_embed", "norm"),
)
LAYOUT = Layout(
    "hf-internvit",
    ("vision_tower.", "vision_model.", "internvl_vision."),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("internvl", "internvl_vision", *OWN_TYPES),
    classes="InternVL|InternVision",
    words="hf",
    family=INTERNVIT,
    fields={**HF_FIELDS, "qkv_bias": "attention_bias"},
)
