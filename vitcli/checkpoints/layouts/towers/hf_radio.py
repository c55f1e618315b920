"""RADIO (arXiv 2312.06709, 2412.07679, 2601.17237) in the names of NVIDIA's repositories on the hub
(`hf_model.py`), which transformers writes, too, and in those of transformers' class in memory
(`transformers/models/radio`).

A ViT without a final norm and without a bias of its patches. Its table of positions covers 128x128
patches. It has several class tokens: those of the summary, joined, are its embedding. The model
itself normalises pixels of 0 to 1, which is a part of the preprocessing here.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.keymap import Names, Rule, drop, fuse, rename, reshape, split
from vitcli.checkpoints.layouts.layout import (
    HF_FIELDS,
    Json,
    Layout,
    Tensors,
    Writer,
    activation_name,
    lift,
    lower,
    mlp_ratio,
    no_ratio,
    not_square,
)
from vitcli.checkpoints.layouts.towers.radio_config import read_config, token_counts
from vitcli.checkpoints.preprocess.published import RADIO
from vitcli.models.config import Config, ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

# vitcli's names; the hub's names in a block, the first of which is written; and those in memory.
_BLOCK = (
    ("norm1.{p}", ("norm1.{p}",), "norm1.{p}"),
    ("attn.proj.{p}", ("attn.proj.{p}",), "attention.o_proj.{p}"),
    ("norm2.{p}", ("norm2.{p}",), "norm2.{p}"),
    ("mlp.fc1.{p}", ("mlp.fc1.{p}",), "mlp.fc1.{p}"),
    ("mlp.fc2.{p}", ("mlp.fc2.{p}",), "mlp.fc2.{p}"),
    *(
        (
            f"ls{n}.gamma",
            (f"layer_scale{n}.lambda1", f"ls{n}.grandma", f"ls{n}.gamma"),
            f"layer_scale{n}.lambda1",
        )
        for n in (1, 2)
    ),
)
TOKENS, TOKENS_IN_MEMORY = "patch_generator.cls_token.token", "embeddings.cls_register_token"
PATCHES, PATCHES_IN_MEMORY = "patch_generator.embedder.weight", "embeddings.patch_projection.weight"


def square_patches(weight: Tensor) -> Tensor:
    """(D, 3*P*P) -> (D, 3, P, P)"""
    side = math.isqrt(weight.shape[1] // 3)
    return weight.reshape(len(weight), 3, side, side)


def flat_patches(weight: Tensor) -> Tensor:
    """(D, C, P, P) -> (D, C*P*P)"""
    return weight.flatten(1)


def _of_block(ours: str, hub: Collection[str], in_memory: str) -> Rule:
    first, *others = hub
    also = (
        *(f"blocks.{{i}}.{name}" for name in (first, *others)),
        f"encoder.layer.{{i}}.{in_memory}",
    )
    return rename(f"model.blocks.{{i}}.{first}", f"blocks.{{i}}.{ours}", *also)


RULES = (
    reshape(
        ("model." + PATCHES,),
        "patch_embed.proj.weight",
        square_patches,
        flat_patches,
        (PATCHES,),
        (PATCHES_IN_MEMORY,),
    ),
    rename(
        "model.patch_generator.pos_embed",
        "pos_embed",
        "patch_generator.pos_embed",
        "embeddings.position_embedding",
    ),
    *(_of_block(*names) for names in _BLOCK),
    fuse(
        ("model.blocks.{i}.attn.qkv.{p}",),
        "blocks.{i}.attn.qkv.{p}",
        ("blocks.{i}.attn.qkv.{p}",),
        tuple(f"encoder.layer.{{i}}.attention.{x}_proj.{{p}}" for x in "qkv"),
    ),
    rename("model.norm.{p}", "norm.{p}", "norm.{p}"),
    *(rename(f"input_conditioner.norm_{x}", f"norm_{x}") for x in ("mean", "std")),
    rename("summary_idxs", "summary_idxs"),
    drop("reg_token", "NVIDIA's code does not read it: its registers are next to the class tokens"),
    drop("adaptors.{rest}", "it maps the output into the space of a teacher", is_told=True),
    drop("patch_generator.video_embedder.{p}", "only videos use it", is_told=True),
    drop("embeddings.video_patch_projection.{p}", "only videos use it", is_told=True),
    drop("feature_normalizer.{rest}", "the config has no normaliser of features"),
    drop("inter_feature_normalizer.{rest}", "it normalises hidden states", is_told=True),
)


GATED = (
    fuse(
        tuple(f"model.blocks.{{i}}.mlp.{x}_proj.{{p}}" for x in ("gate", "up")),
        "blocks.{i}.mlp.fc1.{p}",
        *(
            tuple(f"{start}.{{i}}.mlp.{x}_proj.{{p}}" for x in ("gate", "up"))
            for start in ("blocks", "encoder.layer")
        ),
    ),
    _of_block("mlp.fc2.{p}", ("mlp.down_proj.{p}",), "mlp.down_proj.{p}"),
)


def rules_of(counts: tuple[int, int], *, is_gated: bool) -> tuple[Rule, ...]:
    """The rules of a model with these numbers of class tokens and registers, and with a SwiGLU."""
    names = tuple(zip(("cls_token", "register_tokens"), counts, strict=True))
    shares = tuple((name, count) for name, count in names if count)
    also: tuple[Names, ...] = ((TOKENS,), (TOKENS_IN_MEMORY,))
    tokens = split("model." + TOKENS, *shares, also=also, load=lift, save=lower)
    return (tokens, *(GATED if is_gated else ()), *RULES)


def rules_by_config(tensors: Tensors, config: Json) -> tuple[Rule, ...]:
    return rules_of(token_counts(config), is_gated=_is_gated(tensors))


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return rules_of((1, 1), is_gated=_is_gated(names))


def _is_gated(names: Collection[str]) -> bool:
    return any(".mlp.gate_proj." in name or ".mlp.up_proj." in name for name in names)


def detect(names: Collection[str]) -> bool:
    return PATCHES in names or PATCHES_IN_MEMORY in names


ONLY: dict[str, tuple[object, ...]] = {
    "class_token": (True,),
    "dist_token": (False,),
    "pos_prefix": (0,),
    "pos_resize": ("bilinear-square", "bilinear-square-corners"),
    "patch_bias": (False,),
    "pre_norm": (False,),
    "pool": ("cls",),
    "final_norm": ("none",),
    "head_blocks": (1,),
    "head_norm": (True,),
    "num_classes": (0,),
    "projection": (0,),
}


def refusals(config: ViTConfig) -> list[str]:
    obstacles = not_square(config)
    if config.pos_grid is None or config.pos_grid[0] != config.pos_grid[1]:
        obstacles.append("a table of positions that is not of a large square")
    if not config.summary or config.pixel_norm is None:
        obstacles.append("no summary of class tokens, or no normalisation of pixels")
    return [*obstacles, *no_ratio(config)]


def write_config(config: ViTConfig) -> dict[str, Any]:
    assert config.pos_grid is not None and config.pixel_norm is not None
    mean, std = config.pixel_norm
    return {
        "architectures": ["RadioModel"],
        "model_type": "radio",
        "image_size": config.image_size[0],
        "patch_size": config.patch_size[0],
        "max_img_size": config.pos_grid[0] * config.patch_size[0],
        "num_channels": config.in_chans,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": mlp_ratio(config),
        "use_swiglu_ffn": config.ffn == "swiglu",
        "hidden_act": activation_name(config.act),
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": config.qkv_bias,
        "num_cls_tokens": config.num_class_tokens,
        "num_registers": config.num_registers,
        "summary_idxs": list(config.summary),
        "norm_mean": list(mean),
        "norm_std": list(std),
    }


def adapt(config: ViTConfig, tensors: Tensors) -> tuple[ViTConfig, dict[str, Tensor]]:
    """Add the tensors that are a part of vitcli's config. transformers does not align corners: a
    table that needs that is written as it is for the image size."""
    import torch

    from vitcli.models.pos_embed import resize_pos_embed

    assert config.pixel_norm is not None
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in config.pixel_norm)
    summary = torch.tensor(config.summary, dtype=torch.int64)
    if config.pos_resize == "bilinear-square-corners":
        pos, old, new = tensors["pos_embed"], config.table_grid, config.grid
        tensors = {**tensors, "pos_embed": resize_pos_embed(pos, old, new, 0, config.pos_resize)}
        config = replace(config, pos_grid=new, pos_resize="bilinear-square")
    return config, {**tensors, "norm_mean": mean, "norm_std": std, "summary_idxs": summary}


def rules_to_write(config: ViTConfig) -> tuple[Rule, ...]:
    counts = config.num_class_tokens, config.num_registers
    return rules_of(counts, is_gated=config.ffn == "swiglu")


def notes(config: Config, json: Json) -> tuple[str, ...]:
    """Notes on the embedding, and on positions that transformers resamples in another way."""
    assert isinstance(config, ViTConfig)
    joined = ", ".join(str(number + 1) for number in config.summary)
    pooled = f"its embedding is the summary: class tokens {joined} of {config.num_class_tokens}"
    if config.pos_resize != "bilinear-square-corners":
        return (pooled,)
    aligned = "positions are resampled with aligned corners, as NVIDIA's code for this version does"
    return pooled, f"{aligned}; transformers' class does not"


WRITER = Writer(
    "transformers",
    ViTConfig,
    rules_to_write,
    write_config,
    ONLY,
    refusals,
    adapt,
    prefix=lambda config: "radio_model.",
    rare=("num_class_tokens", "summary", "pos_grid"),
)
LAYOUT = Layout(
    "hf-radio",
    ("radio_model.", "vision_model."),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    config_tensors=frozenset({"norm_mean", "norm_std", "summary_idxs"}),
    model_types=("radio",),
    classes="RADIO|Radio",
    rules_by_config=rules_by_config,
    notes=notes,
    words="hf",
    family=RADIO,
    fields={**HF_FIELDS, "hidden_dim": "mlp_ratio times hidden_size"},
)
