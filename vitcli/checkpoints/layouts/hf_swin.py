"""Hugging Face Swin: `transformers/models/swin`, in the names of 4.x and the hub, and in those of a
5.x model in memory (`conversion_mapping.py`, "swin"); and Swin V2: `transformers/models/swinv2`.

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
from vitcli.checkpoints.layouts.swin import (
    INDEX,
    pretrained_windows,
    ratio_of,
    refuse_heads,
    several_ratios,
    under_rule,
    windows_that_differ,
)
from vitcli.checkpoints.layouts.swin import is_v2 as is_swin_v2
from vitcli.checkpoints.preprocess.published import SWIN
from vitcli.errors import CheckpointError
from vitcli.models.swin_config import SwinConfig

L, B = "encoder.layers.{s}.blocks.{i}.", "layers.{s}.blocks.{i}."
TABLE = "relative_position_bias_table"
SCALE = "attention.self.logit_scale"

RULES = (
    rename("embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    rename("embeddings.norm.{p}", "patch_norm.{p}"),
    rename("embeddings.position_embeddings", "pos_embed"),
    rename(L + "layernorm_before.{p}", B + "norm1.{p}"),
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
    drop("embeddings.mask_token", "only masked image modelling uses it"),
    drop("decoder.{rest}", "the decoder: only reconstruction uses it", is_told=True),
)
V1_RULES = (
    *RULES,
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
    drop(L + "attention.relative_position_bias.relative_position_index", INDEX),
)
V2_RULES = (
    *RULES,
    fuse(
        tuple(f"{L}attention.self.{x}.weight" for x in ("query", "key", "value")),
        B + "attn.qkv.weight",
    ),
    rename(L + "attention.self.query.bias", B + "attn.q_bias"),
    rename(L + "attention.self.value.bias", B + "attn.v_bias"),
    rename(L + SCALE, B + "attn.logit_scale"),
    *(
        rename(f"{L}attention.self.continuous_position_bias_mlp.{part}", f"{B}attn.cpb_mlp.{part}")
        for part in ("0.{p}", "2.{p}")
    ),
    drop(L + "attention.self.relative_coords_table", INDEX),
)


def detect(names: Collection[str]) -> bool:
    return (
        "embeddings.patch_embeddings.projection.weight" in names
        and L.format(s=0, i=0) + "layernorm_before.weight" in names
    )


def is_v2(names: Collection[str]) -> bool:
    return any(name.endswith(SCALE) for name in names)


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return V2_RULES if is_v2(names) else V1_RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> SwinConfig:
    """Read `SwinConfig` or `Swinv2Config` of transformers, with its defaults for keys that are left
    out."""
    refuse_heads(num_heads)
    depths = numbers(config.get("depths", [2, 2, 6, 2]), "depths")
    [embed_dim] = numbers([config.get("embed_dim", 96)], "embed_dim")
    ratio = number(config.get("mlp_ratio", 4.0), "mlp_ratio")
    [window] = numbers([config.get("window_size", 7)], "window_size")
    has_positions = bool(config.get("use_absolute_embeddings", False))
    image = pair(config.get("image_size", 224), "image_size")
    version_2: dict[str, Any] = {}
    kind = "swinv2" if is_swin_v2(tensors) else "swin"
    if config.get("model_type") in {"swin", "swinv2"} - {kind}:
        raise CheckpointError(f"model_type is {config['model_type']}, the tensors are a {kind}'s")
    if kind == "swinv2":
        if has_positions:
            raise CheckpointError(
                "use_absolute_embeddings is true: transformers itself cannot run such a Swin V2, "
                "which has one position more than patches"
            )
        windows = config.get("pretrained_window_sizes") or [0] * len(depths)
        version_2 = {
            "version": 2,
            "window_rule": "hf-v2",
            "window_image": image,
            "pretrained_windows": pretrained_windows(windows, len(depths)),
        }
        if any(1 in window for window in version_2["pretrained_windows"]):
            raise CheckpointError(
                "pretrained_window_sizes has a 1, by which transformers divides 0"
            )
    return SwinConfig(
        image_size=image,
        patch_size=pair(config.get("patch_size", 4), "patch_size"),
        in_chans=config.get("num_channels", 3),
        embed_dim=embed_dim,
        depths=depths,
        num_heads=numbers(config.get("num_heads", [3, 6, 12, 24]), "num_heads"),
        hidden_dims=tuple(int(ratio * (embed_dim << stage)) for stage in range(len(depths))),
        window_sizes=((window, window),) * len(depths),
        num_classes=count_classes(tensors),
        qkv_bias=config.get("qkv_bias", True),
        absolute_positions=has_positions,
        act=activation(config.get("hidden_act", "gelu")),
        norm_eps=config.get("layer_norm_eps", 1e-5),
        **version_2,
    )


def refusals(config: SwinConfig) -> list[str]:
    obstacles = windows_that_differ(config, "hf")
    is_v2 = config.version == 2
    if not is_v2 and len({side for window in config.tables for side in window}) > 1:
        obstacles.append("windows of several sizes")
    if is_v2 and config.absolute_positions:
        obstacles.append("position embeddings along with the relative ones")
    for height, width in config.pretrained_windows:
        if height != width or height == 1:
            obstacles.append(f"a window of {height}x{width} in pre-training")
    return obstacles + several_ratios(config)


def write_config(config: SwinConfig) -> dict[str, Any]:
    is_v2 = config.version == 2
    start = "Swinv2" if is_v2 else "Swin"
    v2 = {
        "image_size": image_pair(config.window_image),
        "pretrained_window_sizes": [side for side, _ in config.pretrained_windows]
        or [0] * config.depth,
    }
    return {
        "architectures": [
            f"{start}ForImageClassification" if config.num_classes else f"{start}Model"
        ],
        "model_type": start.lower(),
        "image_size": image_pair(config.image_size),
        "patch_size": image_pair(config.patch_size),
        "num_channels": config.in_chans,
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "window_size": config.window_sizes[0][0],
        "mlp_ratio": ratio_of(config),
        "qkv_bias": config.qkv_bias,
        "hidden_act": activation_name(config.act),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "use_absolute_embeddings": config.absolute_positions,
        "layer_norm_eps": config.norm_eps,
        **(v2 if is_v2 else {}),
    }


def prefix(config: SwinConfig) -> str:
    """The prefix of the backbone in a model with a head; a bare backbone has none."""
    if not config.num_classes:
        return ""
    return "swinv2." if config.version == 2 else "swin."


WRITER = Writer(
    "transformers",
    SwinConfig,
    lambda config: V2_RULES if config.version == 2 else V1_RULES,
    write_config,
    refusals=refusals,
    adapt=lambda config, tensors: (under_rule(config, "hf"), dict(tensors)),
    prefix=prefix,
)
LAYOUT = Layout(
    "hf-swin",
    ("swin.", "swinv2."),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("swin", "swinv2"),
    classes="Swin(v2)?",
    words="hf",
    family=SWIN,
    fields={"in_chans": "num_channels", "norm_eps": "layer_norm_eps"},
)
