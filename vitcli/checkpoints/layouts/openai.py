"""OpenAI's CLIP and open_clip, the vision tower: `clip/model.py`, `open_clip/transformer.py`.

A whole CLIP has its vision tower under `visual.`, and a text tower with the same names without a
prefix. So `visual.` cannot be removed, and whole models have a table of their own.

The two differ in the activation, which the tensors do not show: QuickGELU in OpenAI's weights, the
exact GELU in most of open_clip's, whose JSON names it. A bare file is read as OpenAI's if it has
the settings that OpenAI's archives keep among the tensors, else as open_clip's; `--layout openai`
overrides that.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from vitcli.checkpoints.keymap import Rule, drop, rename, reshape
from vitcli.checkpoints.layouts.hf_clip import lift_token, lower_token
from vitcli.checkpoints.layouts.layout import (
    COMPARES,
    TEXT,
    Json,
    Layout,
    Tensors,
    count_blocks,
    grid_of,
    lift,
    lower,
    pair,
    shape,
    turn,
)
from vitcli.checkpoints.layouts.texts.open_clip import (
    OPEN_CLIP_TEXTS,
    OPENAI_TEXTS,
    model_config,
)
from vitcli.checkpoints.preprocess.published import CLIP
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig

HEAD_WIDTH = 64
VISUAL = "visual."
# The fields of open_clip's `CLIPVisionCfg` that are read here, follow from the tensors, or matter
# only in training.
READ = (
    *("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "ls_init_value"),
    *("patch_dropout", "no_ln_pre", "output_tokens", "norm_kwargs", "attn_pooler_queries"),
    *("attn_pooler_heads", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_drop"),
    *("timm_proj_bias", "timm_drop_path"),
)
# Numbers that OpenAI's archives keep among the tensors.
OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")


def tower(at: str) -> tuple[Rule, ...]:
    """The rules of a tower whose names begin with `at`."""
    block, ours = at + "transformer.resblocks.{i}.", "blocks.{i}."
    return (
        rename(at + "conv1.weight", "patch_embed.proj.weight"),
        reshape((at + "class_embedding",), "cls_token", lift_token, lower_token),
        reshape((at + "positional_embedding",), "pos_embed", lift, lower),
        rename(at + "ln_pre.{p}", "norm_pre.{p}"),
        rename(block + "ln_1.{p}", ours + "norm1.{p}"),
        rename(block + "attn.in_proj_{p}", ours + "attn.qkv.{p}"),
        rename(block + "attn.out_proj.{p}", ours + "attn.proj.{p}"),
        rename(block + "ls_1.gamma", ours + "ls1.gamma"),
        rename(block + "ln_2.{p}", ours + "norm2.{p}"),
        rename(block + "mlp.c_fc.{p}", ours + "mlp.fc1.{p}"),
        rename(block + "mlp.c_proj.{p}", ours + "mlp.fc2.{p}"),
        rename(block + "ls_2.gamma", ours + "ls2.gamma"),
        rename(at + "ln_post.{p}", "norm.{p}"),
        reshape((at + "proj",), "proj.weight", turn, turn),
    )


RULES = tower("")
# The text tower; newer models of open_clip have it under `text.`.
TEXT_RULES = (
    drop("text.{rest}", TEXT),
    drop("transformer.resblocks.{rest}", TEXT),
    drop("token_embedding.weight", TEXT),
    drop("positional_embedding", TEXT),
    drop("ln_final.{p}", TEXT),
    drop("text_projection", TEXT),
    drop("text_projection.{p}", TEXT),
    drop("attn_mask", TEXT),
    drop("logit_scale", COMPARES),
    drop("logit_bias", COMPARES),
)
CLIP_RULES = (
    *tower(VISUAL),
    *TEXT_RULES,
    *(drop(name, "a setting of OpenAI's own code") for name in OPENAI_ONLY),
)


def is_perception_encoder(names: Collection[str]) -> bool:
    """Whether a tower has the attention pooling of a Perception Encoder, or neither a final norm
    nor a projection (`pe.py`)."""
    for at in ("", VISUAL):
        starts = {name.removeprefix(at).split(".")[0] for name in names if name.startswith(at)}
        if {"ln_pre", "transformer"} <= starts:
            is_pooled = any(name.startswith(at + "attn_pool.mlp.") for name in names)
            return is_pooled or starts.isdisjoint(("ln_post", "proj", "attn_pool"))
    return False


def _detect(names: Collection[str], is_openai: bool) -> bool:
    is_clip = is_openai == (OPENAI_ONLY[0] in names) and any(
        at + "class_embedding" in names and at + "transformer.resblocks.0.ln_1.weight" in names
        for at in ("", VISUAL)
    )
    return is_clip and not is_perception_encoder(names)


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return CLIP_RULES if any(name.startswith(VISUAL) for name in names) else RULES


def _read_config(
    tensors: Tensors, config: Json, num_heads: int | None, is_openai: bool
) -> ViTConfig:
    """Read sizes from the tensors, with 64 channels for each head unless open_clip's JSON has
    another number."""
    model = model_config(config)
    vision = dict(model.get("vision_cfg") or {})
    _refuse_variants(vision)
    width, chans, *patch = shape(tensors, "patch_embed.proj.weight", 4)
    size = pair(vision["image_size"], "image_size") if "image_size" in vision else None
    like = (size[0] // patch[0], size[1] // patch[1]) if size else None
    grid = grid_of(shape(tensors, "pos_embed", 3)[1] - 1, like)
    projection = model.get("embed_dim", width if is_openai else 0)
    return ViTConfig(
        image_size=size if size and like == grid else (grid[0] * patch[0], grid[1] * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        embed_dim=width,
        depth=count_blocks(tensors),
        num_heads=num_heads or max(1, width // int(vision.get("head_width", HEAD_WIDTH))),
        hidden_dim=shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        projection=shape(tensors, "proj.weight", 2)[0] if "proj.weight" in tensors else projection,
        pos_resize="bicubic-antialias",  # open_clip's resize_pos_embed
        patch_bias=False,
        pre_norm=not vision.get("no_ln_pre", False),
        layer_scale="blocks.0.ls1.gamma" in tensors,
        act="quick_gelu" if model.get("quick_gelu", is_openai) else "gelu",
        pool="mean" if vision.get("pool_type") == "avg" else "cls",
        norm_eps=float(dict(vision.get("norm_kwargs") or {}).get("eps", 1e-5)),
    )


def _refuse_variants(vision: Json) -> None:
    """Raise CheckpointError for options of `CLIPVisionCfg` that change the results."""
    allowed: dict[str, tuple[object, ...]] = {
        "pool_type": ("tok", "avg"),
        "final_ln_after_pool": (False,),
        "act_kwargs": ({},),
        "block_type": ("default",),
        "pos_embed_type": ("learnable", "sin_cos_2d"),
    }
    for name, value in vision.items():
        if not value and name not in allowed:
            continue
        if name not in READ and value is not None and value not in allowed.get(name, ()):
            raise CheckpointError(f"open_clip's {name}={value!r} is not supported")


OPENAI, OPEN_CLIP = (
    Layout(
        name,
        ("module.",),
        partial(_detect, is_openai=is_openai),
        rules,
        partial(_read_config, is_openai=is_openai),
        words="open_clip",
        family=CLIP,
        texts=OPENAI_TEXTS if is_openai else OPEN_CLIP_TEXTS,
    )
    for name, is_openai in (("openai", True), ("open-clip", False))
)
