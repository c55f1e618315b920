"""Check that a saved state fits a training; the file may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from vitcli.training.events import EpochDone


def misfit(
    current: Mapping[str, Any],
    state: Mapping[str, Any],
    parameters: Sequence[Tensor],
    epochs: int,
    steps: int,
) -> str | None:
    """The reason why `state` cannot replace the `current` one; None if it can. `parameters` are in
    the order of the optimizer."""
    if missing := sorted(current.keys() - state.keys()):
        return f"it has no {missing[0]}"
    for name, most in (("epoch", epochs), ("step", steps), ("best_epoch", epochs)):
        if type(state[name]) is not int or not 0 <= state[name] <= most:
            return f"{name} is {str(state[name])[:40]}, at most {most}"
    for name in ("parameters", "schedule", "scaler", "sums", "ema", "best_score"):
        if not _is_like(current[name], state[name]):
            return f"its {name} have another shape"
    return (
        _misfit_of_history(state["history"], state["epoch"])
        or _misfit_of_optimizer(current["optimizer"], state["optimizer"], parameters)
        or _misfit_of_answers(state["answers"])
    )


def _misfit_of_history(history: object, epochs: int) -> str | None:
    if not isinstance(history, list) or len(history) != epochs:
        return "its history does not have one row for each epoch"
    names = {field.name for field in fields(EpochDone)}
    for row in history:
        is_row = isinstance(row, dict) and row.keys() == names
        if not is_row or not all(isinstance(v, int | float | None) for v in row.values()):
            return "its history has another shape"
    return None


def _misfit_of_optimizer(
    current: Mapping[str, Any], optimizer: object, parameters: Sequence[Tensor]
) -> str | None:
    if not isinstance(optimizer, dict) or not _is_like(
        current["param_groups"], optimizer.get("param_groups")
    ):
        return "its optimizer has another shape"
    moments = optimizer.get("state")
    if moments == {}:
        return None
    if not isinstance(moments, dict) or moments.keys() != set(range(len(parameters))):
        return "its optimizer has other parameters"
    for number, parameter in enumerate(parameters):
        own = moments[number]
        pair = (own.get("exp_avg"), own.get("exp_avg_sq")) if isinstance(own, dict) else ()
        if not pair or not all(_is_like(parameter, moment) for moment in pair):
            return "its optimizer has other parameters"
        if not _is_like(torch.zeros(()), own.get("step")):
            return "its optimizer has no steps"
    return None


def _misfit_of_answers(answers: object) -> str | None:
    if answers is None:
        return None
    if isinstance(answers, list) and len(answers) == 3 and all(map(torch.is_tensor, answers)):
        best, scores, truth = (tuple(part.shape) for part in answers)
        if len(best) == 2 and best == scores and truth == best[:1]:
            return None
    return "its answers have another shape"


def _is_like(expected: object, value: object) -> bool:
    """Whether `value` has the same type and shape as `expected`, and so have all values in it."""
    match expected:
        case Tensor():
            return (
                isinstance(value, Tensor)
                and value.shape == expected.shape
                and value.dtype == expected.dtype
            )
        case dict():
            return (
                isinstance(value, dict)
                and expected.keys() == value.keys()
                and all(_is_like(inner, value[name]) for name, inner in expected.items())
            )
        case list() | tuple():
            return (
                isinstance(value, list | tuple)
                and len(expected) == len(value)
                and all(map(_is_like, expected, value))
            )
        case int() | float() if not isinstance(expected, bool):
            return isinstance(value, int | float) and not isinstance(value, bool)
    return type(expected) is type(value)
