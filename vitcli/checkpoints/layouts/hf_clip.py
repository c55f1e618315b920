"""Hugging Face CLIP, the vision tower: `transformers/models/clip`, alone or beside its text tower.

4.x and 5.x use the same names. `CLIPVisionModel` of 5.x leaves out the prefix `vision_model.`
(`conversion_mapping.py`, "CLIPVisionModel"); the other classes and 4.x have it.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from vitcli.checkpoints.keymap import Rule, drop, fuse, rename, reshape
from vitcli.checkpoints.layouts.layout import Json, Layout, Tensors, activation, pair, shape
from vitcli.models.config import ViTConfig

L, B = "encoder.layers.{i}.", "blocks.{i}."
TEXT = "part of the text tower"


def lift(tensor: Tensor) -> Tensor:
    """(N, D) -> (1, N, D)"""
    return tensor[None]


def lower(tensor: Tensor) -> Tensor:
    """(1, N, D) -> (N, D)"""
    return tensor[0]


def lift_token(tensor: Tensor) -> Tensor:
    """(D) -> (1, 1, D)"""
    return tensor[None, None]


def lower_token(tensor: Tensor) -> Tensor:
    """(1, 1, D) -> (D)"""
    return tensor[0, 0]


# What SigLIP's tower has too.
TOWER = (
    reshape("embeddings.position_embedding.weight", "pos_embed", lift, lower),
    rename("embeddings.patch_embedding.{p}", "patch_embed.proj.{p}"),
    rename(L + "layer_norm1.{p}", B + "norm1.{p}"),
    fuse(
        tuple(f"{L}self_attn.{x}_proj.{{p}}" for x in ("q", "k", "v")),
        B + "attn.qkv.{p}",
    ),
    rename(L + "self_attn.out_proj.{p}", B + "attn.proj.{p}"),
    rename(L + "layer_norm2.{p}", B + "norm2.{p}"),
    rename(L + "mlp.fc1.{p}", B + "mlp.fc1.{p}"),
    rename(L + "mlp.fc2.{p}", B + "mlp.fc2.{p}"),
    rename("post_layernorm.{p}", "norm.{p}"),
    rename("classifier.{p}", "head.{p}"),
    drop("embeddings.position_ids", "a buffer of old versions: 0, 1, 2, ..."),
    drop("text_model.{rest}", TEXT),
    drop("logit_scale", "it compares images with texts"),
    drop("logit_bias", "it compares images with texts"),
)
RULES = (
    reshape("embeddings.class_embedding", "cls_token", lift_token, lower_token),
    rename("pre_layrnorm.{p}", "norm_pre.{p}"),  # sic
    rename("visual_projection.weight", "proj.weight"),
    drop("text_projection.weight", TEXT),
    *TOWER,
)


def detect(names: Collection[str]) -> bool:
    return "embeddings.class_embedding" in names and "pre_layrnorm.weight" in names


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return RULES


def vision_config(config: Json) -> Json:
    """The tower's part of a config of two towers, or the config of a tower alone.

    Old files have `vision_config_dict`, which wins over `vision_config`, as in `CLIPConfig`.
    """
    for key in ("vision_config_dict", "vision_config"):
        if isinstance(config.get(key), dict):
            found: Json = config[key]
            return found
    return config


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """`CLIPVisionConfig` of transformers; its defaults where a key is left out.

    `CLIPForImageClassification` reads the mean of the patches of the last layer as it is: its
    `post_layernorm` is in the file, and stands before the class token's embedding only.
    """
    vision = vision_config(config)
    has_head = "head.weight" in tensors
    return ViTConfig(
        image_size=pair(vision.get("image_size", 224), "image_size"),
        patch_size=pair(vision.get("patch_size", 32), "patch_size"),
        in_chans=vision.get("num_channels", 3),
        embed_dim=vision.get("hidden_size", 768),
        depth=vision.get("num_hidden_layers", 12),
        num_heads=num_heads or vision.get("num_attention_heads", 12),
        hidden_dim=vision.get("intermediate_size", 3072),
        num_classes=shape(tensors, "head.weight", 2)[0] if has_head else 0,
        projection=shape(tensors, "proj.weight", 2)[0] if "proj.weight" in tensors else 0,
        patch_bias=False,
        pre_norm=True,
        act=activation(vision.get("hidden_act", "quick_gelu")),
        pool="mean" if has_head else "cls",
        head_norm=not has_head,
        norm_eps=vision.get("layer_norm_eps", 1e-5),
    )


LAYOUT = Layout("hf-clip", ("vision_model.",), detect, rules, read_config)
