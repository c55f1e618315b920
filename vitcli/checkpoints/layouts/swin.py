"""Microsoft's Swin, `microsoft/Swin-Transformer`, and the files of timm before 0.9, which took over
its names: a merge ends its stage, and the classifier is `head`.

Files from Microsoft's trainers have the model under "model"; SimMIM's pre-training has it under
`encoder.` beside a decoder. The sizes are all in the tensors but the image's, and every published
model has windows as large as the grid of its last stage: that is taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Literal

from torch import Tensor

from vitcli.checkpoints.keymap import Rule, drop, rename
from vitcli.checkpoints.layouts.layout import MAX_STAGES, Json, Layout, Tensors, pair, shape
from vitcli.checkpoints.layouts.timm import architecture, image_size, model_args
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
    """Microsoft's files and the old ones of timm, told from timm's by where the first merge
    stands; by the classifier where there is one stage."""
    return "layers.0.downsample.reduction.weight" in names or "head.weight" in names


def detect(names: Collection[str]) -> bool:
    return is_swin(names) and merges_at_the_end(names)


def rules(names: Collection[str]) -> tuple[Rule, ...]:
    return RULES


def unpack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """SimMIM's `encoder.` taken off."""
    if "encoder.patch_embed.proj.weight" not in state:
        return state
    return {name.removeprefix("encoder."): tensor for name, tensor in state.items()}


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> SwinConfig:
    """Sizes from the tensors. A `config.json` of timm says that timm's rule for windows holds."""
    refuse_heads(num_heads)
    args = model_args(config)
    for name in ("head_dim", "always_partition"):
        if args.get(name):
            raise CheckpointError(f"timm's {name}={args[name]!r} is not supported for Swin")
    embed_dim, chans, *patch = shape(tensors, "patch_embed.proj.weight", 4)
    depths = count_blocks(tensors)
    tables = [shape(tensors, B.format(s=s, i=0) + TABLE, 2) for s in range(len(depths))]
    size = image_size(config)
    grid = (size[0] // patch[0], size[1] // patch[1]) if size else None
    windows = tuple(
        _window(table[0], _asked_window(config, stage, len(depths), grid))
        for stage, table in enumerate(tables)
    )
    far = tuple(side << (len(depths) - 1) for side in windows[-1])  # the first stage's grid
    return SwinConfig(
        image_size=size or (far[0] * patch[0], far[1] * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        embed_dim=embed_dim,
        depths=depths,
        num_heads=tuple(table[1] for table in tables),
        hidden_dims=tuple(
            shape(tensors, B.format(s=s, i=0) + "mlp.fc1.weight", 2)[0] for s in range(len(depths))
        ),
        window_sizes=windows,
        num_classes=shape(tensors, "head.weight", 2)[0] if "head.weight" in tensors else 0,
        qkv_bias=B.format(s=0, i=0) + "attn.qkv.bias" in tensors,
        absolute_positions="pos_embed" in tensors,
        window_rule="timm" if config else "hf",
    )


def count_blocks(tensors: Tensors) -> tuple[int, ...]:
    """How many blocks the names speak of, by stage. Raises CheckpointError for a gap."""
    found: dict[int, int] = {}
    for name in tensors:
        if match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name):
            stage, block = int(match[1]), int(match[2])
            found[stage] = max(found.get(stage, 0), block + 1)
    if sorted(found) != list(range(len(found))) or len(found) > MAX_STAGES:
        raise CheckpointError(f"the file has blocks of stages {sorted(found)[: MAX_STAGES + 1]}")
    return tuple(found[stage] for stage in range(len(found)))


def _window(length: int, asked: Size | None) -> Size:
    """The window of a table of so many relative positions: the one asked for, or the square."""
    if asked and (2 * asked[0] - 1) * (2 * asked[1] - 1) == length:
        return asked
    side = math.isqrt(length)
    if side * side != length or side % 2 == 0:
        raise CheckpointError(
            f"a table of {length} relative positions is for no square window",
            "and config.json names none that fits",
        )
    return (side + 1) // 2, (side + 1) // 2


def _asked_window(config: Json, stage: int, stages: int, grid: Size | None) -> Size | None:
    """The window that timm was asked for, as far as it fits into the grid of the stage."""
    named = re.search(r"window(\d+)", architecture(config))
    asked = model_args(config).get("window_size", int(named[1]) if named else None)
    if isinstance(asked, list) and (len(asked) != 2 or isinstance(asked[0], list)):
        if len(asked) != stages:
            raise CheckpointError(f"window_size is {asked!r}: expected one for each stage")
        asked = asked[stage]
    if asked is None or grid is None:
        return None
    height, width = pair(asked, "window_size")
    return min(-(-grid[0] >> stage), height), min(-(-grid[1] >> stage), width)


def refuse_heads(num_heads: int | None) -> None:
    if num_heads is not None:
        raise UsageError("--num-heads: the tensors of a Swin tell its heads, stage by stage")


def windows_that_differ(config: SwinConfig, rule: Literal["hf", "timm"]) -> list[str]:
    """What another library would compute otherwise at the model's own size, in words."""
    other = replace(config, window_rule=rule)
    if other.grid != config.grid:
        return [f"an image of {config.image_size} with patches of {config.patch_size}"]
    for stage in range(config.depth):
        grid = config.layer_grid(stage)
        window, shift = config.windows(stage, grid)
        where = f"a grid of {grid[0]}x{grid[1]} in stage {stage + 1}"
        if window != config.window_sizes[stage] or window != other.windows(stage, grid)[0]:
            return [f"{where}, smaller than its windows"]
        is_shifted = config.depths[stage] > 1 and any(shift)
        is_padded = any(side % long for side, long in zip(grid, window, strict=True))
        if other.windows(stage, grid)[1] != shift and config.depths[stage] > 1:
            return [
                f"{where}, of which this model shifts windows of {window[0]}x{window[1]} otherwise"
            ]
        if rule != config.window_rule and is_shifted and is_padded:
            return [
                f"{where}, no multiple of its windows: this model pads and shifts them otherwise"
            ]
    return []


def under_rule(
    rule: Literal["hf", "timm"],
) -> Callable[[SwinConfig, Tensors], tuple[SwinConfig, dict[str, Tensor]]]:
    """The `adapt` of a library: its own rule from now on, for at this size it is the same."""
    return lambda config, tensors: (replace(config, window_rule=rule), dict(tensors))


LAYOUT = Layout("swin", (), detect, rules, read_config, unpack=unpack)
