"""What changes the weights: groups of parameters, schedule, clipping, averages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitcli.models.network import Layered

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


def parameter_groups(
    parameters: Mapping[str, nn.Parameter], network: nn.Module, asked: Optimisation
) -> list[dict[str, Any]]:
    """A group for each rate and decay, in a fixed order, with the names of its parameters.

    Weight decay is for matrices: not for biases, norms, scales, nor for the tokens and positions
    that the network names. A head alone has no layers: all of it learns at the whole rate.
    """
    layered = network if isinstance(network, Layered) else None
    top = layered.num_blocks + 1 if layered else 0
    groups: dict[tuple[int, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in parameters.items():
        level = layered.layer_of(name) if layered else top
        is_spared = parameter.ndim < 2 or (layered is not None and layered.is_undecayed(name))
        groups.setdefault((level, not is_spared), []).append((name, parameter))
    return [
        {
            "params": [parameter for _, parameter in groups[level, decays]],
            "names": [name for name, _ in groups[level, decays]],
            "lr": asked.lr * asked.layer_decay ** (top - level),
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
