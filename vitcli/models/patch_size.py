"""Run a network on patches of another size (FlexiViT, arXiv 2212.08013, section 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitcli.models.fields import PosResize
from vitcli.models.network import Network
from vitcli.records import Size


@torch.no_grad()
def change_patch_size(network: Network, patch_size: Size, image_size: Size) -> None:
    """Change the sizes of the network's patches and images, both (height, width). Resample the
    patch embedding, and once, for the new grid, everything that depends on the grid.

    Raises CheckpointError for an image that is smaller than a patch, UsageError for a grid for
    which the model has no positions.
    """
    config, new = network.config, network.config.repatched(patch_size, image_size)
    height, width = (n * p for n, p in zip(new.grid, config.patch_size, strict=True))
    network.resize((height, width))  # the new grid, still of the old patches
    embed = network.patch_embed.proj
    weight = resample_patch_embed(embed.weight, patch_size, network.config.pos_resize)
    embed.weight = nn.Parameter(weight, requires_grad=embed.weight.requires_grad)
    embed.kernel_size = embed.stride = patch_size
    network.config = new


def resample_patch_embed(
    weight: Tensor, size: Size, how: PosResize = "bicubic-antialias"
) -> Tensor:
    """Resample the kernel of a patch embedding, as timm's function of this name does.
    (D, C, P, Q) -> (D, C, *size)

    Patches are resized bicubically with antialiasing; where position embeddings are resampled
    `bilinear`, so are patches. timm does both when it loads Google's files, and FlexiViT was
    trained so (big_vision, `proj/flexi/vit.py`).

    If B is the matrix that resizes a patch, the new kernel is pinv(B)^T times the old one. A patch
    that is enlarged then has the same embedding as before; for a reduced patch, whose pixels are
    independent and normal, the embedding has the least squared error. Resizing works on rows and
    columns one after the other, and so does its pseudo-inverse.
    """
    down, across = (
        torch.linalg.pinv(_resizing(old, new, how).double()).to(weight.device)
        for old, new in zip(weight.shape[-2:], size, strict=True)
    )
    resampled: Tensor = down.T @ weight.double() @ across
    return resampled.to(weight.dtype)


def _resizing(old: int, new: int, how: PosResize) -> Tensor:
    """The matrix that resizes one side of a patch.  -> (new, old)"""
    mode, antialias = ("bilinear", False) if how == "bilinear" else ("bicubic", True)
    basis = torch.eye(old)[None, None]
    return F.interpolate(basis, size=(new, old), mode=mode, antialias=antialias)[0, 0]
