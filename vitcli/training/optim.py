"""What changes the weights: groups of parameters, schedule, clipping, averages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = ("cls_token", "dist_token", "register_tokens", "pos_embed", "mask_token", "latent")
BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """AdamW's numbers. A layer's rate is `layer_decay` times that of the layer above it."""

    lr: float
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    warmup: int = 0  # steps
    steps: int = 1
    clip: float | None = 1.0


def has_decay(name: str, parameter: Tensor) -> bool:
    """Weight decay is for matrices: not for biases, norms, scales, tokens, position embeddings."""
    last = name.rpartition(".")[2]
    return parameter.ndim > 1 and not any(token in (last, *name.split(".")) for token in TOKENS)


def depth_of(name: str, depth: int) -> int:
    """0 for what makes the tokens, i for block i, depth + 1 for what comes after the blocks."""
    if found := re.match(r"(?:encoder\.)?(?:blocks|stages)\.(\d+)\.", name):
        return int(found[1]) + 1
    first = ("patch_embed", "norm_pre", *TOKENS)
    return 0 if name.removeprefix("encoder.").startswith(first) else depth + 1


def parameter_groups(
    parameters: Mapping[str, nn.Parameter], depth: int, asked: Optimisation
) -> list[dict[str, Any]]:
    """A group for each rate and decay, in a fixed order, with the names of its parameters."""
    groups: dict[tuple[int, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in parameters.items():
        key = depth_of(name, depth), has_decay(name, parameter)
        groups.setdefault(key, []).append((name, parameter))
    return [
        {
            "params": [parameter for _, parameter in groups[level, decays]],
            "names": [name for name, _ in groups[level, decays]],
            "lr": asked.lr * asked.layer_decay ** (depth + 1 - level),
            "weight_decay": asked.weight_decay if decays else 0.0,
        }
        for level, decays in sorted(groups)
    ]


def make_optimizer(groups: list[dict[str, Any]], asked: Optimisation) -> torch.optim.AdamW:
    """AdamW whose step is one pass over the parameters."""
    return torch.optim.AdamW(groups, lr=asked.lr, betas=BETAS, eps=EPS, fused=True)


def make_schedule(
    optimizer: torch.optim.Optimizer, asked: Optimisation
) -> torch.optim.lr_scheduler.LambdaLR:
    """A line up, then half a cosine down: transformers' `get_cosine_schedule_with_warmup`."""

    def share(step: int) -> float:
        if step < asked.warmup:
            return step / max(1, asked.warmup)
        done = (step - asked.warmup) / max(1, asked.steps - asked.warmup)
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


class Average:
    """The exponential moving average of parameters, which can take their places for a while."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step number `step`, from 0; the first steps count for more."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self._parameters[name], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Put the average where the parameters are, and back."""
        for name, value in self.values.items():
            parameter = self._parameters[name]
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)


def class_weights(counts: Iterable[int]) -> Tensor:
    """Weights that give each class the same say, of mean 1 over the images.  -> (K,)"""
    numbers = torch.tensor(list(counts), dtype=torch.float32)
    weights = numbers.sum() / (len(numbers) * numbers.clamp(min=1))
    return torch.where(numbers > 0, weights, torch.ones(()))
