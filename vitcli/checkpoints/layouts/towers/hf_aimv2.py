"""AIMv2 (arXiv 2411.14402), the vision tower: `transformers/models/aimv2`, and Apple's own names,
which the files of their repositories on the hub have.

A model trained with texts ("lit") has an attention pooling without a projection of its query, which
no other model has: it is not read. Neither is a model of native resolution, which computes its
positions.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vitcli.checkpoints.keymap import Rule, drop, fuse, rename, reshape
from vitcli.checkpoints.layouts.hf_clip import tower_config, vision_config
from vitcli.checkpoints.layouts.layout import (
    HF_FIELDS,
    TEXT,
    Json,
    Layout,
    Tensors,
    Writer,
    activation,
    lift,
    lower,
    not_square,
    read_sizes,
)
from vitcli.checkpoints.preprocess.published import AIMV2
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig

L, A, B = "encoder.layers.{i}.", "trunk.blocks.{i}.", "blocks.{i}."
RULES = (
    rename("embeddings.patch_embed.{p}", "patch_embed.proj.{p}"),
    rename("embeddings.rms_norm.weight", "patch_embed.norm.weight"),
    reshape(("embeddings.position_embedding.weight",), "pos_embed", lift, lower),
    rename(L + "rms_norm1.weight", B + "norm1.weight"),
    fuse(tuple(f"{L}attention.{x}_proj.{{p}}" for x in "qkv"), B + "attn.qkv.{p}"),
    rename(L + "attention.out_proj.{p}", B + "attn.proj.{p}"),
    rename(L + "rms_norm2.weight", B + "norm2.weight"),
    fuse((L + "ffn.gate_proj.{p}", L + "ffn.up_proj.{p}"), B + "mlp.fc1.{p}"),
    rename(L + "ffn.down_proj.{p}", B + "mlp.fc2.{p}"),
    rename("rms_norm.weight", "norm.weight"),
    rename("head.cls_token", "attn_pool.latent"),
    fuse(("head.k_proj.{p}", "head.v_proj.{p}"), "attn_pool.kv.{p}"),
    rename("head.output_proj.{p}", "attn_pool.proj.{p}"),
    drop("text_model.{rest}", TEXT, is_told=True),
    drop("text_projection.weight", TEXT, is_told=True),
    drop("visual_projection.weight", "it projects what the head pools", is_told=True),
    drop("logit_scale", "it compares images with texts"),
)
APPLE_RULES = (
    rename("preprocessor.patchifier.proj.{p}", "patch_embed.proj.{p}"),
    rename("preprocessor.patchifier.norm.weight", "patch_embed.norm.weight"),
    rename("preprocessor.pos_embed", "pos_embed"),
    rename(A + "norm_1.weight", B + "norm1.weight"),
    rename(A + "attn.qkv.{p}", B + "attn.qkv.{p}"),
    rename(A + "attn.proj.{p}", B + "attn.proj.{p}"),
    rename(A + "norm_2.weight", B + "norm2.weight"),
    fuse((A + "mlp.fc1.{p}", A + "mlp.fc3.{p}"), B + "mlp.fc1.{p}"),
    rename(A + "mlp.fc2.{p}", B + "mlp.fc2.{p}"),
    rename("trunk.post_trunk_norm.weight", "norm.weight"),
)
DEFAULTS = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
}
SIGNS = (
    *("embeddings.rms_norm.weight", "encoder.layers.0.ffn.gate_proj.weight"),
    *("trunk.post_trunk_norm.weight", "preprocessor.patchifier.proj.weight"),
)


def detect(names: Collection[str]) -> bool:
    return any(name in names for name in SIGNS)


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    is_apples = any(name.startswith(("trunk.", "preprocessor.")) for name in names)
    return APPLE_RULES if is_apples else RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read `Aimv2VisionConfig` of transformers or Apple's `AIMv2Config`, with the former's defaults
    for keys that are left out.

    Raises CheckpointError for a model of native resolution and for one with an attention pooling.
    """
    vision = {**DEFAULTS, **vision_config(config)}
    if vision.get("is_native"):
        raise CheckpointError(
            "this AIMv2 is of native resolution: it computes its positions for each image",
            "it is not supported; the models of 224, 336 and 448 are",
        )
    if any(name.startswith("attn_pool.") for name in tensors):
        raise CheckpointError(
            "this AIMv2 has an attention pooling that does not project its query",
            "it is not supported; --drop 'head.*' leaves it out, and the mean of the patches is "
            "pooled",
        )
    if activation(vision.get("hidden_act", "silu")) != "silu":
        raise CheckpointError(f"hidden_act is {vision['hidden_act']}: an AIMv2 has silu")
    eps = vision.get("rms_norm_eps", 1e-5)
    sizes = read_sizes({**vision, "layer_norm_eps": eps}, num_heads, 14, "silu", eps)
    qkv_bias = vision.get("qkv_bias", False)
    return ViTConfig(
        **{**sizes, "act": "gelu"},  # a SwiGLU has silu
        class_token=False,
        pos_prefix=0,
        pos_resize="bicubic-antialias",  # as timm does; transformers has one size
        patch_norm=True,
        norm="rms",
        qkv_bias=qkv_bias,
        proj_bias=vision.get("use_bias", qkv_bias),
        ffn="swiglu",
        ffn_bias=vision.get("use_bias", vision.get("mlp_bias", False)),
        pool="mean",
    )


ONLY: dict[str, tuple[object, ...]] = {
    "class_token": (False,),
    "dist_token": (False,),
    "num_registers": (0,),
    "patch_bias": (True,),
    "patch_norm": (True,),
    "pre_norm": (False,),
    "norm": ("rms",),
    "layer_scale": (False,),
    "ffn": ("swiglu",),
    "pool": ("mean",),
    "final_norm": ("tokens",),
    "head_norm": (True,),
    "num_classes": (0,),
    "projection": (0,),
}


def refusals(config: ViTConfig) -> list[str]:
    obstacles = not_square(config)
    if config.qkv_bias != config.proj_bias:
        obstacles.append("a bias of q, k and v without one after attention, or reversed")
    return obstacles


def write_config(config: ViTConfig) -> dict[str, Any]:
    sizes = tower_config(config)
    del sizes["layer_norm_eps"]
    return {
        "architectures": ["Aimv2VisionModel"],
        "model_type": "aimv2_vision_model",
        **sizes,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "qkv_bias": config.qkv_bias,
        "mlp_bias": config.ffn_bias,
        "use_head": False,
        "is_native": False,
    }


WRITER = Writer(
    "transformers",
    ViTConfig,
    lambda config: RULES,
    write_config,
    ONLY,
    refusals,
    rare=("patch_norm", "norm", "proj_bias", "ffn_bias"),
)
LAYOUT = Layout(
    "hf-aimv2",
    ("vision_model.",),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("aimv2", "aimv2_vision_model"),
    classes="Aimv2|AIMv2",
    words="hf",
    family=AIMV2,
    fields={**HF_FIELDS, "norm_eps": "rms_norm_eps"},
)
