"""timm's BEiT: `timm/models/beit.py`, and the files of BEiT, BEiTv2 and data2vec from Microsoft and
Meta (`unilm/beit`, `data2vec/data2vec_vision`), whose names are the same."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.keymap import Rule, drop, rename
from vitcli.checkpoints.layouts import timm
from vitcli.checkpoints.layouts.hf_beit import TABLE
from vitcli.checkpoints.layouts.layout import (
    Json,
    Layout,
    Tensors,
    Writer,
    count_blocks,
    count_classes,
    shape,
)
from vitcli.checkpoints.preprocess.published import BEIT
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

B = "blocks.{i}."
ARCHITECTURES = r"(beit|beitv2)_(base|large)_patch\d+_\d+"
SHARED = f"rel_pos_bias.{TABLE}"

RULES = (
    *(
        rule
        for rule in timm.RULES
        if rule.ours in ("cls_token", "pos_embed", "norm.{p}", "fc_norm.{p}", "head.{p}")
        or ((rule.ours or "").startswith(("patch_embed.", B)) and rule.ours != B + "attn.qkv.{p}")
    ),
    rename(B + "attn.qkv.weight", B + "attn.qkv.weight"),
    rename(B + "attn.q_bias", B + "attn.q_bias"),
    rename(B + "attn.v_bias", B + "attn.v_bias"),
    drop(B + "attn.relative_position_index", "it follows from the grid"),
    drop("rel_pos_bias.relative_position_index", "it follows from the grid"),
    drop("mask_token", "only pre-training uses it"),
    drop("lm_head.{p}", "the classifier of visual words: only pre-training uses it", is_told=True),
)
BLOCK_TABLES = rename(f"{B}attn.{TABLE}", "rel_pos.{i}")
SHARED_TABLE = rename(SHARED, "rel_pos.0")
# timm's arguments: those that are read or follow from the tensors, or matter only in training.
READ = frozenset(
    (
        *("img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth"),
        *("num_heads", "qkv_bias", "mlp_ratio", "init_values", "use_abs_pos_emb", "use_fc_norm"),
        *("use_rel_pos_bias", "use_shared_rel_pos_bias", "head_init_scale", "drop_rate"),
        *("pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    )
)


def detect(names: Collection[str]) -> bool:
    tables = (f"blocks.0.attn.{TABLE}", SHARED)
    return "patch_embed.proj.weight" in names and any(table in names for table in tables)


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return (*RULES, SHARED_TABLE if SHARED in names else BLOCK_TABLES)


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read the sizes from the tensors, and the pooling from the config; without one, a norm after
    pooling (`fc_norm`) shows the mean of the patches, and `norm` the class token."""
    args = timm.model_args(config)
    if unknown := [n for n, value in args.items() if n not in READ and value]:
        raise CheckpointError(
            f"config.json: timm's {unknown[0]}={args[unknown[0]]!r} is not supported"
        )
    width, chans, *patch = shape(tensors, "patch_embed.proj.weight", 4)
    depth = count_blocks(tensors)
    tables = [name for name in tensors if name.startswith("rel_pos.")]
    rows, heads = shape(tensors, "rel_pos.0", 2)
    size = timm.image_size(config)
    like = (size[0] // patch[0], size[1] // patch[1]) if size else None
    grid = _grid(rows, like)
    has_table = bool(args.get("use_abs_pos_emb", "pos_embed" in tensors))
    has_fc_norm = any(name.startswith("fc_norm.") for name in tensors)
    pooling = config.get("global_pool", args.get("global_pool"))
    if pooling not in (None, "avg", "token"):
        raise CheckpointError(
            f"global_pool={pooling!r} is not supported", "supported are token and avg"
        )
    if pooling is None:
        pooling = "avg" if has_fc_norm else "token"
    return ViTConfig(
        image_size=size if size and like == grid else (grid[0] * patch[0], grid[1] * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        embed_dim=width,
        depth=depth,
        num_heads=num_heads or heads,
        hidden_dim=shape(tensors, "blocks.0.mlp.fc2.weight", 2)[1],
        num_classes=count_classes(tensors),
        pos_embed=has_table,
        pos_prefix=int(has_table),
        pos_resize="bicubic-antialias",
        rel_bias="shared" if len(tables) == 1 and depth > 1 else "block",
        qkv_bias=False,
        qv_bias=any(name.endswith(".attn.q_bias") for name in tensors),
        layer_scale=any(name.endswith(".gamma") for name in tensors),
        pool="mean" if pooling == "avg" else "cls",
        final_norm="pooled" if has_fc_norm else "tokens",
    )


def _grid(rows: int, like: tuple[int, int] | None) -> tuple[int, int]:
    """The grid of a table of relative positions: `like` if it has as many rows, else a square."""
    if like is not None and (2 * like[0] - 1) * (2 * like[1] - 1) + 3 == rows:
        return like
    side = math.isqrt(max(rows - 3, 0))
    if side * side != rows - 3 or side % 2 == 0:
        raise CheckpointError(
            f"a relative_position_bias_table of {rows} rows is not that of a square grid",
            "its image size is not in the file",
        )
    return (side + 1) // 2, (side + 1) // 2


ONLY: dict[str, tuple[object, ...]] = {
    "rel_bias": ("block", "shared"),
    "class_token": (True,),
    "dist_token": (False,),
    "num_registers": (0,),
    "patch_bias": (True,),
    "pre_norm": (False,),
    "qkv_bias": (False,),
    "qv_bias": (True, False),
    "ffn": ("mlp",),
    "act": ("gelu",),
    "pool": ("cls", "mean"),
    "head_blocks": (1,),
    "head_norm": (True,),
    "projection": (0,),
}
EPS = 1e-6


def refusals(config: ViTConfig) -> list[str]:
    obstacles = []
    if config.pos_embed and config.pos_prefix != 1:
        obstacles.append("a class token without a position")
    if config.final_norm == "none":
        obstacles.append("no final norm")
    return obstacles


def adapt(config: ViTConfig, tensors: Tensors) -> tuple[ViTConfig, dict[str, Tensor]]:
    return replace(config, norm_eps=EPS), dict(tensors)


def write_config(config: ViTConfig) -> dict[str, Any]:
    pool = "avg" if config.pool == "mean" else "token"
    return {
        "architecture": "beit_base_patch16_224",
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": pool,
        "model_args": {
            "img_size": list(config.image_size),
            "patch_size": config.patch_size[0],
            "in_chans": config.in_chans,
            "embed_dim": config.embed_dim,
            "depth": config.depth,
            "num_heads": config.num_heads,
            "mlp_ratio": config.hidden_dim / config.embed_dim,
            "qkv_bias": config.qv_bias,
            "init_values": 1e-5 if config.layer_scale else None,
            "use_abs_pos_emb": config.pos_embed,
            "use_rel_pos_bias": config.rel_bias == "block",
            "use_shared_rel_pos_bias": config.rel_bias == "shared",
            "use_fc_norm": config.final_norm == "pooled",
            "global_pool": pool,
        },
    }


def rules_to_write(config: ViTConfig) -> tuple[Rule, ...]:
    """timm gives layer scale the names `gamma_1` and `gamma_2`."""
    scales = {B + f"ls{n}.gamma": rename(B + f"gamma_{n}", B + f"ls{n}.gamma") for n in (1, 2)}
    table = SHARED_TABLE if config.rel_bias == "shared" else BLOCK_TABLES
    return (*(scales.get(rule.ours or "", rule) for rule in RULES), table)


WRITER = Writer(
    "timm",
    ViTConfig,
    rules_to_write,
    write_config,
    ONLY,
    refusals,
    adapt,
    rare=("pos_embed", "rel_bias", "qv_bias"),
)
LAYOUT = Layout(
    "timm-beit",
    timm.PREFIXES,
    detect,
    rules,
    read_config,
    WRITER,
    architectures=ARCHITECTURES,
    doubt="normalised as for BEiT; BEiTv2 has the same tensors, and ImageNet's mean and std",
    words="timm",
    family=BEIT,
)
