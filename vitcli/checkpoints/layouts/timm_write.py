"""Bring a ViT into timm's form: its obstacles, its tensors, and the architecture and arguments from
which timm builds it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.layouts.layout import Tensors, image_pair
from vitcli.checkpoints.weights.lazy import cat
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

# The bases for models with epsilon 1e-5.
CLIP, BEIT3 = "vit_base_patch16_clip_224", "beit3_base_patch16_224"


def refusals(config: ViTConfig) -> list[str]:
    obstacles = []
    if config.num_class_tokens > 1 and not config.summary:
        obstacles.append("several class tokens")
    if config.summary not in ((), (0,)) and "cls" in config.pool:
        obstacles.append("a summary of joined class tokens")
    if config.head_blocks > 1:
        obstacles.append(f"a classifier on the last {config.head_blocks} blocks")
    if config.pool == "cls+mean" and config.num_classes:
        obstacles.append("a classifier on the class token and the mean of the patches")
    if config.dist_token and config.num_classes and not config.dist_head:
        obstacles.append("a distillation token without a classifier of its own")
    if config.dist_token and config.num_registers:
        obstacles.append("a distillation token along with registers")
    if config.num_classes and not config.head_norm:
        obstacles.append("a classifier on tokens without the final norm")
    if config.projection and not config.pre_norm:  # it would be read as a classifier
        obstacles.append(f"a projection to {config.projection} after a tower that is not CLIP's")
    if config.norm_eps > 1e-5:
        obstacles.append(f"norm_eps={config.norm_eps:g}")
    if config.final_norm == "pooled" and config.pool != "mean":
        obstacles.append(f"a norm after pooling {config.pool}")
    return obstacles


def adapt(config: ViTConfig, tensors: Tensors) -> tuple[ViTConfig, dict[str, Tensor]]:
    """Bring the model into timm's form. timm gives positions to all prefix tokens or to none, so a
    position of the class token alone is added to the token, as timm does with DINOv2's files. The
    architecture's name decides the epsilon."""
    import torch

    is_coarse = _base_architecture(config) in (CLIP, BEIT3)
    config = replace(config, norm_eps=1e-5 if is_coarse else 1e-6)
    if config.summary:
        config, tensors = _without_summary(config, tensors)
    if config.projection:  # timm calls it the head, and gives it a bias
        tensors = {**tensors, "head.weight": tensors["proj.weight"]}
        tensors["head.bias"] = torch.zeros(config.projection)
        del tensors["proj.weight"]
        config = replace(config, num_classes=config.projection, projection=0)
    if config.pos_prefix in (0, config.num_prefix):
        return config, dict(tensors)
    pos = tensors["pos_embed"]
    placed = {
        **tensors,
        "cls_token": tensors["cls_token"] + pos[:, :1],
        "pos_embed": pos[:, config.pos_prefix :].contiguous(),
    }
    return replace(config, pos_prefix=0), placed


def _without_summary(config: ViTConfig, tensors: Tensors) -> tuple[ViTConfig, Tensors]:
    """Make registers of all class tokens but the first, and a table of the image's own grid, as
    timm does with RADIO's files (`_convert_radio`)."""
    from vitcli.models.pos_embed import resize_pos_embed

    classes, registers = tensors["cls_token"], tensors.get("register_tokens")
    others = [classes[:, 1:], *([registers] if registers is not None else [])]
    joined = cat(others, dim=1)
    placed = {**tensors, "cls_token": classes[:, :1].contiguous()}
    if joined.shape[1]:
        placed["register_tokens"] = joined
    pos = resize_pos_embed(
        tensors["pos_embed"], config.table_grid, config.grid, 0, config.pos_resize
    )
    if not config.patch_bias and not config.pre_norm:
        placed["patch_embed.proj.bias"] = pos.new_zeros(config.embed_dim)
    return replace(
        config,
        num_class_tokens=1,
        num_registers=joined.shape[1],
        summary=(),
        pos_grid=None,
        pos_resize="bicubic-antialias",
        pixel_norm=None,
        patch_bias=True,
    ), {**placed, "pos_embed": pos}


def notes(config: ViTConfig) -> tuple[str, ...]:
    if config.dist_token and not config.num_classes:
        return ("timm's embedding is the mean of the class and the distillation token",)
    return ()


def write_config(config: ViTConfig) -> dict[str, Any]:
    """The config: a base architecture of timm, and all sizes as `model_args`."""
    ratio = config.hidden_dim / config.embed_dim * (2 if config.ffn == "swiglu" else 1)
    pool = {"mean": "avg", "map": "map"}.get(config.pool, "token")
    args: dict[str, Any] = {
        "img_size": list(config.image_size),
        "patch_size": image_pair(config.patch_size),
        "in_chans": config.in_chans,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": ratio,
        "qkv_bias": config.qkv_bias,
        "init_values": 1e-5 if config.layer_scale else None,
        "class_token": config.class_token,
        "no_embed_class": config.pos_prefix == 0 and config.num_prefix > 0,
        "reg_tokens": config.num_registers,
        "pre_norm": config.pre_norm,
        "fc_norm": config.final_norm == "pooled",
        "global_pool": pool,
    }
    if config.attn_norm or config.ffn_norm:
        args |= {"scale_attn_norm": config.attn_norm, "scale_mlp_norm": config.ffn_norm}
    if config.final_norm == "none":
        args["final_norm"] = False
    if config.ffn == "mlp" and config.act != "gelu":
        args["act_layer"] = config.act
    return {
        "architecture": _base_architecture(config),
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": pool,
        "model_args": args,
    }


def _base_architecture(config: ViTConfig) -> str:
    """An architecture of timm that has the parts that `model_args` cannot express."""
    if config.dist_token:
        return "deit_base_distilled_patch16_224"
    if config.ffn == "swiglu":
        return "vit_giant_patch14_dinov2"
    if config.norm_eps == 1e-5:
        return BEIT3 if config.attn_norm and config.ffn_norm else CLIP
    return "vit_base_patch16_224"
