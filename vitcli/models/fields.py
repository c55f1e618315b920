"""The kinds of values in configs, and the checks of their fields."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

from vitcli.errors import CheckpointError
from vitcli.records import Size

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
Pool = Literal["cls", "mean", "cls+mean", "map"]
Pooling = Pool | Literal["patches", "tokens"]
PosResize = Literal[
    "bicubic",
    "bicubic-antialias",
    "bicubic-offset",
    "bilinear",
    "bilinear-antialias",
    "bilinear-square",
    "bilinear-square-corners",
]

# Far beyond the largest published ViT (22 B parameters: width 6144, depth 48). A config that claims
# more is hostile or damaged, and is refused before anything is allocated.
LIMITS = {
    "embed_dim": 16_384,
    "depth": 512,
    "num_heads": 512,
    "hidden_dim": 131_072,
    "in_chans": 64,
    "num_registers": 1024,
    "stages": 8,
    "window": 512,
    "pos_grid": 1024,
}
_MAX_IMAGE_SIDE = 16_384
MAX_CLASSES = 1_000_000


class FieldError(CheckpointError):
    """A field of a config has an invalid value; `what` is the message without the field's name."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(f"{field} {what}")
        self.field = field
        self.what = what


def check_count(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise FieldError(name, f"is {value!r}: expected a whole number from {low} to {high:,}")


def check_image(image_size: Size, patch_size: Size) -> None:
    for name, size in (("image_size", image_size), ("patch_size", patch_size)):
        for side in size:
            check_count(name, side, 1, _MAX_IMAGE_SIDE)
    if image_size[0] < patch_size[0] or image_size[1] < patch_size[1]:
        raise CheckpointError(f"image_size {image_size} is smaller than one patch {patch_size}")


def check_flags(config: Any) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type == "bool" and not isinstance(value, bool):
            raise FieldError(field.name, f"is {str(value)[:40]!r}, not true or false")


def check_eps(eps: object) -> None:
    if not isinstance(eps, int | float) or not 0 <= eps < 1:
        raise FieldError("norm_eps", f"is {eps!r}: expected a small positive number")


def check_heads(heads: int, dim: int) -> None:
    if dim % heads:
        raise FieldError("num_heads", f"is {heads}, which does not divide the width {dim}")
