"""The `.pth` files of DINO, DeiT, MAE and DINOv2 as their own repositories publish them:
`facebookresearch/{dino,deit,mae,dinov2}`.

All four are built on timm's Vision Transformer and have its tensor names, so a bare backbone of
DINO, DeiT or MAE is, name by name, a timm model, and `timm` reads it: with the right numbers, for
the models are the same. A family is recognised by what only its files have (`families.py`): DINO's
projection head, MAE's decoder, DeiT-III's `gamma_1`, DINOv2's `register_tokens` and `mask_token`.
The key around the state dict ("model", "teacher") is no sign, everyone's scripts write it. What a
family changes beyond the names is how positions are resampled for another image size, and the
preprocessing; `--layout dino|deit|mae|dinov2` asks for it where the file cannot say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace

from torch import Tensor

from vitcli.checkpoints.keymap import Rule, drop, rename
from vitcli.checkpoints.layouts import timm
from vitcli.checkpoints.layouts.families import PREFIXES, family_of
from vitcli.checkpoints.layouts.layout import Json, Layout, Tensors
from vitcli.errors import CheckpointError
from vitcli.models.config import PosResize, ViTConfig

B = timm.B

DINO_RULES = (
    *timm.RULES,
    *(
        drop(f"head.{part}.{{rest}}", "only DINO's training uses it")
        for part in ("mlp", "last_layer")
    ),
)
MAE_RULES = (
    *timm.RULES,
    drop("decoder_{rest}", "MAE's decoder: only reconstruction uses it", is_told=True),
)
DINOV2_RULES = (
    rename("register_tokens", "register_tokens"),
    *(rule for rule in timm.RULES if rule.ours != "register_tokens"),
    drop("student.{rest}", "the student: the teacher is taken", is_told=True),
    *(
        drop(f"{part}.{{rest}}", "only DINOv2's training uses it")
        for part in ("dino_head", "ibot_head", "dino_loss", "ibot_patch_loss")
    ),
)
# SwiGLU stands under the same names of ours as the plain feed-forward, so it has its own table.
SWIGLU_RULES = (
    *(rule for rule in DINOV2_RULES if rule.ours is None or ".mlp." not in rule.ours),
    rename(B + "mlp.w12.{p}", B + "mlp.fc1.{p}"),
    rename(B + "mlp.w3.{p}", B + "mlp.fc2.{p}"),
)


def dinov2_rules(names: Collection[str]) -> tuple[Rule, ...]:
    return SWIGLU_RULES if any(".mlp.w12." in name for name in names) else DINOV2_RULES


def unchunk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`blocks.{chunk}.{i}.` of sharded training: the inner number already counts all blocks."""
    apart = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", n): t for n, t in state.items()}
    if len(apart) < len(state):
        raise CheckpointError("two chunks of blocks hold a block of one number")
    return apart


def plain(tensors: Tensors) -> PosResize:
    """Resize to a size, as `interpolate_pos_embed` in MAE's `util/pos_embed.py` and DeiT's
    `main.py` do."""
    return "bicubic"


def offset(tensors: Tensors) -> PosResize:
    """`interpolate_pos_encoding` in DINO's `vision_transformer.py`."""
    return "bicubic-offset"


def offset_or_antialias(tensors: Tensors) -> PosResize:
    """`dinov2/hub/backbones.py`: the models with registers have another default."""
    return "bicubic-antialias" if "register_tokens" in tensors else "bicubic-offset"


def _layout(
    name: str,
    rules: Callable[[Tensors], tuple[Rule, ...]],
    pos_resize: Callable[[Tensors], PosResize],
    unpack: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state,
) -> Layout:
    def detect(names: Collection[str]) -> bool:
        return family_of(names) == name

    def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
        found = timm.read_config(tensors, config, num_heads)
        return replace(found, pos_resize=pos_resize(tensors))

    return Layout(
        name, PREFIXES, detect, rules, read_config, unpack=unpack, words="own", family=name
    )


LAYOUTS = (
    _layout("dino", lambda names: DINO_RULES, offset),
    _layout("deit", lambda names: timm.RULES, plain),
    _layout("mae", lambda names: MAE_RULES, plain),
    _layout("dinov2", dinov2_rules, offset_or_antialias, unchunk),
)
