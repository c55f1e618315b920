"""Positions that act inside attention: rotations of queries and keys, and biases of the scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitcli.models.block_config import Rope
from vitcli.models.config import RelResize, ViTConfig
from vitcli.models.pos_embed import resize_bias_table
from vitcli.models.shapes import relative_rows
from vitcli.records import Size

Rotation: TypeAlias = tuple[Tensor, Tensor]
"""The cosine and sine of each token's angles in fp32, (T + h*w, d/2) or (A, T + h*w, d/2). Prefix
tokens have the angle 0."""


@dataclass(frozen=True, slots=True)
class Position:
    """The places of a block's tokens, as its attention reads them. `bias` is added to the scaled
    scores before the softmax: (A, N, N), or for each key of an image (B, 1, 1, N)."""

    rotation: Rotation | None = None
    bias: Tensor | None = None


NOWHERE = Position()


class RotaryEmbedding(nn.Module):
    """The rotations of a grid; see `Rope`.

    Equal to `DINOv3ViTRopePositionEmbedding` of transformers and to `RotaryEmbeddingDinoV3`,
    `RotaryEmbeddingCat` and `RotaryEmbeddingMixed` of timm (`layers/pos_embed_sincos.py`).
    """

    def __init__(self, rope: Rope, depth: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.rope = rope
        self.head_dim = head_dim
        if rope.mixed:
            self.freqs = nn.Parameter(torch.zeros(2, depth, num_heads, head_dim // 2))

    def forward(self, grid: Size, prefix: int, device: torch.device) -> list[Rotation]:
        """The rotation of each block, or one for all blocks.  -> [(cosine, sine), ...]"""
        coordinates = self._coordinates(grid, device)  # (h*w, 2)
        if self.rope.mixed:
            freqs = self.freqs.float()  # (2, depth, A, d/2)
            first, second = coordinates.T[:, :, None]
            angles = first * freqs[0][:, :, None] + second * freqs[1][:, :, None]
        else:
            angles = coordinates[..., None] * self._frequencies(device)  # (h*w, 2, d/4)
            angles = angles.flatten(1)[None]  # (1, h*w, d/2)
        angles = F.pad(angles, (0, 0, prefix, 0))
        return list(zip(angles.cos(), angles.sin(), strict=True))

    def _frequencies(self, device: torch.device) -> Tensor:
        """-> (d/4,)"""
        if self.rope.periods:
            return 1 / torch.tensor(self.rope.periods, device=device)
        count = self.head_dim // 4
        exponents = torch.arange(count, device=device, dtype=torch.float32) / count
        frequencies: Tensor = 1 / self.rope.theta**exponents
        return frequencies

    def _coordinates(self, grid: Size, device: torch.device) -> Tensor:
        """The coordinates of each patch, row by row.  -> (h*w, 2)"""
        rope = self.rope
        axes = []
        for side, whole in zip(grid, rope.reference or grid, strict=True):
            numbers = torch.arange(side, device=device, dtype=torch.float32)
            if rope.coordinates == "centred":
                axes.append((2 * (numbers + 0.5) / side - 1) * (2 * math.pi))
            else:
                axes.append((numbers + rope.offset) / side * whole)
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        pairs = (columns, rows) if rope.columns_first else (rows, columns)
        return torch.stack(pairs, dim=-1).flatten(0, 1)


def rotate(x: Tensor, rotation: Rotation, *, halves: bool) -> Tensor:
    """Rotate the pairs of each token's channels by its angles, in fp32.
    (..., N, d) -> (..., N, d)"""
    cosine, sine = rotation
    if halves:
        first, second = x.chunk(2, dim=-1)
    else:
        first, second = x[..., ::2], x[..., 1::2]
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    whole = torch.cat(turned, dim=-1) if halves else torch.stack(turned, dim=-1).flatten(-2)
    return whole.to(x.dtype)


class RelativePositions(nn.ParameterList):
    """BEiT's tables of biases: one for each block, or one for all.

    A table has a row for each distance between two patches, then one each for the class token to a
    patch, a patch to the class token, and the class token to itself.  ((2h-1)*(2w-1) + 3, A)
    """

    def __init__(self, config: ViTConfig) -> None:
        rows = relative_rows(config.grid)
        count = config.depth if config.rel_bias == "block" else 1
        super().__init__(nn.Parameter(torch.zeros(rows, config.num_heads)) for _ in range(count))

    def biases(self, old: Size, new: Size, how: RelResize) -> Iterator[Tensor]:
        """The bias of each block, or one for all, on the grid `new`.  -> (A, N, N), ..."""
        index = relative_index(new)
        for table in self:
            rows = resize_relative(table, old, new, how).float().T
            yield rows[:, index.to(table.device)]


def relative_index(grid: Size) -> Tensor:
    """The table's row for each pair of tokens: a class token, then the patches.  -> (N, N)

    The row of two patches is their distance down and across, both counted from the largest negative
    one: `gen_relative_position_index` of timm's `beit.py`.
    """
    height, width = grid
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))  # (h*w, 2)
    down, across = (places[:, None] - places[None]).unbind(-1)
    patches = (down + height - 1) * (2 * width - 1) + across + width - 1
    rows = relative_rows(grid)
    index = F.pad(patches, (1, 0, 1, 0))
    index[0, 1:], index[1:, 0], index[0, 0] = rows - 3, rows - 2, rows - 1
    return index


def resize_relative(table: Tensor, old: Size, new: Size, how: RelResize) -> Tensor:
    """Resample the patches' rows for another grid, keep the last three.
    ((2h-1)*(2w-1) + 3, A) -> ((2h'-1)*(2w'-1) + 3, A)

    *geometric* is the rule of Microsoft and timm (`resize_rel_pos_bias_table`), *bilinear* that of
    transformers.
    """
    if old == new:
        return table
    patches, others = table[:-3], table[-3:]
    if how == "geometric":
        return torch.cat([resize_bias_table(patches, old, new), others])
    grid = patches.float().T.reshape(1, -1, 2 * old[0] - 1, 2 * old[1] - 1)
    sides = (2 * new[0] - 1, 2 * new[1] - 1)
    resized = F.interpolate(grid, size=sides, mode="bilinear")
    return torch.cat([resized.flatten(2)[0].T.to(table.dtype), others])
