"""Hugging Face Swin: `transformers/models/swin`, in the names of 4.x and the hub, and in those of a
5.x model in memory (`conversion_mapping.py`, "swin").

`SwinForMaskedImageModeling` is read as a plain Swin: nothing is masked.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vitcli.checkpoints.keymap import Rule, drop, fuse, rename
from vitcli.checkpoints.layouts.layout import (
    Json,
    Layout,
    Tensors,
    Writer,
    activation,
    activation_name,
    count_classes,
    image_pair,
    number,
    numbers,
    pair,
)
from vitcli.checkpoints.layouts.swin import INDEX, refuse_heads, under_rule, windows_that_differ
from vitcli.checkpoints.preprocess.published import SWIN
from vitcli.models.config import SwinConfig

L, B = "encoder.layers.{s}.blocks.{i}.", "layers.{s}.blocks.{i}."
TABLE = "relative_position_bias_table"

RULES = (
    rename("embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    rename("embeddings.norm.{p}", "patch_norm.{p}"),
    rename("embeddings.position_embeddings", "pos_embed"),
    rename(L + "layernorm_before.{p}", B + "norm1.{p}"),
    fuse(
        tuple(f"{L}attention.self.{x}.{{p}}" for x in ("query", "key", "value")),
        B + "attn.qkv.{p}",
        tuple(f"{L}attention.{x}_proj.{{p}}" for x in ("q", "k", "v")),
    ),
    rename(
        L + "attention.self." + TABLE,
        B + "attn." + TABLE,
        L + "attention.relative_position_bias." + TABLE,
    ),
    rename(L + "attention.output.dense.{p}", B + "attn.proj.{p}", L + "attention.o_proj.{p}"),
    rename(L + "layernorm_after.{p}", B + "norm2.{p}"),
    rename(L + "intermediate.dense.{p}", B + "mlp.fc1.{p}", L + "mlp.fc1.{p}"),
    rename(L + "output.dense.{p}", B + "mlp.fc2.{p}", L + "mlp.fc2.{p}"),
    *(
        rename("encoder.layers.{s}.downsample." + part, "layers.{s}.downsample." + part)
        for part in ("norm.{p}", "reduction.weight")
    ),
    rename("layernorm.{p}", "norm.{p}"),
    rename("classifier.{p}", "head.{p}"),
    drop(L + "attention.self.relative_position_index", INDEX),
    drop(L + "attention.relative_position_bias.relative_position_index", INDEX),
    drop("embeddings.mask_token", "only masked image modelling uses it"),
    drop("decoder.{rest}", "the decoder: only reconstruction uses it", is_told=True),
)


def detect(names: Collection[str]) -> bool:
    return (
        "embeddings.patch_embeddings.projection.weight" in names
        and L.format(s=0, i=0) + "layernorm_before.weight" in names
    )


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> SwinConfig:
    """Read `SwinConfig` of transformers, with its defaults for keys that are left out."""
    refuse_heads(num_heads)
    depths = numbers(config.get("depths", [2, 2, 6, 2]), "depths")
    [embed_dim] = numbers([config.get("embed_dim", 96)], "embed_dim")
    ratio = number(config.get("mlp_ratio", 4.0), "mlp_ratio")
    [window] = numbers([config.get("window_size", 7)], "window_size")
    return SwinConfig(
        image_size=pair(config.get("image_size", 224), "image_size"),
        patch_size=pair(config.get("patch_size", 4), "patch_size"),
        in_chans=config.get("num_channels", 3),
        embed_dim=embed_dim,
        depths=depths,
        num_heads=numbers(config.get("num_heads", [3, 6, 12, 24]), "num_heads"),
        hidden_dims=tuple(int(ratio * (embed_dim << stage)) for stage in range(len(depths))),
        window_sizes=((window, window),) * len(depths),
        num_classes=count_classes(tensors),
        qkv_bias=config.get("qkv_bias", True),
        absolute_positions=bool(config.get("use_absolute_embeddings", False)),
        window_rule="hf",
        act=activation(config.get("hidden_act", "gelu")),
        norm_eps=config.get("layer_norm_eps", 1e-5),
    )


def refusals(config: SwinConfig) -> list[str]:
    obstacles = windows_that_differ(config, "hf")
    if len({side for window in config.tables for side in window}) > 1:
        obstacles.append("windows of several sizes")
    if _ratio(config) is None:
        obstacles.append(f"feed-forward widths of {', '.join(map(str, config.hidden_dims))}")
    return obstacles


def _ratio(config: SwinConfig) -> float | None:
    """The ratio of feed-forward to width; None if it differs between stages."""
    ratio = config.hidden_dims[0] / config.embed_dim
    is_one = all(int(ratio * d) == h for d, h in zip(config.dims, config.hidden_dims, strict=True))
    return ratio if is_one else None


def write_config(config: SwinConfig) -> dict[str, Any]:
    return {
        "architectures": ["SwinForImageClassification" if config.num_classes else "SwinModel"],
        "model_type": "swin",
        "image_size": image_pair(config.image_size),
        "patch_size": image_pair(config.patch_size),
        "num_channels": config.in_chans,
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "window_size": config.window_sizes[0][0],
        "mlp_ratio": _ratio(config),
        "qkv_bias": config.qkv_bias,
        "hidden_act": activation_name(config.act),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "use_absolute_embeddings": config.absolute_positions,
        "layer_norm_eps": config.norm_eps,
    }


def prefix(config: SwinConfig) -> str:
    """The prefix of the backbone in a model with a head; a bare backbone has none."""
    return "swin." if config.num_classes else ""


WRITER = Writer(
    "transformers",
    SwinConfig,
    lambda config: RULES,
    write_config,
    refusals=refusals,
    adapt=lambda config, tensors: (under_rule(config, "hf"), dict(tensors)),
    prefix=prefix,
)
LAYOUT = Layout(
    "hf-swin",
    ("swin.",),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("swin",),
    classes="Swin",
    words="hf",
    family=SWIN,
    fields={"in_chans": "num_channels", "norm_eps": "layer_norm_eps"},
)
