"""Write a model for timm's class `Eva`: the names and arguments of `timm/models/eva.py`.

Every argument is written; the architecture's name gives the epsilon, which no argument can.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.layouts.layout import BF16, Tensors
from vitcli.models.block_config import Rope
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

RARE_PARTS = (
    *("pos_embed", "rope", "fixed_grid", "qv_bias", "attn_norm", "ffn_norm"),
    *("pool_heads", "pool_hidden_dim", "pool_prefix", "projection_bias"),
)
ONLY: dict[str, tuple[object, ...]] = {
    "dist_token": (False,),
    "pool": ("cls", "mean", "map"),
    "head_blocks": (1,),
    "head_norm": (True,),
}
# The architectures of EVA's CLIPs by the width of their joint space of images and texts.
CLIPS = {
    512: "eva02_base_patch16_clip_224",
    768: "eva02_large_patch14_clip_224",
    1024: "eva_giant_patch14_clip_224",
}
FAR_PERIODS = "rotary periods that are not those of theta"


def is_separate(config: ViTConfig) -> bool:
    """Whether timm keeps q, k and v apart, as in EVA-02 B and L."""
    return config.ffn == "swiglu" and config.ffn_norm and not config.qkv_bias


def is_gate_apart(config: ViTConfig) -> bool:
    """Whether timm keeps gate and up of a SwiGLU apart: with a norm inside, or as in DINOv3."""
    return config.ffn == "swiglu" and (config.ffn_norm or _is_dino(config))


def _is_dino(config: ViTConfig) -> bool:
    return config.rope is not None and config.rope.coordinates == "centred"


def refusals(config: ViTConfig) -> list[str]:
    obstacles = []
    if config.patch_bias == config.pre_norm:
        obstacles.append(f"patch_bias={config.patch_bias}, pre_norm={config.pre_norm}")
    if config.act != "gelu" and (config.ffn == "mlp" or config.pool == "map"):
        obstacles.append(f"act={config.act}")
    if (config.pool == "map") != config.pool_prefix:
        obstacles.append("attention pooling that does not read the prefix tokens")
    if config.projection and not _is_read_as_projection(config, config.projection):
        obstacles.append(f"a projection to {config.projection} after a tower that is not CLIP's")
    if config.patch_size[0] != config.patch_size[1]:
        obstacles.append("patches that are not square")
    return obstacles + _rope_refusals(config)


def _has_clip_head(config: ViTConfig) -> bool:
    return config.final_norm == "tokens" and not config.layer_scale


def _is_read_as_projection(config: ViTConfig, width: int) -> bool:
    """Whether the head of the written file is read as a projection again."""
    if not _has_clip_head(config):
        return False
    if config.projection_bias:
        return config.qv_bias and width in CLIPS
    return config.qv_bias or (config.pre_norm and config.pool == "map")


def _rope_refusals(config: ViTConfig) -> list[str]:
    rope = config.rope
    if rope is None:
        return []
    obstacles = []
    if rope.mixed and (rope.halves or rope.offset or rope.reference):
        obstacles.append("learned rotations of halves, or of moved or scaled indices")
    if rope.coordinates == "centred" and (rope.mixed or rope.offset):
        obstacles.append("learned or moved rotations of centred coordinates")
    if rope.rounding > BF16:
        obstacles.append(FAR_PERIODS)
    return obstacles


def adapt(config: ViTConfig, tensors: Tensors) -> tuple[ViTConfig, dict[str, Tensor]]:
    """Bring the model into timm's form. The projection is the head, and has a bias. All prefix
    tokens have a position or none: a position of some is added to the tokens. The architecture's
    name decides the epsilon, and the rotary periods are those of theta."""
    import torch

    eps = 1e-5 if config.fixed_grid or config.norm_eps >= 5e-6 else 1e-6
    written = dict(tensors)
    rope = replace(config.rope, periods=()) if config.rope else None
    config = replace(config, norm_eps=eps, rope=rope)
    if config.projection:
        zeros = torch.zeros(config.projection)
        written["head.weight"] = written.pop("proj.weight")
        written["head.bias"] = written.pop("proj.bias", zeros)
        config = replace(config, num_classes=config.projection, projection=0, projection_bias=False)
    if config.pos_embed and config.pos_prefix not in (0, config.num_prefix):
        pos = written["pos_embed"]
        written["cls_token"] = written["cls_token"] + pos[:, :1]
        written["pos_embed"] = pos[:, config.pos_prefix :].contiguous()
        config = replace(config, pos_prefix=0)
    return config, written


def write_config(config: ViTConfig) -> dict[str, Any]:
    """The config: a base architecture of timm, and all arguments as `model_args`."""
    pool = {"mean": "avg", "map": "map"}.get(config.pool, "token")
    args: dict[str, Any] = {
        "img_size": list(config.image_size),
        "patch_size": config.patch_size[0],
        "in_chans": config.in_chans,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": mlp_ratio(config.hidden_dim, config.embed_dim),
        "attn_type": "rope" if config.qkv_bias else "eva",
        "qkv_bias": config.qkv_bias or config.qv_bias,
        "qkv_fused": not is_separate(config),
        "swiglu_mlp": config.ffn == "swiglu",
        "swiglu_align_to": int(is_gate_apart(config) and not config.ffn_norm),
        "scale_mlp": config.ffn_norm,
        "scale_attn_inner": config.attn_norm,
        "init_values": 1e-5 if config.layer_scale else None,
        "class_token": config.class_token,
        "num_reg_tokens": config.num_registers,
        "no_embed_class": config.pos_prefix == 0 and config.num_prefix > 0,
        "use_abs_pos_emb": config.pos_embed,
        "use_pre_transformer_norm": config.pre_norm,
        "use_post_transformer_norm": config.final_norm == "tokens",
        "use_fc_norm": config.final_norm == "pooled",
        "global_pool": pool,
        **_rope_args(config.rope),
    }
    if config.pool == "map":
        hidden = config.pool_hidden_dim or config.hidden_dim
        args["attn_pool_num_heads"] = config.pool_heads or config.num_heads
        args["attn_pool_mlp_ratio"] = mlp_ratio(hidden, config.embed_dim)
    return {
        "architecture": _base_architecture(config),
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": pool,
        "model_args": args,
    }


def _rope_args(rope: Rope | None) -> dict[str, Any]:
    if rope is None:
        return {"use_rot_pos_emb": False}
    kind = "mixed" if rope.mixed else "dinov3" if rope.coordinates == "centred" else "cat"
    return {
        "use_rot_pos_emb": True,
        "rope_type": kind,
        "rope_temperature": rope.theta,
        "rope_grid_offset": rope.offset,
        "rope_grid_indexing": "xy" if rope.columns_first else "ij",
        "rope_rotate_half": rope.halves,
        "ref_feat_shape": list(rope.reference) if rope.reference else None,
    }


def mlp_ratio(hidden: int, width: int) -> float:
    """A ratio that timm's int(width * ratio) turns into `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.25) / width


def _base_architecture(config: ViTConfig) -> str:
    """An architecture of timm with this epsilon, of the family if there is one."""
    if config.fixed_grid:
        core = config.pool == "map"
        return "vit_pe_core_base_patch16_224" if core else "vit_pe_spatial_base_patch16_512"
    if config.norm_eps == 1e-5:
        return "vit_base_patch16_dinov3_qkvb" if config.qv_bias else "vit_base_patch16_dinov3"
    if config.qv_bias and _has_clip_head(config) and config.num_classes in CLIPS:
        return CLIPS[config.num_classes]
    if config.qv_bias:
        if not config.rope:
            return "eva_giant_patch14_224"
        return "eva02_base_patch16_clip_224" if config.attn_norm else "eva02_base_patch14_224"
    return "vit_base_patch16_rope_224"
