"""Resample position embeddings from one grid or window to another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, cat

from vitcli.models.fields import PosResize
from vitcli.records import Size


def resize_pos_embed(pos: Tensor, old: Size, new: Size, prefix: int, how: PosResize) -> Tensor:
    """Resample the patches' part, keep the prefix.  (1, prefix + h*w, D) -> (1, prefix + h'*w', D)

    The libraries differ, and the difference is visible in the numbers:

    - *bicubic*: no antialiasing, by size. transformers: ViT, DeiT, DINOv2.
    - *bicubic-antialias*: timm (`resample_abs_pos_embed`), DINOv2 with registers everywhere.
    - *bicubic-offset*: by scale factor with 0.1 added. DINO's and DINOv2's own code.
    - *bilinear*: Google's JAX checkpoints, as timm reads them.
    - *bilinear-antialias*: TIPSv2 in transformers.
    - *bilinear-square*: to a square of the longer side, then cut at the bottom and on the right.
      RADIO in transformers, and NVIDIA's own code since C-RADIOv4.
    - *bilinear-square-corners*: the same with aligned corners. NVIDIA's code of older models.
    """
    if old == new:
        return pos
    patches = pos[:, prefix:].float()
    grid = patches.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    if how == "bicubic-offset":
        scale = tuple((n + 0.1) / o for n, o in zip(new, old, strict=True))
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    elif how in ("bilinear-square", "bilinear-square-corners"):
        corners, side = how.endswith("corners"), max(new)
        grid = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=corners)
        grid = grid[..., : new[0], : new[1]]
    else:
        mode, _, antialias = how.partition("-")
        grid = F.interpolate(grid, size=new, mode=mode, antialias=antialias == "antialias")
    patches = grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
    return cat([pos[:, :prefix], patches.to(pos.dtype)], dim=1)


def resize_bias_table(table: Tensor, old: Size, new: Size) -> Tensor:
    """Resample a table of relative positions from one window to another, as timm's
    `resize_rel_pos_bias_table` does without SciPy.  ((2h-1)*(2w-1), A) -> ((2h'-1)*(2w'-1), A)

    The old distances are spread geometrically over the new ones, so that close neighbours stay
    close; values between them are interpolated linearly.
    """
    rows, columns = (
        _spread(before, after).to(table.device) for before, after in zip(old, new, strict=True)
    )
    grid = table.float().reshape(2 * old[0] - 1, 2 * old[1] - 1, -1)
    resampled = torch.einsum("yi,xj,ija->yxa", rows, columns, grid)
    return resampled.flatten(0, 1).to(table.dtype)


def _spread(old: int, new: int) -> Tensor:
    """The share of each old distance in each new one along a side.  -> (2*new - 1, 2*old - 1)"""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reach = (1 - ratio ** (old - 1)) / (1 - ratio)
        low, high = (low, ratio) if reach > new - 1 else (ratio, high)
    steps = torch.tensor([ratio**i for i in range(old - 1)], dtype=torch.float64)
    beyond = steps.cumsum(0).float()
    known = torch.cat([-beyond.flip(0), torch.zeros(1), beyond])
    wanted = torch.arange(1 - new, new).clamp(known[0], known[-1])
    right = torch.bucketize(wanted, known).clamp(min=min(1, len(known) - 1))
    left = (right - 1).clamp(min=0)
    share = torch.where(right > left, (wanted - known[left]) / (known[right] - known[left]), 1.0)
    one_hot = torch.eye(len(known))
    return one_hot[left] * (1 - share)[:, None] + one_hot[right] * share[:, None]
