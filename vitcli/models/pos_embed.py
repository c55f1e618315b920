"""A learned position embedding for one grid of patches, resampled for another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, cat

from vitcli.models.config import PosResize
from vitcli.records import Size


def resize_pos_embed(pos: Tensor, old: Size, new: Size, prefix: int, how: PosResize) -> Tensor:
    """Resample the patch part, keep the prefix.  (1, prefix + h*w, D) -> (1, prefix + h'*w', D)

    The libraries differ, and the difference is visible in the numbers:

    - *bicubic*: no antialiasing, by size. transformers: ViT, DeiT, DINOv2.
    - *bicubic-antialias*: timm (`resample_abs_pos_embed`), DINOv2 with registers everywhere.
    - *bicubic-offset*: by scale factor with 0.1 added. DINO's and DINOv2's own code.
    - *bilinear*: Google's JAX checkpoints, as timm reads them.
    """
    if old == new:
        return pos
    patches = pos[:, prefix:].float()
    grid = patches.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    if how == "bicubic-offset":
        scale = tuple((n + 0.1) / o for n, o in zip(new, old, strict=True))
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    elif how == "bilinear":
        grid = F.interpolate(grid, size=new, mode="bilinear")
    else:
        grid = F.interpolate(grid, size=new, mode="bicubic", antialias=how == "bicubic-antialias")
    patches = grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
    return cat([pos[:, :prefix], patches.to(pos.dtype)], dim=1)
