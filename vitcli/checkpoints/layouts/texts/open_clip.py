"""The text towers of OpenAI's CLIP, open_clip and Meta's Perception Encoder: `clip/model.py`,
`open_clip/transformer.py`, `core/vision_encoder/pe.py`.

The names have no prefix, or `text.` in open_clip's `CustomTextCLIP`.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from vitcli.checkpoints.keymap import Rule, drop, rename, reshape
from vitcli.checkpoints.layouts.layout import (
    Json,
    Tensors,
    Texts,
    count_blocks,
    lift,
    lower,
    shape,
    turn,
)
from vitcli.errors import CheckpointError
from vitcli.models.fields import Activation
from vitcli.models.text_config import TextConfig, TextPool

HEAD_WIDTH = 64
POOLS: dict[object, TextPool] = {n: n for n in ("first", "last", "argmax", "eos")}
# The fields of `CLIPTextCfg` that are read here or by the tokenizer, follow from the tensors, or
# matter only in training.
READ = (
    *("context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"),
    *("width", "heads", "layers", "mlp_ratio", "ls_init_value", "pad_id", "eos_id"),
    *("no_causal_mask", "pool_type", "proj_bias", "proj_type", "act_kwargs", "norm_kwargs"),
    *("output_tokens", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
    *("xattn", "fusedLN"),  # eva_clip's: how to compute the same
)


def _block_rules() -> tuple[Rule, ...]:
    pairs = (
        ("ln_1.{p}", "norm1.{p}"),
        ("attn.in_proj_{p}", "attn.qkv.{p}"),
        ("attn.out_proj.{p}", "attn.proj.{p}"),
        ("ls_1.gamma", "ls1.gamma"),
        ("ln_2.{p}", "norm2.{p}"),
        ("mlp.c_fc.{p}", "mlp.fc1.{p}"),
        ("mlp.c_proj.{p}", "mlp.fc2.{p}"),
        ("ls_2.gamma", "ls2.gamma"),
    )
    block = "transformer.resblocks.{i}."
    return tuple(
        rename(block + theirs, "blocks.{i}." + ours, "text." + block + theirs)
        for theirs, ours in pairs
    )


RULES = (
    rename("token_embedding.weight", "token_embed.weight", "text.token_embedding.weight"),
    reshape(
        *(("positional_embedding",), "pos_embed", lift, lower),
        ("text.positional_embedding",),
    ),
    *_block_rules(),
    rename("ln_final.{p}", "norm.{p}", "text.ln_final.{p}"),
    reshape(("text_projection",), "proj.weight", turn, turn, ("text.text_projection",)),
    rename("text_projection.{p}", "proj.{p}", "text.text_projection.{p}"),
    drop("attn_mask", "a buffer: the causal mask"),
    drop("text.attn_mask", "a buffer: the causal mask"),
)


def model_config(config: Json) -> Json:
    """open_clip's description of the model: `model_cfg` of the JSON, or the whole JSON."""
    section: Json = config.get("model_cfg") or config
    return section


def _rules(names: Collection[str], config: Json) -> tuple[Rule, ...]:
    text = dict(model_config(config).get("text_cfg") or {})
    if name := text.get("hf_model_name"):
        raise CheckpointError(
            f"the text tower is transformers' {name}, which is not supported",
            "vit models --for words lists models whose text tower is",
        )
    _refuse_variants(text)
    return RULES


def _read_config(tensors: Tensors, config: Json, *, quick: bool = False) -> TextConfig:
    """Read sizes from the tensors, options from open_clip's JSON, with 64 channels for each head
    unless the JSON has another number. `quick` is whether a file without JSON has QuickGELU."""
    model = model_config(config)
    text = dict(model.get("text_cfg") or {})
    vocabulary, width = shape(tensors, "token_embed.weight", 2)
    pool = text.get("pool_type", "argmax")
    if pool not in POOLS:
        raise CheckpointError(f"open_clip's text pool_type={pool!r} is not supported")
    norm = dict(text.get("norm_kwargs") or {})
    return TextConfig(
        vocab_size=vocabulary,
        context_length=shape(tensors, "pos_embed", 3)[1],
        embed_dim=width,
        depth=count_blocks(tensors),
        num_heads=text.get("heads", max(1, width // HEAD_WIDTH)),
        hidden_dim=shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        projection=_projection(tensors, model, text),
        projection_bias=bool(text.get("proj_bias", "proj.bias" in tensors)),
        layer_scale="blocks.0.ls1.gamma" in tensors,
        act=_activation(model, text, quick=quick),
        norm_eps=norm.get("eps", 1e-5),
        causal=not text.get("no_causal_mask", False),
        pool=POOLS[pool],
        eos_id=text.get("eos_id", 2) if pool == "eos" else 0,
    )


def _projection(tensors: Tensors, model: Json, text: Json) -> int:
    """The width of the projection. With a JSON that has one, a missing tensor is an error."""
    if "proj.weight" in tensors:
        return shape(tensors, "proj.weight", 2)[0]
    return 0 if text.get("proj_type") == "none" else int(model.get("embed_dim", 0))


def _activation(model: Json, text: Json, *, quick: bool) -> Activation:
    is_quick = bool(model.get("quick_gelu", quick and not text))
    options = dict(text.get("act_kwargs") or {})
    if not options:
        return "quick_gelu" if is_quick else "gelu"
    if is_quick or options != {"approximate": "tanh"}:
        raise CheckpointError(f"open_clip's text act_kwargs={options!r} is not supported")
    return "gelu_tanh"


def _refuse_variants(text: Json) -> None:
    """Raise CheckpointError for options of `CLIPTextCfg` that change the results."""
    for name, value in text.items():
        if name not in READ and value and (name, value) != ("block_type", "default"):
            raise CheckpointError(f"open_clip's text {name}={value!r} is not supported")
    if text.get("proj_type", "linear") not in ("linear", "none"):
        raise CheckpointError(f"open_clip's text proj_type={text['proj_type']!r} is not supported")
    odd = set(dict(text.get("norm_kwargs") or {})) - {"eps"}
    if odd:
        raise CheckpointError(f"open_clip's text norm_kwargs has {', '.join(sorted(odd))}")


OPENAI_TEXTS = Texts(_rules, partial(_read_config, quick=True))
OPEN_CLIP_TEXTS = Texts(_rules, _read_config)
