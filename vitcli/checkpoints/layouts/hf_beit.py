"""Hugging Face BEiT, DiT and data2vec-vision: `transformers/models/{beit,data2vec}`, in the names
of 4.x and the hub, and in those of a 5.x model in memory (`conversion_mapping.py`, "BeitModel").

The file of a masked image model (`BeitForMaskedImageModeling`) is read as a backbone with the norm
that stands before its classifier of visual words.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from vitcli.checkpoints.keymap import Rule, drop, fuse, rename
from vitcli.checkpoints.layouts import hf_vit
from vitcli.checkpoints.layouts.layout import (
    HF_FIELDS,
    Json,
    Layout,
    Tensors,
    Writer,
    activation_name,
    count_classes,
    image_pair,
    not_square,
    number,
    read_sizes,
    refuse_oblong,
)
from vitcli.checkpoints.layouts.towers import hf_internvit
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig

L4, L5, B = "encoder.layer.{i}.", "layers.{i}.", "blocks.{i}."
TABLE = "relative_position_bias_table"
# The tensors that have the same names in a ViT.
OF_VIT = (
    *("cls_token", "pos_embed", "patch_embed.proj.{p}", "norm.{p}"),
    *(B + part for part in ("norm1.{p}", "attn.proj.{p}")),
    *(B + part for part in ("norm2.{p}", "mlp.fc1.{p}", "mlp.fc2.{p}")),
)

RULES = (
    *(rule for rule in hf_vit.RULES if rule.ours in OF_VIT),
    fuse(
        tuple(f"{L4}attention.attention.{x}.weight" for x in ("query", "key", "value")),
        B + "attn.qkv.weight",
        tuple(f"{L5}attention.{x}_proj.weight" for x in ("q", "k", "v")),
    ),
    rename(L4 + "attention.attention.query.bias", B + "attn.q_bias", L5 + "attention.q_proj.bias"),
    rename(L4 + "attention.attention.value.bias", B + "attn.v_bias", L5 + "attention.v_proj.bias"),
    rename(L4 + "lambda_1", B + "ls1.gamma", L5 + "lambda_1"),
    rename(L4 + "lambda_2", B + "ls2.gamma", L5 + "lambda_2"),
    rename("pooler.layernorm.{p}", "fc_norm.{p}"),
    rename("classifier.{p}", "head.{p}"),
    drop("embeddings.mask_token", "only masked image modelling uses it"),
    drop("lm_head.{p}", "the classifier of visual words: only pre-training uses it", is_told=True),
    *(
        drop(f"{at}relative_position_index", "it follows from the grid")
        for at in (
            L4 + "attention.attention.relative_position_bias.",
            L5 + "relative_position_bias.",
            "encoder.relative_position_bias.",
            "shared_position_bias.",
        )
    ),
)
BLOCK_TABLES = rename(
    f"{L4}attention.attention.relative_position_bias.{TABLE}",
    "rel_pos.{i}",
    f"{L5}relative_position_bias.{TABLE}",
)
SHARED_TABLE = rename(
    f"encoder.relative_position_bias.{TABLE}", "rel_pos.0", f"shared_position_bias.{TABLE}"
)


def detect(names: Collection[str]) -> bool:
    """A ViT with a bias of queries and none of keys is a BEiT."""
    is_vit = "embeddings.patch_embeddings.projection.weight" in names and (
        "embeddings.cls_token" in names
    )
    return is_vit and hf_vit.lacks_key_bias(names) and not hf_internvit.detect(names)


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    is_shared = any(name in names for spelling in SHARED_TABLE.spellings for name in spelling)
    return (*RULES, SHARED_TABLE if is_shared else BLOCK_TABLES)


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read `BeitConfig` and `Data2VecVisionConfig` of transformers, with their defaults for keys
    that are left out.

    Raises CheckpointError for images that are not square: transformers reads the table of such an
    image with its sides swapped.
    """
    of_blocks = bool(config.get("use_relative_position_bias", False))
    is_shared = bool(config.get("use_shared_relative_position_bias", False))
    if of_blocks and is_shared:
        raise CheckpointError(
            "tables of relative positions in each block and for all are not supported"
        )
    pools_mean = config.get("use_mean_pooling", True)
    has_head = any(name.startswith("head.") for name in tensors)
    has_pooler = any(name.startswith("fc_norm.") for name in tensors)
    is_pretraining = "norm.weight" in tensors and not has_head
    lacks_pooler = config.get("model_type") == "data2vec-vision" and not (has_head or has_pooler)
    norm: Literal["tokens", "pooled", "none"] = "pooled"
    if is_pretraining or not pools_mean:
        norm = "tokens"
    elif lacks_pooler:  # `Data2VecVisionModel`
        norm = "none"
    has_table = bool(config.get("use_absolute_position_embeddings", False))
    return refuse_oblong(
        ViTConfig(
            **read_sizes(config, num_heads, 16, "gelu", 1e-12),
            num_classes=count_classes(tensors),
            pos_embed=has_table,
            pos_prefix=int(has_table),
            rel_bias="block" if of_blocks else "shared" if is_shared else "none",
            rel_resize="bilinear",
            qkv_bias=False,
            qv_bias=True,
            layer_scale=number(config.get("layer_scale_init_value", 0.1), "layer_scale_init_value")
            > 0,
            pool="mean" if pools_mean else "cls",
            final_norm=norm,
        )
    )


