"""Microsoft's Swin, `microsoft/Swin-Transformer`, and the files of timm before 0.9, which use its
names: a merge ends its stage, and the classifier is `head`.

Microsoft's training scripts save the model under "model"; SimMIM's pre-training has it under
`encoder.`, next to a decoder. The tensors show every size except the image's. In every published
model, the windows are as large as the grid of the last stage, so the image size follows from them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from vitcli.checkpoints.keymap import Rule, drop, rename
from vitcli.checkpoints.layouts.layout import (
    MAX_STAGES,
    Json,
    Layout,
    Tensors,
    count_classes,
    pair,
    shape,
)
from vitcli.checkpoints.layouts.timm import architecture, image_size, model_args
from vitcli.checkpoints.preprocess.published import SWIN
from vitcli.errors import CheckpointError, UsageError
from vitcli.models.config import SwinConfig
from vitcli.records import Size

B = "layers.{s}.blocks.{i}."
TABLE = "attn.relative_position_bias_table"
INDEX = "a buffer: it follows from the size of the window"

BLOCKS = (
    rename("patch_embed.proj.{p}", "patch_embed.proj.{p}"),
    rename("patch_embed.norm.{p}", "patch_norm.{p}"),
    *(
        rename(f"{B}{part}.{{p}}", f"{B}{part}.{{p}}")
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    ),
    rename(B + TABLE, B + TABLE),
    rename("norm.{p}", "norm.{p}"),
    drop(B + "attn.relative_position_index", INDEX),
    drop(B + "attn_mask", "a buffer: it follows from the image and the window"),
)
RULES = (
    *BLOCKS,
    rename("absolute_pos_embed", "pos_embed"),
    *(
        rename("layers.{s}.downsample." + part, "layers.{s}.downsample." + part)
        for part in ("norm.{p}", "reduction.weight")
    ),
    rename("head.{p}", "head.{p}"),
    drop("mask_token", "only SimMIM's pre-training uses it"),
    drop("decoder.{rest}", "SimMIM's decoder: only reconstruction uses it", is_told=True),
)


def is_swin(names: Collection[str]) -> bool:
    return "patch_embed.proj.weight" in names and B.format(s=0, i=0) + TABLE in names


def merges_at_the_end(names: Collection[str]) -> bool:
    """Whether the first merge is in stage 0, as in Microsoft's files and old ones of timm. With one
    stage there is no merge, but the classifier is `head`."""
    return any(name.startswith("layers.0.downsample.") for name in names) or "head.weight" in names


def detect(names: Collection[str]) -> bool:
    return is_swin(names) and merges_at_the_end(names)


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return RULES


def unpack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove SimMIM's prefix `encoder.`."""
    if not any(name.startswith("encoder.patch_embed.") for name in state):
        return state
    return {name.removeprefix("encoder."): tensor for name, tensor in state.items()}


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> SwinConfig:
    """Read sizes from the tensors. With a `config.json` of timm, timm's rule for windows
    applies."""
    refuse_heads(num_heads)
    args = model_args(config)
    for name in ("head_dim", "always_partition"):
        if args.get(name):
            raise CheckpointError(f"timm's {name}={args[name]!r} is not supported for Swin")
    embed_dim, chans, *patch = shape(tensors, "patch_embed.proj.weight", 4)
    depths = count_blocks(tensors)
    firsts = [B.format(s=stage, i=0) for stage in range(len(depths))]
    tables = [shape(tensors, first + TABLE, 2) for first in firsts]
    size = image_size(config)
    grid = (size[0] // patch[0], size[1] // patch[1]) if size else None
    windows = tuple(
        _window(tensors, stage, asked, grid)
        for stage, asked in enumerate(_asked_windows(config, len(depths)))
    )
    side = patch[0] << (len(depths) - 1)  # a patch of the last stage, in pixels
    return SwinConfig(
        image_size=size or (windows[-1][0] * side, windows[-1][1] * side),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        embed_dim=embed_dim,
        depths=depths,
        num_heads=tuple(heads for _, heads in tables),
        hidden_dims=tuple(shape(tensors, first + "mlp.fc1.weight", 2)[0] for first in firsts),
        window_sizes=windows,
        num_classes=count_classes(tensors),
        qkv_bias=any(name.endswith("qkv.bias") for name in tensors),
        absolute_positions="pos_embed" in tensors,
        window_rule="timm" if config else "hf",
    )


def count_blocks(tensors: Tensors) -> tuple[int, ...]:
    """The number of blocks of each stage, from the tensor names. Raises CheckpointError if the
    stages have gaps."""
    counts: dict[int, int] = {}
    for name in tensors:
        if match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name):
            stage, block = int(match[1]), int(match[2])
            counts[stage] = max(counts.get(stage, 0), block + 1)
    if sorted(counts) != list(range(len(counts))) or len(counts) > MAX_STAGES:
        raise CheckpointError(f"the file has blocks of stages {sorted(counts)[: MAX_STAGES + 1]}")
    return tuple(counts[stage] for stage in range(len(counts)))


