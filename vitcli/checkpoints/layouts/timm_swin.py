"""timm's Swin and Swin V2 since 0.9: `timm/models/swin_transformer.py`, `swin_transformer_v2.py`. A
merge belongs to the stage after it, and the classifier is `head.fc`; the other names are those of
Microsoft's files (`swin.py`)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.keymap import Rule, rename
from vitcli.checkpoints.layouts.layout import (
    MAX_STAGES,
    Json,
    Layout,
    Tensors,
    Writer,
    image_pair,
)
from vitcli.checkpoints.layouts.swin import (
    BLOCKS,
    is_swin,
    merges_at_the_end,
    ratio_of,
    several_ratios,
    under_rule,
    windows_that_differ,
)
from vitcli.checkpoints.layouts.swin import read_config as read_swin
from vitcli.checkpoints.preprocess.published import SWIN
from vitcli.models.swin_config import SwinConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

EPS = 1e-5
RULES = (
    *BLOCKS,
    *(
        rename(f"layers.{stage + 1}.downsample.{part}", f"layers.{stage}.downsample.{part}")
        for stage in range(MAX_STAGES - 1)
        for part in ("norm.{p}", "reduction.weight")
    ),
    rename("head.fc.{p}", "head.{p}"),
)


def detect(names: Collection[str]) -> bool:
    return is_swin(names) and not merges_at_the_end(names)


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> SwinConfig:
    """Read the sizes as for Microsoft's files; timm's rule for windows always applies."""
    return replace(read_swin(tensors, config, num_heads), window_rule="timm")


def refusals(config: SwinConfig) -> list[str]:
    obstacles = windows_that_differ(config, "timm")
    if config.absolute_positions:
        obstacles.append("position embeddings along with the relative ones")
    if config.act != "gelu":
        obstacles.append(f"act={config.act}")
    if config.version == 2:
        obstacles += several_ratios(config)
    return obstacles


def adapt(config: SwinConfig, tensors: Tensors) -> tuple[SwinConfig, dict[str, Tensor]]:
    return replace(under_rule(config, "timm"), norm_eps=EPS), dict(tensors)


def write_config(config: SwinConfig) -> dict[str, Any]:
    """The config: an architecture of timm, and all sizes as `model_args`."""
    is_v2 = config.version == 2
    ratios = [h / d for h, d in zip(config.hidden_dims, config.dims, strict=True)]
    v2 = {"pretrained_window_sizes": [list(window) for window in config.pretrained_windows]}
    return {
        "architecture": "swinv2_tiny_window8_256" if is_v2 else "swin_tiny_patch4_window7_224",
        "num_classes": config.num_classes,
        "num_features": config.dims[-1],
        "global_pool": "avg",
        "model_args": {
            "img_size": list(config.image_size),
            "patch_size": image_pair(config.patch_size),
            "in_chans": config.in_chans,
            "embed_dim": config.embed_dim,
            "depths": list(config.depths),
            "num_heads": list(config.num_heads),
            "window_size": [list(window) for window in config.window_sizes],
            "mlp_ratio": ratio_of(config) if is_v2 else ratios,
            "qkv_bias": config.qkv_bias,
            **({"always_partition": True} if config.always_partition else {}),
            **(v2 if config.pretrained_windows else {}),
        },
    }


WRITER = Writer(
    "timm", SwinConfig, lambda config: RULES, write_config, refusals=refusals, adapt=adapt
)
LAYOUT = Layout(
    "timm-swin",
    (),
    detect,
    rules,
    read_config,
    WRITER,
    architectures=(
        r"swin_(tiny|small|base|large)_patch\d+_window\d+_\d+(_in22k|_in22ft1k)?|swin_s3_\w+_224"
        r"|swinv2_(tiny|small)_window(8|16)_256|swinv2_(base|large)_window(8_256|16_256|12_192"
        r"|12to16_192to256|12to24_192to384)(_22k|_22kft1k)?"
    ),
    words="timm",
    family=SWIN,
)
