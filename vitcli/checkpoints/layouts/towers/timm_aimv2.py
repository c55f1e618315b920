"""timm's AIMv2 (arXiv 2411.14402): a `VisionTransformer` of `timm/models/vision_transformer.py`
with RMS norms, one of them after the patch embedding, and a SwiGLU whose gate is apart."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from vitcli.checkpoints.keymap import Rule, fuse, rename
from vitcli.checkpoints.layouts import timm
from vitcli.checkpoints.layouts.layout import Json, Layout, Tensors, Writer, shape
from vitcli.checkpoints.layouts.timm_eva_write import mlp_ratio
from vitcli.checkpoints.layouts.timm_write import write_config as write_vit
from vitcli.checkpoints.preprocess.published import AIMV2
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig

MLP = timm.B + "mlp."
ARCHITECTURES = r"aimv2_(large|huge|1b|3b)_patch14_\d+"
HEAD_WIDTH = 128  # in all published models
EPS = 1e-5
RULES = (
    fuse((MLP + "fc1_g.{p}", MLP + "fc1_x.{p}"), MLP + "fc1.{p}"),
    rename("patch_embed.norm.weight", "patch_embed.norm.weight"),
    *timm.RULES,
)


def detect(names: Collection[str]) -> bool:
    """Whether the embedded patches of a ViT have a norm."""
    block = "blocks.0."
    is_vit = block + "attn.qkv.weight" in names or block + "mlp.fc2.weight" in names
    return is_vit and "patch_embed.norm.weight" in names


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read what timm's ViTs have, and which biases there are. Every head is 128 wide, unless
    `model_args` say otherwise."""
    args = timm.model_args(config)
    if args.get("act_layer", "silu") not in ("silu", "swish"):
        raise CheckpointError(f"config.json: timm's act_layer={args['act_layer']!r} is not known")
    width = shape(tensors, "patch_embed.proj.weight", 4)[0]
    heads = num_heads or args.get("num_heads") or max(1, width // HEAD_WIDTH)
    plain = {**config, "model_args": {k: v for k, v in args.items() if k != "act_layer"}}
    read = timm.read_config(tensors, plain, heads)
    has_bias = args.get("proj_bias", False)
    return replace(
        read,
        patch_norm=True,
        norm="rms",
        proj_bias=has_bias,
        ffn="swiglu",
        ffn_bias=has_bias,
        norm_eps=EPS,
    )


ONLY: dict[str, tuple[object, ...]] = {
    "patch_norm": (True,),
    "norm": ("rms",),
    "norm_eps": (EPS,),
    "ffn": ("swiglu",),
    "dist_token": (False,),
    "pool": ("cls", "mean"),
    "projection": (0,),
}


def refusals(config: ViTConfig) -> list[str]:
    obstacles = timm.WRITER.refusals(config)
    if config.proj_bias != config.ffn_bias:
        obstacles.append("biases after attention without those of the feed-forward, or reversed")
    if config.pos_prefix not in (0, config.num_prefix):
        obstacles.append("positions of some prefix tokens")
    return obstacles


def write_config(config: ViTConfig) -> dict[str, Any]:
    """The config: AIMv2 L, and all sizes as `model_args`."""
    json = write_vit(config)
    args = {
        **json["model_args"],
        "mlp_ratio": mlp_ratio(config.hidden_dim, config.embed_dim),
        "proj_bias": config.proj_bias,
    }
    return {**json, "architecture": "aimv2_large_patch14_224", "model_args": args}


WRITER = Writer(
    "timm",
    ViTConfig,
    lambda config: RULES,
    write_config,
    ONLY,
    refusals,
    rare=("patch_norm", "norm", "proj_bias", "ffn_bias"),
)
LAYOUT = Layout(
    "timm-aimv2",
    timm.PREFIXES,
    detect,
    rules,
    read_config,
    WRITER,
    architectures=ARCHITECTURES,
    words="timm",
    family=AIMV2,
)
