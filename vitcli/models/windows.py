"""Cut a Swin's grid of patches into windows, shifted or not, and join the windows again.

arXiv 2103.14030, section 3.2. If the windows do not fit the grid, transformers pads it before the
shift (`pads_first`), timm after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vitcli.models.swin_config import SwinConfig
from vitcli.records import Size


@dataclass(frozen=True, slots=True)
class Windows:
    """The n windows of N tokens that a grid (h, w) is cut into: their size, and their shift down
    and to the right. With a shift, `mask` (n, N, N) separates tokens that only the shift made
    neighbours.
    """

    grid: Size
    size: Size
    shift: Size
    mask: Tensor | None
    pads_first: bool

    def cut(self, x: Tensor) -> Tensor:
        """Pad the grid with zeros to whole windows, and cut it.  (B, h*w, D) -> (B, n, N, D)"""
        bottom, right = self._padding
        back = (-self.shift[0], -self.shift[1])
        x = on_grid(x, self.grid)
        if self.pads_first:
            x = _rolled(padded(x, bottom, right), back)
        else:
            x = padded(_rolled(x, back), bottom, right)
        return partitioned(x, self.size)

    def joined(self, x: Tensor) -> Tensor:
        """Join the windows to the grid.  (B, n, N, D) -> (B, h*w, D)"""
        (height, width), (down, across) = self.grid, self.size
        bottom, right = self._padding
        count = (height + bottom) // down, (width + right) // across
        x = x.reshape(x.shape[0], *count, down, across, x.shape[-1])
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, h + bottom, w + right, D)
        if self.pads_first:
            return _rolled(x, self.shift)[:, :height, :width].flatten(1, 2)
        return _rolled(x[:, :height, :width], self.shift).flatten(1, 2)

    @property
    def _padding(self) -> Size:
        """The rows below and the columns to the right of the grid."""
        (height, width), (down, across) = self.grid, self.size
        return -height % down, -width % across


def windows_of(config: SwinConfig, stage: int, grid: Size, like: Tensor) -> tuple[Windows, Windows]:
    """The unshifted windows of a stage's first, third, ... block, and the shifted ones of the
    others."""
    size, shift = config.windows(stage, grid)
    pads_first = config.window_rule != "timm"
    unshifted = Windows(grid, size, (0, 0), None, pads_first)
    if not any(shift):
        return unshifted, unshifted
    mask = shift_mask(grid, size, shift, like, config.far)
    return unshifted, replace(unshifted, shift=shift, mask=mask)


def shift_mask(grid: Size, window: Size, shift: Size, like: Tensor, far: float) -> Tensor:
    """The mask that separates tokens of a window that only the shift made neighbours.  (n, N, N)

    After the shift, the last window of a row or column has tokens of both edges of the grid.
    """
    regions = torch.zeros((), device=like.device)
    for side, long, step in zip(grid, window, shift, strict=True):
        positions = torch.arange(side + -side % long, device=like.device)
        regions = 2 * regions[..., None] + (positions >= len(positions) - step)
    ids = partitioned(regions[None, ..., None], window).squeeze(-1)[0]  # (n, N)
    separated = ids[:, :, None] != ids[:, None, :]
    return torch.zeros_like(separated, dtype=like.dtype).masked_fill(separated, far)


def padded(x: Tensor, bottom: int, right: int) -> Tensor:
    """(B, h, w, D) -> (B, h + bottom, w + right, D)"""
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def _rolled(x: Tensor, shift: Size) -> Tensor:
    """Roll the grid of (B, h, w, D) around its edges."""
    return x.roll(shift, dims=(1, 2)) if any(shift) else x


def on_grid(x: Tensor, grid: Size) -> Tensor:
    """(B, h*w, D) -> (B, h, w, D)"""
    return x.reshape(x.shape[0], *grid, x.shape[-1])


def partitioned(x: Tensor, window: Size) -> Tensor:
    """Cut into windows, row by row.  (B, h, w, D) -> (B, n, N, D)"""
    B, h, w, D = x.shape
    down, across = window
    x = x.reshape(B, h // down, down, w // across, across, D)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
