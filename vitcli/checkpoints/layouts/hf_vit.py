"""Hugging Face ViT, DeiT, MAE, MSN and I-JEPA:
`transformers/models/{vit,deit,vit_mae,vit_msn,ijepa}`, in the names of 4.x and the hub, and in
those of a 5.x model in memory (`conversion_mapping.py`, "ViTModel").

The encoder of a masked autoencoder (`ViTMAEModel`, `ViTMAEForPreTraining`,
`ViTForMaskedImageModeling`) is read as a plain ViT: nothing is masked or shuffled.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.keymap import Rule, drop, fuse, rename
from vitcli.checkpoints.layouts.decoders import hf_decoders
from vitcli.checkpoints.layouts.layout import (
    HF_FIELDS,
    Json,
    Layout,
    Tensors,
    Writer,
    activation_name,
    count_classes,
    image_pair,
    read_sizes,
    with_positions,
)
from vitcli.checkpoints.layouts.towers import hf_internvit
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

L4, L5, B = "encoder.layer.{i}.", "layers.{i}.", "blocks.{i}."

RULES = (
    rename("embeddings.cls_token", "cls_token"),
    rename("embeddings.distillation_token", "dist_token"),
    rename("embeddings.position_embeddings", "pos_embed"),
    rename("embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    rename(L4 + "layernorm_before.{p}", B + "norm1.{p}", L5 + "layernorm_before.{p}"),
    fuse(
        tuple(f"{L4}attention.attention.{x}.{{p}}" for x in ("query", "key", "value")),
        B + "attn.qkv.{p}",
        tuple(f"{L5}attention.{x}_proj.{{p}}" for x in ("q", "k", "v")),
    ),
    rename(L4 + "attention.output.dense.{p}", B + "attn.proj.{p}", L5 + "attention.o_proj.{p}"),
    rename(L4 + "layernorm_after.{p}", B + "norm2.{p}", L5 + "layernorm_after.{p}"),
    rename(L4 + "intermediate.dense.{p}", B + "mlp.fc1.{p}", L5 + "mlp.fc1.{p}"),
    rename(L4 + "output.dense.{p}", B + "mlp.fc2.{p}", L5 + "mlp.fc2.{p}"),
    rename("layernorm.{p}", "norm.{p}"),
    rename("classifier.{p}", "head.{p}", "cls_classifier.{p}"),
    rename("distillation_classifier.{p}", "head_dist.{p}"),
    drop("pooler.dense.{p}", "trained in few files, and not part of a plain ViT"),
    drop("embeddings.mask_token", "only masked image modelling uses it"),
    drop("decoder.{rest}", "the decoder: only reconstruction uses it", is_told=True),
)
BIASES = (".query.bias", ".key.bias", ".q_proj.bias", ".k_proj.bias")
EPS = {"vit_msn": 1e-6}  # the default of layer_norm_eps; 1e-12 for the others


def detect(names: Collection[str]) -> bool:
    is_vit = "embeddings.patch_embeddings.projection.weight" in names and (
        "encoder.layer.0.layernorm_before.weight" in names
        or "layers.0.layernorm_before.weight" in names
    )
    return is_vit and not lacks_key_bias(names) and not hf_internvit.detect(names)


def lacks_key_bias(names: Collection[str]) -> bool:
    """Whether queries have biases and keys have none, as in a BEiT."""
    biased = {name.rsplit(".", 2)[-2] for name in names if name.endswith(BIASES)}
    return biased in ({"query"}, {"q_proj"})


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read `ViTConfig`, `DeiTConfig`, `ViTMAEConfig`, `ViTMSNConfig` and `IJepaConfig` of
    transformers, with their defaults for keys that are left out.

    `DeiTForImageClassification` reads the class token alone; with a teacher's head the logits are
    the mean of both heads. An I-JEPA has no class token; its head reads the mean of the patches.
    """
    has_dist = "dist_token" in tensors or config.get("model_type") == "deit"
    is_ijepa = config.get("model_type") == "ijepa"
    return ViTConfig(
        **read_sizes(config, num_heads, 16, "gelu", EPS.get(config.get("model_type", ""), 1e-12)),
        num_classes=count_classes(tensors),
        dist_token=has_dist,
        dist_head=any(name.startswith("head_dist.") for name in tensors),
        class_token=not is_ijepa,
        pos_prefix=0 if is_ijepa else 2 if has_dist else 1,
        qkv_bias=config.get("qkv_bias", True),
        pool="mean" if is_ijepa else "cls",
    )


ONLY: dict[str, tuple[object, ...]] = {
    "num_registers": (0,),
    "patch_bias": (True,),
    "pre_norm": (False,),
    "layer_scale": (False,),
    "ffn": ("mlp",),
    "final_norm": ("tokens",),
    "head_blocks": (1,),
    "head_norm": (True,),
    "projection": (0,),
}


def refusals(config: ViTConfig) -> list[str]:
    """The class token alone is pooled, or in an I-JEPA, which has none, the mean of the patches."""
    fits = config.pool == ("cls" if config.class_token else "mean")
    obstacles = [] if fits else [f"pool={config.pool}"]
    if not config.class_token and config.dist_token:
        obstacles.append("a distillation token without a class token")
    return obstacles


def adapt(config: ViTConfig, tensors: Tensors) -> tuple[ViTConfig, dict[str, Tensor]]:
    count = config.num_prefix
    return replace(config, pos_prefix=count), with_positions(config, tensors, count)


def rules_to_write(config: ViTConfig) -> tuple[Rule, ...]:
    """The rules for writing: with a teacher's head, the two classifiers have other names."""
    if not config.dist_head:
        return RULES
    teacher = rename("cls_classifier.{p}", "head.{p}")
    return (teacher, *(rule for rule in RULES if rule.ours != "head.{p}"))


def write_config(config: ViTConfig) -> dict[str, Any]:
    family = _family(config)
    head = "ForImageClassification" if config.num_classes else "Model"
    if config.dist_head:
        head += "WithTeacher"
    return {
        "architectures": [family + head],
        "model_type": family.lower(),
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
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": config.qkv_bias,
    }


def _family(config: ViTConfig) -> str:
    """The start of the names of transformers' classes."""
    if not config.class_token:
        return "IJepa"
    return "DeiT" if config.dist_token else "ViT"


def prefix(config: ViTConfig) -> str:
    """The prefix of the backbone in a model with a head; a bare backbone has none."""
    return f"{_family(config).lower()}." if config.num_classes else ""


def notes(config: ViTConfig) -> tuple[str, ...]:
    if config.num_classes or not config.class_token:
        return ()
    name = f"{_family(config)}Model"
    return (
        f"transformers' {name} has a pooler, which this model lacks: it initialises one at random, "
        "and pooler_output means nothing",
    )


WRITER = Writer(
    "transformers",
    ViTConfig,
    rules_to_write,
    write_config,
    ONLY,
    refusals,
    adapt,
    prefix=prefix,
    notes=notes,
)
LAYOUT = Layout(
    "hf-vit",
    ("vit.", "deit.", "ijepa."),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("vit", "deit", "vit_mae", "vit_msn", "ijepa"),
    classes="ViT|DeiT|IJepa",
    decoders=hf_decoders([r for r in RULES if r.ours and r.ours.startswith(B)], L4, L5),
    words="hf",
    fields=HF_FIELDS,
)
