"""Hugging Face CLIP, the vision tower: `transformers/models/clip`, with or without its text tower.

4.x and 5.x use the same names, but `CLIPVisionModel` of 5.x leaves out the prefix `vision_model.`
(`conversion_mapping.py`, "CLIPVisionModel").
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.keymap import Rule, drop, rename, reshape
from vitcli.checkpoints.layouts.layout import (
    COMPARES,
    HF_FIELDS,
    TEXT,
    Json,
    Layout,
    Tensors,
    Writer,
    count_classes,
    image_pair,
    lift,
    lower,
    not_square,
    read_sizes,
    shape,
)
from vitcli.checkpoints.layouts.texts.hf import CLIP_TEXTS, block_config, block_rules
from vitcli.checkpoints.preprocess.published import CLIP
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor


def lift_token(tensor: Tensor) -> Tensor:
    """(D) -> (1, 1, D)"""
    return tensor[None, None]


def lower_token(tensor: Tensor) -> Tensor:
    """(1, 1, D) -> (D)"""
    return tensor[0, 0]


# The rules that CLIP's and SigLIP's towers share.
TOWER = (
    reshape(("embeddings.position_embedding.weight",), "pos_embed", lift, lower),
    rename("embeddings.patch_embedding.{p}", "patch_embed.proj.{p}"),
    *block_rules(""),
    rename("post_layernorm.{p}", "norm.{p}"),
    rename("classifier.{p}", "head.{p}"),
    drop("embeddings.position_ids", "a buffer of old versions: 0, 1, 2, ..."),
    drop("text_model.{rest}", TEXT),
    drop("logit_scale", COMPARES),
    drop("logit_bias", COMPARES),
)
RULES = (
    reshape(("embeddings.class_embedding",), "cls_token", lift_token, lower_token),
    rename("pre_layrnorm.{p}", "norm_pre.{p}"),  # sic
    rename("visual_projection.weight", "proj.weight"),
    drop("text_projection.weight", TEXT),
    drop("decoder.{rest}", "CLIPSeg's decoder, which makes a mask from the hidden states"),
    *TOWER,
)


def detect(names: Collection[str]) -> bool:
    return "embeddings.class_embedding" in names and "pre_layrnorm.weight" in names


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return RULES


def vision_config(config: Json) -> Json:
    """The vision tower's part of a config of two towers, or the config of one tower.

    The `vision_config_dict` of old files takes precedence over `vision_config`, as in `CLIPConfig`.
    """
    for key in ("vision_config_dict", "vision_config"):
        if isinstance(config.get(key), dict):
            section: Json = config[key]
            return section
    return config


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read `CLIPVisionConfig` of transformers, with its defaults for keys that are left out.

    `CLIPForImageClassification` reads the mean of the last layer's patches, unnormed: the file has
    its `post_layernorm`, which only applies to the class token's embedding.
    """
    vision = vision_config(config)
    num_classes = count_classes(tensors)
    name = str(config.get("architectures"))
    is_projecting = "'CLIPModel'" in name or "WithProjection" in name
    projection = {**vision, **config}.get("projection_dim", 512) if is_projecting else 0
    return ViTConfig(
        **read_sizes(vision, num_heads, 32, "quick_gelu", 1e-5),
        num_classes=num_classes,
        projection=shape(tensors, "proj.weight", 2)[0] if "proj.weight" in tensors else projection,
        patch_bias=False,
        pre_norm=True,
        pool="mean" if num_classes else "cls",
        head_norm=num_classes == 0,
    )


ONLY: dict[str, tuple[object, ...]] = {
    "class_token": (True,),
    "dist_token": (False,),
    "num_registers": (0,),
    "pos_prefix": (1,),
    "patch_bias": (False,),
    "pre_norm": (True,),
    "qkv_bias": (True,),
    "layer_scale": (False,),
    "ffn": ("mlp",),
    "final_norm": ("tokens",),
    "head_blocks": (1,),
}


def refusals(config: ViTConfig) -> list[str]:
    """The obstacles: transformers' classifier reads the mean of the patches, unnormed."""
    obstacles = not_square(config)
    if config.num_classes and (config.pool != "mean" or config.head_norm):
        obstacles.append(f"a classifier on pool={config.pool}")
    if not config.num_classes and config.pool != "cls":
        obstacles.append(f"pool={config.pool}")
    return obstacles


def prefix(config: ViTConfig) -> str:
    """The prefix of the tower's names; `CLIPVisionModel` and `SiglipVisionModel` have none."""
    return "vision_model." if config.num_classes or config.projection else ""


def tower_config(config: ViTConfig) -> dict[str, Any]:
    """The sizes, in the words of CLIP's and SigLIP's configs."""
    return {
        "image_size": image_pair(config.image_size),
        "patch_size": image_pair(config.patch_size),
        "num_channels": config.in_chans,
        **block_config(config),
        "attention_dropout": 0.0,
    }


def write_config(config: ViTConfig) -> dict[str, Any]:
    tower = {**tower_config(config), "model_type": "clip_vision_model"}
    if config.num_classes:
        return {
            "architectures": ["CLIPForImageClassification"],
            "model_type": "clip",
            "vision_config": tower,
        }
    if config.projection:
        tower["projection_dim"] = config.projection
    name = "CLIPVisionModelWithProjection" if config.projection else "CLIPVisionModel"
    return {"architectures": [name], **tower}


WRITER = Writer(
    "transformers", ViTConfig, lambda config: RULES, write_config, ONLY, refusals, prefix=prefix
)
LAYOUT = Layout(
    "hf-clip",
    ("vision_model.",),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=(
        *("clip", "clip_vision_model", "metaclip_2", "metaclip_2_vision_model"),
        *("clipseg", "clipseg_vision_model", "altclip", "altclip_vision_model"),
        *("chinese_clip", "chinese_clip_vision_model", "vision-text-dual-encoder"),
    ),
    classes="CLIP|MetaClip2|ChineseCLIP|AltCLIP",
    words="hf",
    family=CLIP,
    texts=CLIP_TEXTS,
    fields={**HF_FIELDS, "projection": "projection_dim"},
)
