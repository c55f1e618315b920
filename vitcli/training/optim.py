"""The optimizer: parameter groups, learning-rate schedule, weight averages, class weights."""

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
    """AdamW's options. A layer learns at `layer_decay` times the rate of the layer above it."""

    lr: float
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    warmup: int = 0  # steps
    steps: int = 1
    clip: float | None = 1.0


def parameter_groups(
    parameters: Mapping[str, nn.Parameter], network: nn.Module, optimisation: Optimisation
) -> list[dict[str, Any]]:
    """Group parameters by learning rate and weight decay, in a fixed order, with their names.

    Weight decay applies to matrices, but not to biases, norms, scales, nor to the tokens and
    positions that the network names. A head alone has no layers and learns at the full rate.
    """
    layered = network if isinstance(network, Layered) else None
    top = layered.num_blocks + 1 if layered else 0
    groups: dict[tuple[int, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in parameters.items():
        level = layered.layer_of(name) if layered else top
        is_undecayed = parameter.ndim < 2 or (layered is not None and layered.is_undecayed(name))
        groups.setdefault((level, not is_undecayed), []).append((name, parameter))
    return [
        {
            "params": [parameter for _, parameter in groups[level, decays]],
            "names": [name for name, _ in groups[level, decays]],
            "lr": optimisation.lr * optimisation.layer_decay ** (top - level),
            "weight_decay": optimisation.weight_decay if decays else 0.0,
        }
        for level, decays in sorted(groups)
    ]


def make_optimizer(groups: list[dict[str, Any]], optimisation: Optimisation) -> torch.optim.AdamW:
    """Return a fused AdamW: each step is one pass over the parameters."""
    return torch.optim.AdamW(groups, lr=optimisation.lr, betas=BETAS, eps=EPS, fused=True)


def make_schedule(
    optimizer: torch.optim.Optimizer, optimisation: Optimisation
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then half a cosine, as transformers' `get_cosine_schedule_with_warmup`."""

    def share(step: int) -> float:
        if step < optimisation.warmup:
            return step / max(1, optimisation.warmup)
        done = (step - optimisation.warmup) / max(1, optimisation.steps - optimisation.warmup)
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


class Average:
    """The exponential moving average of parameters, which can be swapped with them."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the parameters after step number `step`, from 0. Early steps weigh more."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self._parameters[name], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the parameters."""
        for name, value in self.values.items():
            parameter = self._parameters[name]
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)


def class_weights(counts: Iterable[int]) -> Tensor:
    """Weights that make all classes count equally; their mean over the images is 1.  -> (K,)"""
    numbers = torch.tensor(list(counts), dtype=torch.float32)
    weights = numbers.sum() / (len(numbers) * numbers.clamp(min=1))
    return torch.where(numbers > 0, weights, torch.ones(()))