ONLY: dict[str, tuple[object, ...]] = {
    "class_token": (True,),
    "dist_token": (False,),
    "num_registers": (0,),
    "patch_bias": (True,),
    "pre_norm": (False,),
    "qkv_bias": (False,),
    "qv_bias": (True,),
    "ffn": ("mlp",),
    "head_blocks": (1,),
    "head_norm": (True,),
    "projection": (0,),
}


def refusals(config: ViTConfig) -> list[str]:
    obstacles = not_square(config)
    if (config.pool, config.final_norm) not in (("mean", "pooled"), ("cls", "tokens")):
        obstacles.append(f"pool={config.pool} with the final norm of {config.final_norm}")
    if config.pos_embed and config.pos_prefix != 1:
        obstacles.append("a class token without a position")
    return obstacles


def rules_to_write(config: ViTConfig) -> tuple[Rule, ...]:
    return (*RULES, SHARED_TABLE if config.rel_bias == "shared" else BLOCK_TABLES)


def write_config(config: ViTConfig) -> dict[str, Any]:
    return {
        "architectures": ["BeitForImageClassification" if config.num_classes else "BeitModel"],
        "model_type": "beit",
        "image_size": image_pair(config.image_size),
        "patch_size": image_pair(config.patch_size),
        "num_channels": config.in_chans,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.hidden_dim,
        "hidden_act": activation_name(config.act),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "layer_norm_eps": config.norm_eps,
        "layer_scale_init_value": 0.1 if config.layer_scale else 0.0,
        "use_mask_token": False,
        "use_absolute_position_embeddings": config.pos_embed,
        "use_relative_position_bias": config.rel_bias == "block",
        "use_shared_relative_position_bias": config.rel_bias == "shared",
        "use_mean_pooling": config.pool == "mean",
    }


def prefix(config: ViTConfig) -> str:
    """The prefix of the backbone in a model with a head; a bare backbone has none."""
    return "beit." if config.num_classes else ""


WRITER = Writer(
    "transformers",
    ViTConfig,
    rules_to_write,
    write_config,
    ONLY,
    refusals,
    prefix=prefix,
    rare=("pos_embed", "rel_bias", "qv_bias"),
)
LAYOUT = Layout(
    "hf-beit",
    ("beit.", "data2vec_vision."),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("beit", "data2vec-vision"),
    classes="Beit|Data2VecVision",
    words="hf",
    fields=HF_FIELDS,
)
