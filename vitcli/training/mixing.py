"""Label smoothing, and mixtures of images: mixup and CutMix.

Images 2i and 2i + 1 of a batch are mixed only with each other, and the random draws depend only on
(seed, step, i). So the mixtures stay the same when a batch is divided into even parts, for devices
or micro-batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """The parameters of the Beta distributions, and of smoothing. If mixup and CutMix are both on,
    each is used for half of the pairs."""

    mixup: float = 0.0  # arXiv 1710.09412
    cutmix: float = 0.0  # arXiv 1905.04899
    smoothing: float = 0.0

    @property
    def is_on(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


def targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """One-hot targets, with the share `smoothing` spread over all classes.  (B,) -> (B, K)"""
    one_hot = F.one_hot(labels, classes).float()
    return one_hot * (1 - smoothing) + smoothing / classes


def mix(
    pixels: Tensor, target: Tensor, mixing: Mixing, seed: tuple[int, ...], first: int
) -> tuple[Tensor, Tensor]:
    """Mix pairs of images and their targets; `first` is the place of the first image in the batch.
    (B, C, H, W), (B, K) -> the same"""
    if not mixing.is_on:
        return pixels, target
    pixels, target = pixels.clone(), target.clone()
    for at in range(first % 2, len(pixels) - 1, 2):
        draw = np.random.default_rng((*seed, (first + at) // 2))
        cuts = mixing.cutmix > 0 and (mixing.mixup == 0 or draw.random() < 0.5)
        alpha = mixing.cutmix if cuts else mixing.mixup
        share = float(draw.beta(alpha, alpha))
        pair = pixels[at : at + 2]
        if cuts:
            share = _exchange(pair, share, draw)
        else:
            pair.copy_(share * pair + (1 - share) * pair.flip(0))
        both = target[at : at + 2]
        both.copy_(share * both + (1 - share) * both.flip(0))
    return pixels, target


def _exchange(pair: Tensor, share: float, draw: np.random.Generator) -> float:
    """Exchange a rectangle between two images in place, and return the share that stays.
    (2, C, H, W) -> ()"""
    H, W = pair.shape[-2:]
    h, w = (round(side * math.sqrt(1 - share)) for side in (H, W))
    y, x = int(draw.integers(0, H)), int(draw.integers(0, W))
    top, bottom = max(0, y - h // 2), min(H, y + h - h // 2)
    left, right = max(0, x - w // 2), min(W, x + w - w // 2)
    part = pair[..., top:bottom, left:right]
    part.copy_(part.flip(0).clone())
    return 1 - (bottom - top) * (right - left) / (H * W)


def soft_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean cross entropy, each class weighted by `weights` (K,).  (B, K) twice -> ()"""
    if weights is not None:
        target = target * weights
    return torch.sum(-target * F.log_softmax(logits.float(), dim=-1), dim=-1).mean()
