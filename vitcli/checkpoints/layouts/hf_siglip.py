"""Hugging Face SigLIP, the vision tower: `transformers/models/siglip`, and SigLIP 2 of a fixed
resolution, which has the same names (`towers/hf_siglip2.py` reads the one for any shape). The tower
is CLIP's without the class token and the norm before the blocks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vitcli.checkpoints.keymap import Rule, drop, rename, split
from vitcli.checkpoints.layouts.hf_clip import TOWER, prefix, tower_config, vision_config
from vitcli.checkpoints.layouts.layout import (
    HF_FIELDS,
    Json,
    Layout,
    Tensors,
    Writer,
    count_classes,
    not_square,
    read_sizes,
)
from vitcli.checkpoints.layouts.texts.hf import SIGLIP_TEXTS
from vitcli.checkpoints.preprocess.published import SIGLIP
from vitcli.models.config import ViTConfig

RULES = (
    *TOWER,
    rename("head.probe", "attn_pool.latent"),
    split("head.attention.in_proj_{p}", ("attn_pool.q.{p}", 1), ("attn_pool.kv.{p}", 2)),
    rename("head.attention.out_proj.{p}", "attn_pool.proj.{p}"),
    rename("head.layernorm.{p}", "attn_pool.norm.{p}"),
    rename("head.mlp.fc1.{p}", "attn_pool.mlp.fc1.{p}"),
    rename("head.mlp.fc2.{p}", "attn_pool.mlp.fc2.{p}"),
)
# SiglipForImageClassification averages the patches, and does not use the attention pooling.
CLASSIFIER_RULES = (*TOWER, drop("head.{rest}", "the classifier reads the mean of the patches"))


def detect(tensors: Tensors) -> bool:
    return is_siglip(tensors) and not is_naflex(tensors)


def is_siglip(names: Collection[str]) -> bool:
    """Whether these are the names of a SigLIP, of images of one size or of any shape."""
    return (
        "embeddings.patch_embedding.weight" in names
        and "encoder.layers.0.self_attn.q_proj.weight" in names
        and not {"embeddings.class_embedding", "pre_layrnorm.weight"} & set(names)
    )


def is_naflex(tensors: Tensors) -> bool:
    """Whether the patches are embedded by a linear map, and not by a convolution."""
    return tensors["embeddings.patch_embedding.weight"].ndim == 2


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return CLASSIFIER_RULES if "classifier.weight" in names else RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read `SiglipVisionConfig` of transformers, with its defaults for keys that are left out.

    Without attention pooling (`vision_use_head: false`) the tower itself pools nothing, and the
    mean of its patches is the embedding.
    """
    return ViTConfig(**read_fields(tensors, vision_config(config), num_heads))


def read_fields(tensors: Tensors, vision: Json, num_heads: int | None) -> dict[str, Any]:
    """The fields of `ViTConfig` that SigLIP 2 for any shape has, too."""
    num_classes = count_classes(tensors)
    pools = bool(vision.get("vision_use_head", True)) and not num_classes
    return {
        **read_sizes(vision, num_heads, 16, "gelu_pytorch_tanh", 1e-6),
        "num_classes": num_classes,
        "class_token": False,
        "pos_prefix": 0,
        "pool": "map" if pools else "mean",
    }


ONLY: dict[str, tuple[object, ...]] = {
    "class_token": (False,),
    "dist_token": (False,),
    "num_registers": (0,),
    "patch_bias": (True,),
    "pre_norm": (False,),
    "qkv_bias": (True,),
    "layer_scale": (False,),
    "ffn": ("mlp",),
    "final_norm": ("tokens",),
    "head_blocks": (1,),
    "head_norm": (True,),
    "projection": (0,),
}


def refusals(config: ViTConfig) -> list[str]:
    obstacles = not_square(config)
    if config.num_classes and config.pool != "mean":
        obstacles.append(f"a classifier on pool={config.pool}")
    return obstacles


def write_config(config: ViTConfig) -> dict[str, Any]:
    return config_of(config, "Siglip", tower_config(config))


def config_of(config: ViTConfig, name: str, sizes: Json) -> dict[str, Any]:
    """The config of the tower, or of the classifier, of the classes that begin with `name`;
    `vision_use_head` is false without attention pooling."""
    model_type = name.lower()
    tower = {
        **sizes,
        "model_type": f"{model_type}_vision_model",
        "vision_use_head": config.pool == "map",
    }
    if config.num_classes:
        return {
            "architectures": [f"{name}ForImageClassification"],
            "model_type": model_type,
            "vision_config": tower,
        }
    return {"architectures": [f"{name}VisionModel"], **tower}


WRITER = Writer(
    "transformers", ViTConfig, lambda config: RULES, write_config, ONLY, refusals, prefix=prefix
)
LAYOUT = Layout(
    "hf-siglip",
    ("vision_model.",),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("siglip", "siglip_vision_model"),
    classes="Siglip",
    words="hf",
    family=SIGLIP,
    texts=SIGLIP_TEXTS,
    fields=HF_FIELDS,
)
