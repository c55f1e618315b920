"""Normalise pixels from 0 to 255 to the numbers that a network was trained on, and invert it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitcli.records import Preprocess


class Normalisation(nn.Module):
    """Rescales pixels and normalises their channels, in fp32.

    Equal, bit for bit, to transformers' Pillow backend and to timm's ToTensor + Normalize.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, plan: Preprocess, device: torch.device | None = None) -> None:
        super().__init__()
        self.rescale = plan.rescale
        self.scale = 1 / plan.rescale  # a divisor, as in torchvision: 1/255 is not exact
        self.register_buffer("mean", torch.tensor(plan.mean, device=device).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(plan.std, device=device).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 or fp32 (B, 3, H, W) -> fp32 (B, 3, H, W)"""
        pixels = pixels.to(torch.float32, copy=True)
        return pixels.div_(self.scale).sub_(self.mean).div_(self.std)

    def inverse(self, pixels: Tensor) -> Tensor:
        """fp32 (B, 3, H, W) -> uint8 (B, 3, H, W)"""
        values = (pixels.float() * self.std + self.mean) / self.rescale
        return values.round().clamp(0, 255).byte()