def _window(tensors: Tensors, stage: int, asked: Size | None, grid: Size | None) -> Size:
    """The window of a stage: the config's if, clipped to the grid, it fits the table of relative
    positions; else the square that fits the table."""
    name = B.format(s=stage, i=0) + TABLE
    length = shape(tensors, name, 2)[0]
    if asked and grid:
        height, width = (min(a, -(-side >> stage)) for a, side in zip(asked, grid, strict=True))
        if (2 * height - 1) * (2 * width - 1) == length:
            return asked
    side = math.isqrt(length)
    if side * side != length or side % 2 == 0:
        raise CheckpointError(
            f"{name} has {length} relative positions, which is not a square window",
            "and config.json names none that fits",
        )
    return (side + 1) // 2, (side + 1) // 2


def _asked_windows(config: Json, stages: int) -> list[Size | None]:
    """The window of each stage in timm's config, which has one for all stages or one for each; None
    if it has none."""
    match = re.search(r"window(\d+)", architecture(config))
    asked = model_args(config).get("window_size", int(match[1]) if match else None)
    if asked is None:
        return [None] * stages
    is_one = not isinstance(asked, list) or (len(asked) == 2 and isinstance(asked[0], int))
    windows = [asked] * stages if is_one else asked
    if len(windows) != stages:
        raise CheckpointError(f"window_size is {asked!r}: expected one for each stage")
    return [pair(window, "window_size") for window in windows]


def refuse_heads(num_heads: int | None) -> None:
    if num_heads is not None:
        raise UsageError("--num-heads: the tensors of a Swin tell its heads, stage by stage")


def under_rule(config: SwinConfig, rule: Literal["hf", "timm"]) -> SwinConfig:
    """The config with a library's window rule, for the same tables of relative positions."""
    if config.window_rule == rule:
        return config
    return replace(config, window_rule=rule, window_sizes=config.tables)


def windows_that_differ(config: SwinConfig, rule: Literal["hf", "timm"]) -> list[str]:
    """The obstacles to a library's window rule at the model's image size: windows that differ, or,
    in transformers, a grid smaller than the window."""
    other = under_rule(config, rule)
    if other.grid != config.grid:
        return [f"an image of {config.image_size} in patches of {config.patch_size}"]
    for stage in range(config.depth):
        grid = config.layer_grid(stage)
        window, shift = config.windows(stage, grid)
        is_whole = not any(side % long for side, long in zip(grid, window, strict=True))
        is_same = other.windows(stage, grid)[0] == window == other.tables[stage]
        if config.depths[stage] > 1 and rule != config.window_rule:
            is_same &= other.windows(stage, grid)[1] == shift and (is_whole or not any(shift))
        if not is_same:
            described = f"{window[0]}x{window[1]} on a grid of {grid[0]}x{grid[1]}"
            return [f"windows of {described} (stage {stage + 1}) as this model has them"]
    return []


def evaluation(size: Size) -> Mapping[str, Any]:
    """The preprocessing of Swin's `data/build.py`; its configs for 384 say `CROP: False`."""
    if size[0] == 384:
        return {"interpolation": "bicubic", "crop_mode": "squash", "crop_pct": 1.0}
    return {"interpolation": "bicubic", "crop_pct": 0.875}


LAYOUT = Layout(
    "swin",
    (),
    detect,
    rules,
    read_config,
    unpack=unpack,
    json_words="timm",
    evaluation=evaluation,
    family=SWIN,
)
