"""Read the values that the preprocessing JSON of every library has: numbers, filters, origins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from vitcli.checkpoints.layouts.layout import Json, number
from vitcli.checkpoints.preprocess.published import RESAMPLE
from vitcli.errors import CheckpointError
from vitcli.records import Preprocess, Resample


@dataclass(frozen=True, slots=True)
class FoundPreprocess:
    """A preprocessing, notes for the user, and the origin of each step by its name (if absent,
    `plan.source`)."""

    plan: Preprocess
    notes: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)


def origins(
    keys: Mapping[str, Sequence[str]], given: Json, file: str, default: str
) -> dict[str, str]:
    """The origin of each step: the file, a default, or both for different keys."""
    sources = {}
    for step, names in keys.items():
        absent = [name for name in names if given.get(name) is None]
        if len(absent) == len(names):
            sources[step] = default
        else:
            sources[step] = f"{file}; {', '.join(absent)}: {default}" if absent else file
    return sources


def resample(value: object) -> Resample:
    """Read a resampling filter: its name, or Pillow's number."""
    if isinstance(value, int) and value in RESAMPLE:
        return RESAMPLE[value]
    if value == "random":  # of timm's training augmentation
        return "bilinear"
    if value in RESAMPLE.values():
        return cast(Resample, value)
    known = ", ".join(RESAMPLE.values())
    raise CheckpointError(f"resample is {value!r}", f"known are {known}")


def triple(value: object, name: str) -> tuple[float, float, float]:
    """Read three numbers, or one number for all three channels."""
    numbers: list[Any] = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(numbers) != 3:
        raise CheckpointError(f"{name} is {value!r}: expected three numbers")
    first, second, third = (float(number(n, name)) for n in numbers)
    return first, second, third


def positive_triple(value: object, name: str) -> tuple[float, float, float]:
    """Read three positive numbers."""
    numbers = triple(value, name)
    for element in numbers:
        positive(element, name)
    return numbers


def positive(value: object, name: str) -> float:
    """Read a positive number."""
    found = number(value, name)
    if found <= 0:
        raise CheckpointError(f"{name} is {value!r}: expected a positive number")
    return float(found)


def whole(value: object, name: str, low: int, high: int) -> int:
    """Read a whole number from `low` to `high`."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise CheckpointError(f"{name} is {value!r}: expected a whole number from {low} to {high:,}")
