"""The objectives of a training: classify images, or reconstruct their hidden patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from vitcli.models.mae import MaskedAutoencoder, mask_of
from vitcli.models.mim import MaskedImageModel
from vitcli.models.normalise import Normalisation
from vitcli.records import Preprocess, Size
from vitcli.training.feed import Step
from vitcli.training.mixing import Mixing, mix, soft_cross_entropy, targets


@dataclass(frozen=True, slots=True)
class Outcome:
    """The mean loss of a part of a batch, and the number of right answers in it."""

    loss: Tensor
    right: Tensor


@dataclass(frozen=True, slots=True)
class HeldOutScores:
    """The results on held-out images: losses (B,), best classes and their probabilities (B, k)."""

    losses: Tensor
    best: Tensor
    scores: Tensor


class Objective(Protocol):
    """Computes the loss of inputs. `module` is the trained module, perhaps in a wrapper."""

    def learn(self, module: nn.Module, step: Step, seed: int) -> Outcome: ...

    def judge(
        self, module: nn.Module, inputs: Tensor, labels: Tensor, places: Tensor
    ) -> HeldOutScores: ...


class Normalise:
    """Moves inputs to the device and normalises pixels; features stay unchanged."""

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self._device = device
        self._pixels = Normalisation(preprocess, device)

    def __call__(self, inputs: Tensor) -> Tensor:
        """(B, H, W, 3) -> (B, 3, H, W), or (B, D) -> (B, D)"""
        x = inputs.to(self._device, non_blocking=True)
        if x.ndim == 2:
            return x
        pixels: Tensor = self._pixels(x.permute(0, 3, 1, 2).contiguous())
        return pixels


@dataclass(frozen=True, slots=True)
class Classify:
    """Cross entropy over classes."""

    normalise: Normalise
    classes: int
    mixing: Mixing = Mixing()
    weights: Tensor | None = None

    def learn(self, module: nn.Module, step: Step, seed: int) -> Outcome:
        pixels = self.normalise(step.inputs)
        labels = step.labels.to(pixels.device)
        target = targets(labels, self.classes, self.mixing.smoothing)
        drawn = (seed, step.epoch, step.number)
        pixels, target = mix(pixels, target, self.mixing, drawn, step.first)
        logits = module(pixels)
        right = (logits.argmax(dim=-1) == target.argmax(dim=-1)).sum()
        return Outcome(soft_cross_entropy(logits, target, self.weights), right)

    def judge(
        self, module: nn.Module, inputs: Tensor, labels: Tensor, places: Tensor
    ) -> HeldOutScores:
        logits = module(self.normalise(inputs)).float()
        target = targets(labels.to(logits.device), self.classes, 0.0)
        losses = -(target * logits.log_softmax(dim=-1)).sum(dim=-1)
        scores, best = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        return HeldOutScores(losses.cpu(), best[:, :5].cpu(), scores[:, :5].cpu())


@dataclass(frozen=True, slots=True)
class Reconstruct:
    """The loss of masked pre-training, as in SimMIM or in a masked autoencoder."""

    normalise: Normalise
    grid: Size
    ratio: float

    def learn(self, module: nn.Module, step: Step, seed: int) -> Outcome:
        pixels = self.normalise(step.inputs)
        loss = module(pixels, self._mask((seed, step.epoch), step.places, pixels.device))
        return Outcome(loss, torch.zeros((), device=pixels.device))

    def judge(
        self, module: nn.Module, inputs: Tensor, labels: Tensor, places: Tensor
    ) -> HeldOutScores:
        pixels = self.normalise(inputs)
        mask = self._mask((0, 0), places, pixels.device)
        loss = module(pixels, mask).float().cpu()
        nothing = torch.zeros(len(inputs), 1)
        return HeldOutScores(loss.expand(len(inputs)), nothing.long(), nothing)

    def _mask(self, seed: tuple[int, int], places: Tensor, device: torch.device) -> Tensor:
        """Draw the hidden patches of each image from its place.  (B,) -> (B, h*w)"""
        count = self.grid[0] * self.grid[1]
        noise = np.stack(
            [np.random.default_rng((*seed, place)).random(count) for place in places.tolist()]
        )
        return mask_of(torch.from_numpy(noise), self.ratio).to(device)


class WithLoss(nn.Module):
    """A reconstruction model whose forward pass returns the loss, for DistributedDataParallel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: MaskedImageModel | MaskedAutoencoder = model  # type: ignore[assignment]

    def forward(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """(B, C, H, W), (B, h*w) -> ()"""
        return self.model.loss(pixels, self.model(pixels, mask), mask)
