"""The sizes and options of a transformer's blocks, validated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitcli.errors import CheckpointError
from vitcli.models.fields import (
    LIMITS,
    Activation,
    check_count,
    check_eps,
    check_flags,
    check_heads,
)
from vitcli.records import Size, by


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary positions: each block rotates the queries and keys of patches, by angles that depend
    on row and column (RoFormer, arXiv 2104.09864). Prefix tokens are not rotated.

    A head of width d has d/4 frequencies, `theta ** (-4i / d)`, or the inverse of `periods`, and
    two axes. An angle is a frequency times a coordinate. The coordinates are:

    - centred: the patches' centres, from -1 to 1 on each side, times 2 pi (DINOv3).
    - index: the number of the row or column plus `offset`, and scaled to a grid of `reference`
      patches, if one is given (EVA-02, Perception Encoder).

    An angle rotates two channels: i and i + d/2 with `halves`, else 2i and 2i + 1. With `mixed`,
    each block and head has d/2 learned frequencies for rows and as many for columns, and an angle
    is the sum of both products (RoPE-ViT, arXiv 2403.13298).
    """

    theta: float = 100.0
    coordinates: Literal["centred", "index"] = "centred"
    offset: int = 0
    reference: Size | None = None
    columns_first: bool = False  # the first half of the angles is the columns'
    halves: bool = True
    mixed: bool = False
    periods: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.theta, *self.periods)
        if not all(isinstance(n, int | float) and 0 < n <= 1e9 for n in numbers):
            raise CheckpointError("the rotary positions need positive periods")

    @property
    def rounding(self) -> float:
        """The largest relative difference between `periods` and the periods of `theta`."""
        count = len(self.periods)
        powers = (self.theta ** (i / count) for i in range(count))
        pairs = zip(self.periods, powers, strict=True)
        return max((abs(period / power - 1) for period, power in pairs), default=0.0)

    def describe(self) -> str:
        """The rotary positions in words."""
        if self.mixed:
            return "rotary, frequencies learned in each block and head"
        scaled = f", scaled to {by(self.reference)}" if self.reference else ""
        places = {"centred": "centres from -1 to 1", "index": f"indices from {self.offset}{scaled}"}
        periods = f"theta {self.theta:g}"
        if self.periods:
            periods = f"periods from {self.periods[0]:g} to {self.periods[-1]:g}"
        return f"rotary, {places[self.coordinates]}, {periods}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockConfig:
    """The options that images and texts share: everything that shapes a `Block`."""

    embed_dim: int
    depth: int
    num_heads: int
    hidden_dim: int
    rope: Rope | None = None
    norm: Literal["layer", "rms"] = "layer"
    qkv_bias: bool = True
    qv_bias: bool = False  # queries and values have a bias, keys have none
    attn_norm: bool = False  # a norm of the attended values, before the output projection
    proj_bias: bool = True
    layer_scale: bool = False
    ffn: Literal["mlp", "swiglu"] = "mlp"
    gate_act: Activation = "silu"  # of the gate in a SwiGLU
    ffn_bias: bool = True
    ffn_norm: bool = False  # a norm before the feed-forward's last product
    act: Activation = "gelu"
    norm_eps: float = 1e-6
    dropout: float = 0.0
    attn_dropout: float = 0.0

    def check_block(self) -> None:
        """Raise CheckpointError for values that no block has."""
        check_flags(self)
        for name in ("embed_dim", "depth", "num_heads", "hidden_dim"):
            check_count(name, getattr(self, name), 1, LIMITS[name])
        check_eps(self.norm_eps)
        check_heads(self.num_heads, self.embed_dim)
        if self.qkv_bias and self.qv_bias:
            raise CheckpointError("q and v have a bias of their own, and one with k, too")
