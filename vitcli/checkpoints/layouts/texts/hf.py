"""The text towers of transformers' CLIP, MetaCLIP 2, CLIPSeg and SigLIP: `models/clip`,
`models/metaclip_2`, `models/siglip`."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from vitcli.checkpoints.keymap import Rule, drop, fuse, rename, reshape
from vitcli.checkpoints.layouts.layout import (
    Json,
    Tensors,
    Texts,
    activation,
    activation_name,
    lift,
    lower,
)
from vitcli.errors import CheckpointError
from vitcli.models.block_config import BlockConfig
from vitcli.models.text_config import TextConfig

AT = "text_model."
FIELDS = {
    "vocab_size": "text_config.vocab_size",
    "context_length": "text_config.max_position_embeddings",
    "embed_dim": "text_config.hidden_size",
    "depth": "text_config.num_hidden_layers",
    "num_heads": "text_config.num_attention_heads",
    "hidden_dim": "text_config.intermediate_size",
    "norm_eps": "text_config.layer_norm_eps",
    "eos_id": "text_config.eos_token_id",
}
# Models whose text tower is another network, by `model_type`.
OTHERS = {
    "altclip": "XLM-RoBERTa",
    "chinese_clip": "BERT",
    "vision-text-dual-encoder": "a language model of any kind",
}
# In configs of CLIP that were written before transformers#24773. With it, a CLIP pools the highest
# id; a MetaCLIP 2, whose texts do end in it, the first of them.
OLD_EOS = 2


def block_rules(at: str) -> tuple[Rule, ...]:
    """The rules for the blocks of a tower of CLIP or SigLIP whose names begin with `at`."""
    theirs, ours = at + "encoder.layers.{i}.", "blocks.{i}."
    return (
        rename(theirs + "layer_norm1.{p}", ours + "norm1.{p}"),
        fuse(
            tuple(f"{theirs}self_attn.{x}_proj.{{p}}" for x in ("q", "k", "v")),
            ours + "attn.qkv.{p}",
        ),
        rename(theirs + "self_attn.out_proj.{p}", ours + "attn.proj.{p}"),
        rename(theirs + "layer_norm2.{p}", ours + "norm2.{p}"),
        rename(theirs + "mlp.fc1.{p}", ours + "mlp.fc1.{p}"),
        rename(theirs + "mlp.fc2.{p}", ours + "mlp.fc2.{p}"),
    )


TOWER = (
    rename(AT + "embeddings.token_embedding.weight", "token_embed.weight"),
    reshape((AT + "embeddings.position_embedding.weight",), "pos_embed", lift, lower),
    *block_rules(AT),
    rename(AT + "final_layer_norm.{p}", "norm.{p}"),
    drop(AT + "embeddings.position_ids", "a buffer of old versions: 0, 1, 2, ..."),
)
CLIP_RULES = (*TOWER, rename("text_projection.weight", "proj.weight"))
SIGLIP_RULES = (*TOWER, rename(AT + "head.{p}", "proj.{p}"))


def _rules(names: Collection[str], config: Json, own: tuple[Rule, ...]) -> tuple[Rule, ...]:
    model = str(config.get("model_type"))
    if model in OTHERS:
        raise CheckpointError(
            f"the text tower of {model} is {OTHERS[model]}, which is not supported",
            "vit models --for words lists models whose text tower is",
        )
    return own


def text_config(config: Json) -> Json:
    """The text tower's part of a config of two towers. The `text_config_dict` of old files takes
    precedence, as in `CLIPConfig`."""
    for key in ("text_config_dict", "text_config"):
        if isinstance(config.get(key), dict):
            section: Json = config[key]
            return section
    return {}


def _sizes(text: Json, defaults: Json) -> dict[str, Any]:
    """The sizes that CLIP's and SigLIP's configs have. Keys that are left out get their
    defaults."""
    values = {**defaults, **{key: value for key, value in text.items() if value is not None}}
    return {
        "vocab_size": values["vocab_size"],
        "context_length": values["max_position_embeddings"],
        "embed_dim": values["hidden_size"],
        "depth": values["num_hidden_layers"],
        "num_heads": values["num_attention_heads"],
        "hidden_dim": values["intermediate_size"],
        "act": activation(values["hidden_act"]),
        "norm_eps": values["layer_norm_eps"],
    }


CLIP_DEFAULTS: Json = {
    "vocab_size": 49_408,
    "max_position_embeddings": 77,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
SIGLIP_DEFAULTS: Json = {
    "vocab_size": 32_000,
    "max_position_embeddings": 64,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


def _read_clip(tensors: Tensors, config: Json) -> TextConfig:
    """Read `CLIPTextConfig` or `MetaClip2TextConfig`. A CLIP of the end-of-text id 2, a known
    mistake, pools the highest id instead, as `CLIPTextModel` does."""
    text = text_config(config)
    eos = text.get("eos_token_id", 49_407)
    is_wrong = eos == OLD_EOS and config.get("model_type") != "metaclip_2"
    return TextConfig(
        **_sizes(text, CLIP_DEFAULTS),
        projection=config.get("projection_dim", 512),
        pool="argmax" if is_wrong else "eos",
        eos_id=0 if is_wrong else eos,
    )


def _read_siglip(tensors: Tensors, config: Json) -> TextConfig:
    """Read `SiglipTextConfig`: no mask, not even for padding, and the last position is pooled."""
    text = text_config(config)
    sizes = _sizes(text, SIGLIP_DEFAULTS)
    return TextConfig(
        **sizes,
        projection=text.get("projection_size") or sizes["embed_dim"],
        projection_bias=True,
        causal=False,
        pool="last",
    )


def write_text_config(config: TextConfig) -> dict[str, Any]:
    """The sizes, in the words of CLIP's and SigLIP's configs."""
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        **block_config(config),
    }


def block_config(config: BlockConfig) -> dict[str, Any]:
    """The sizes of the blocks, in the words of CLIP's and SigLIP's configs."""
    return {
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.hidden_dim,
        "hidden_act": activation_name(config.act),
        "layer_norm_eps": config.norm_eps,
    }


CLIP_TEXTS = Texts(partial(_rules, own=CLIP_RULES), _read_clip, FIELDS)
SIGLIP_TEXTS = Texts(partial(_rules, own=SIGLIP_RULES), _read_siglip, FIELDS)
