"""Microsoft's Swin and Swin V2, `microsoft/Swin-Transformer`, and the files of timm before 0.9, in
its names: a merge ends its stage, and the classifier is `head`.

Microsoft's training scripts save the model under "model"; SimMIM's pre-training has it under
`encoder.`, next to a decoder. The tensors show every size except the image's. In every published
model, the windows are as large as the grid of the last stage, so the image size follows from them.
A Swin V2 has no tables that show its windows: a buffer has them, or the config of timm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from vitcli.checkpoints.keymap import Rule, drop, rename
from vitcli.checkpoints.layouts.layout import (
    MAX_STAGES,
    Json,
    Layout,
    Tensors,
    activation,
    count_classes,
    pair,
    shape,
)
from vitcli.checkpoints.layouts.timm import architecture, image_size, model_args, pretrained_cfg
from vitcli.checkpoints.preprocess.published import SWIN
from vitcli.errors import CheckpointError, UsageError
from vitcli.models.swin_config import SwinConfig, WindowRule
from vitcli.records import Size

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

B = "layers.{s}.blocks.{i}."
TABLE = "attn.relative_position_bias_table"
SCALE = "attn.logit_scale"
DISTANCES = "attn.relative_coords_table"
BUFFERS = "buffers"  # the key of what `buffers` returns
# Arguments of timm's Swin that are read here, follow from the tensors, or matter only in training
# or for images of another size.
READ = re.compile(
    r"img_size|patch_size|in_chans|num_classes|embed_dim|depths|num_heads|mlp_ratio|qkv_bias|"
    r"window_size|pretrained_window_sizes|always_partition|act_layer|strict_img_size|"
    r"dynamic_img_size|weight_init|\w*drop\w*|pretrained\w*|features_only|scriptable|exportable"
)
INDEX = "a buffer: it follows from the size of the window"

BLOCKS = (
    rename("patch_embed.proj.{p}", "patch_embed.proj.{p}"),
    rename("patch_embed.norm.{p}", "patch_norm.{p}"),
    *(
        rename(f"{B}{part}.{{p}}", f"{B}{part}.{{p}}")
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    ),
    rename(B + TABLE, B + TABLE),
    *(rename(B + part, B + part) for part in (SCALE, "attn.q_bias", "attn.v_bias")),
    *(rename(f"{B}attn.cpb_mlp.{part}", f"{B}attn.cpb_mlp.{part}") for part in ("0.{p}", "2.{p}")),
    rename("norm.{p}", "norm.{p}"),
    drop(B + "attn.relative_position_index", INDEX),
    drop(B + DISTANCES, INDEX),
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
    first = B.format(s=0, i=0)
    return "patch_embed.proj.weight" in names and (first + TABLE in names or is_v2(names))


def is_v2(names: Collection[str]) -> bool:
    """Whether these are tensors of a Swin V2: its blocks scale their cosines."""
    return any(name.startswith("layers.") and name.endswith(SCALE) for name in names)


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


def buffers(tensors: Tensors) -> Json:
    """The sizes that only the buffers of Microsoft's Swin V2 show, in timm's words; {} without
    them. A table of distances has the size of the window, and its values the window of
    pre-training. Microsoft's windows have one size, and shrink to the grids of the image."""
    tables: list[Tensor] = []
    while (name := B.format(s=len(tables), i=0) + DISTANCES) in tensors:
        tables.append(tensors[name])
    if not tables or "patch_embed.proj.weight" not in tensors:
        return {}
    windows = [_window_of(table) for table in tables]
    patch = shape(tensors, "patch_embed.proj.weight", 4)[2:]
    grid = _shifted_grid(tensors, windows) or [side << (len(tables) - 1) for side in windows[-1]]
    largest = [max(sides) for sides in zip(*windows, strict=True)]
    shrunk = [
        [min(side >> stage, most) for side, most in zip(grid, largest, strict=True)]
        for stage in range(len(windows))
    ]
    return {
        "img_size": [side * length for side, length in zip(grid, patch, strict=True)],
        "window_size": [largest] * len(windows) if shrunk == windows else windows,
        "pretrained_window_sizes": [
            _pretrained_window(*found) for found in zip(tables, windows, strict=True)
        ],
    }


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> SwinConfig:
    """Read sizes from the tensors. With a `config.json` of timm, timm's rule for windows
    applies."""
    refuse_heads(num_heads)
    rule: WindowRule = "timm" if config and BUFFERS not in config else "hf"
    if BUFFERS in config:
        config = {"model_args": config[BUFFERS]}
    args = check_args(config)
    embed_dim, chans, *patch = shape(tensors, "patch_embed.proj.weight", 4)
    depths = count_blocks(tensors)
    firsts = [B.format(s=stage, i=0) for stage in range(len(depths))]
    size, asked = image_size(config), _asked_windows(config, len(depths))
    version: Literal[1, 2] = 2 if is_v2(tensors) else 1
    if _name(config).startswith("swin_" if version == 2 else "swinv2"):
        raise CheckpointError(f"architecture is {_name(config)}, the tensors are a V{version}'s")
    if version == 2:
        size = size or _named_size(config)
        if size is None or None in asked:
            raise CheckpointError(
                "the tensors of a Swin V2 do not show its windows",
                "give the folder with its config.json, or Microsoft's own .pth",
            )
        windows = tuple(window for window in asked if window)
    else:
        grid = (size[0] // patch[0], size[1] // patch[1]) if size else None
        windows = tuple(_window(tensors, stage, asked[stage], grid) for stage in range(len(depths)))
    side = patch[0] << (len(depths) - 1)  # a patch of the last stage, in pixels
    return SwinConfig(
        image_size=size or (windows[-1][0] * side, windows[-1][1] * side),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        embed_dim=embed_dim,
        depths=depths,
        num_heads=tuple(_heads(tensors, first, version) for first in firsts),
        hidden_dims=tuple(shape(tensors, first + "mlp.fc1.weight", 2)[0] for first in firsts),
        window_sizes=windows,
        num_classes=count_classes(tensors),
        qkv_bias=any(name.endswith(("qkv.bias", "attn.q_bias")) for name in tensors),
        absolute_positions="pos_embed" in tensors,
        window_rule=rule,
        always_partition=bool(args.get("always_partition", False)),
        version=version,
        pretrained_windows=_pretrained_windows(config, len(depths)) if version == 2 else (),
        act=activation(args.get("act_layer") or "gelu"),
    )


def _heads(tensors: Tensors, block: str, version: Literal[1, 2]) -> int:
    """The number of heads of a block, from its table or its scales of cosines, (A, 1, 1)."""
    if version == 1:
        return shape(tensors, block + TABLE, 2)[1]
    heads, *ones = shape(tensors, block + SCALE, 3)
    if ones != [1, 1]:
        raise CheckpointError(f"{block}{SCALE} has shape {[heads, *ones]}: expected heads, 1, 1")
    return heads


def check_args(config: Json) -> dict[str, Any]:
    """The arguments of timm's Swin. Raises CheckpointError for one that changes the results and is
    not read here."""
    args = model_args(config)
    pool = config.get("global_pool", args.get("global_pool", "avg"))
    for name, value in {**args, "global_pool": pool}.items():
        is_read = READ.fullmatch(name) or (name == "global_pool" and value == "avg")
        if not is_read and value:
            raise CheckpointError(f"timm's {name}={value!r} is not supported for Swin")
    return args


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
    match = re.search(r"window(\d+to)?(\d+)", _name(config))
    asked = model_args(config).get("window_size", int(match[2]) if match else None)
    if asked is None:
        return [None] * stages
    is_one = not isinstance(asked, list) or (len(asked) == 2 and isinstance(asked[0], int))
    windows = [asked] * stages if is_one else asked
    if len(windows) != stages:
        raise CheckpointError(f"window_size is {asked!r}: expected one for each stage")
    return [pair(window, "window_size") for window in windows]


def _pretrained_windows(config: Json, stages: int) -> tuple[Size, ...]:
    """The windows of pre-training in timm's config, or those of the architecture's name."""
    named = [12, 12, 12, 6] if "window12to" in _name(config) else [0] * stages
    return pretrained_windows(model_args(config).get("pretrained_window_sizes", named), stages)


def pretrained_windows(asked: object, stages: int) -> tuple[Size, ...]:
    """Read a config's windows of pre-training, one for each stage; more are ignored. (0, 0) is the
    window itself."""
    name = "pretrained_window_sizes"
    if not isinstance(asked, list) or len(asked) < stages:
        raise CheckpointError(f"{name} is {asked!r}: expected one for each of {stages} stages")
    return tuple(
        (0, 0) if window == 0 or window == [0, 0] else pair(window, name)
        for window in asked[:stages]
    )


def _named_size(config: Json) -> Size | None:
    """The image size in the name of an architecture: 256 of `swinv2_tiny_window8_256`."""
    match = re.search(r"window\w+_(\d+to)?(\d{3})(_|$)", _name(config))
    return (int(match[2]), int(match[2])) if match else None


def _name(config: Json) -> str:
    return architecture(pretrained_cfg(config))


def _window_of(table: Tensor) -> list[int]:
    """The window (h, w) of a table of distances, (1, 2h-1, 2w-1, 2)."""
    if table.ndim != 4 or table.shape[0] != 1 or table.shape[3] != 2:
        raise CheckpointError(f"{DISTANCES} has shape {list(table.shape)}: expected 1, h, w, 2")
    return [(side + 1) // 2 for side in table.shape[1:3]]


def _pretrained_window(table: Tensor, window: list[int]) -> list[int]:
    """The window of pre-training, from the largest distance down and to the right; zeros for the
    window itself. Raises CheckpointError if it is not a whole number."""
    farthest = table[0, -1, -1].double()
    found = []
    for side, value in zip(window, farthest.tolist(), strict=True):
        steps = 8 * (side - 1) / (8**value - 1) if value > 0 else side - 1
        if not math.isclose(steps, round(steps), rel_tol=0.02):
            raise CheckpointError(f"{DISTANCES} is of a window of {steps + 1:.2f} patches")
        found.append(round(steps) + 1)
    return [0, 0] if found == window else found


def _shifted_grid(tensors: Tensors, windows: list[list[int]]) -> list[int] | None:
    """The grid of the first stage, if its second block has a mask: square, one window after the
    other. None without a mask."""
    mask = tensors.get(B.format(s=0, i=1) + "attn_mask")
    count = math.isqrt(len(mask)) if mask is not None and mask.ndim == 3 else 0
    return [count * side for side in windows[0]] if count else None


def refuse_heads(num_heads: int | None) -> None:
    if num_heads is not None:
        raise UsageError("--num-heads: the tensors of a Swin tell its heads, stage by stage")


def under_rule(config: SwinConfig, rule: Literal["hf", "timm"]) -> SwinConfig:
    """The config with a library's window rule, for the same windows."""
    if rule == "hf" and config.version == 2:
        if config.window_rule == "hf-v2":
            return config
        window = max(side for window in config.tables for side in window)
        return replace(
            config,
            window_rule="hf-v2",
            window_image=config.image_size,
            window_sizes=((window, window),) * config.depth,
            always_partition=False,
        )
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
        is_same = other.windows(stage, grid)[0] == window
        if config.version == 1:
            is_same &= window == other.tables[stage]
        if config.depths[stage] > 1 and other != config:
            is_same &= other.windows(stage, grid)[1] == shift and (is_whole or not any(shift))
        if not is_same:
            described = f"{window[0]}x{window[1]} on a grid of {grid[0]}x{grid[1]}"
            return [f"windows of {described} (stage {stage + 1}) as this model has them"]
    return []


def ratio_of(config: SwinConfig) -> float | None:
    """The ratio of feed-forward to width; None if it differs between stages."""
    ratio = config.hidden_dims[0] / config.embed_dim
    is_one = all(int(ratio * d) == h for d, h in zip(config.dims, config.hidden_dims, strict=True))
    return ratio if is_one else None


def several_ratios(config: SwinConfig) -> list[str]:
    """The obstacle for libraries with one ratio of feed-forward to width for all stages."""
    if ratio_of(config) is not None:
        return []
    return [f"feed-forward widths of {', '.join(map(str, config.hidden_dims))}"]


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
    buffers=lambda tensors: {BUFFERS: found} if (found := buffers(tensors)) else {},
    json_words="timm",
    evaluation=evaluation,
    family=SWIN,
)
