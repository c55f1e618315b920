"""Meta's Perception Encoders (arXiv 2504.13181): the `.pt` files that
`core/vision_encoder/pe.py` of facebookresearch/perception_models opens.

The names are those of OpenAI's CLIP. A Core has a text tower next to it, and attention pooling; a
Lang or a Spatial has neither, and no final norm. Rotary positions leave no tensor: a patch's place
is its column and row, counted from 1 where there is a class token, else from 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from vitcli.checkpoints.keymap import Rule, rename, split
from vitcli.checkpoints.layouts.layout import (
    Json,
    Layout,
    Tensors,
    count_blocks,
    grid_of,
    shape,
)
from vitcli.checkpoints.layouts.openai import TEXT_RULES, VISUAL, is_perception_encoder, tower
from vitcli.checkpoints.layouts.texts.open_clip import OPEN_CLIP_TEXTS
from vitcli.checkpoints.layouts.timm_eva import heads_of
from vitcli.checkpoints.preprocess.published import PE, PE_OWN
from vitcli.models.block_config import Rope
from vitcli.models.config import ViTConfig

POOL_HEADS = 8


def _rules_at(at: str) -> tuple[Rule, ...]:
    """The rules of an encoder whose names begin with `at`."""
    pool = at + "attn_pool."
    return (
        *tower(at),
        rename(pool + "probe", "attn_pool.latent"),
        split(pool + "attn.in_proj_{p}", ("attn_pool.q.{p}", 1), ("attn_pool.kv.{p}", 2)),
        rename(pool + "attn.out_proj.{p}", "attn_pool.proj.{p}"),
        rename(pool + "layernorm.{p}", "attn_pool.norm.{p}"),
        rename(pool + "mlp.c_fc.{p}", "attn_pool.mlp.fc1.{p}"),
        rename(pool + "mlp.c_proj.{p}", "attn_pool.mlp.fc2.{p}"),
    )


RULES = _rules_at("")
CLIP_RULES = (*_rules_at(VISUAL), *TEXT_RULES)


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return CLIP_RULES if any(name.startswith(VISUAL) for name in names) else RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read sizes from the tensors, and the number of heads from the published models'. The grid is
    square, as the repository builds it."""
    width, chans, *patch = shape(tensors, "patch_embed.proj.weight", 4)
    depth = count_blocks(tensors)
    positions = shape(tensors, "pos_embed", 3)[1]
    is_odd = math.isqrt(positions) ** 2 != positions  # one row is the class token's
    class_token = "cls_token" in tensors or is_odd
    grid = grid_of(positions - class_token, None)
    heads = num_heads or heads_of(width, depth)
    hidden = shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0]
    pools = any(name.startswith("attn_pool.") for name in tensors)
    pool_hidden = shape(tensors, "attn_pool.mlp.fc1.weight", 2)[0] if pools else 0
    has_norm = pools or any(name.startswith("norm.") for name in tensors)
    return ViTConfig(
        image_size=(grid[0] * patch[0], grid[1] * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        hidden_dim=hidden,
        projection=shape(tensors, "proj.weight", 2)[0] if pools else 0,
        class_token=class_token,
        pos_prefix=int(class_token),
        rope=Rope(
            theta=10_000,
            coordinates="index",
            offset=int(class_token),
            columns_first=True,
            halves=False,
        ),
        fixed_grid=True,
        patch_bias=False,
        pre_norm=True,
        layer_scale=any(name.endswith(".gamma") for name in tensors),
        pool="map" if pools else "mean",
        pool_heads=POOL_HEADS if pools and heads != POOL_HEADS else 0,
        pool_hidden_dim=pool_hidden if pool_hidden != hidden else 0,
        pool_prefix=pools,
        final_norm="tokens" if has_norm else "none",
        norm_eps=1e-5,
    )


LAYOUT = Layout(
    "pe",
    ("module.",),
    is_perception_encoder,
    rules,
    read_config,
    evaluation=PE_OWN,
    family=PE,
    texts=OPEN_CLIP_TEXTS,
)
