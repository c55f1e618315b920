"""The values that the preprocessing JSON of every library has: numbers, filters, origins."""

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
    """A preprocessing, notes for the user, and the origin of its steps by name (`plan.source` for a
    step that is not named)."""

    plan: Preprocess
    notes: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)


def origins(
    keys: Mapping[str, Sequence[str]], given: Json, file: str, default: str
) -> dict[str, str]:
    """The origin of each step: the file, a default, or both for different keys."""
    found = {}
    for step, names in keys.items():
        silent = [name for name in names if given.get(name) is None]
        if len(silent) == len(names):
            found[step] = default
        else:
            found[step] = f"{file}; {', '.join(silent)}: {default}" if silent else file
    return found


def resample(value: object) -> Resample:
    """Read the name of a filter, or Pillow's number of it."""
    if isinstance(value, int) and value in RESAMPLE:
        return RESAMPLE[value]
    if value == "random":  # timm: in the augmentation of its training
        return "bilinear"
    if value in RESAMPLE.values():
        return cast(Resample, value)
    known = ", ".join(RESAMPLE.values())
    raise CheckpointError(f"resample is {value!r}", f"known are {known}")


def triple(value: object, name: str) -> tuple[float, float, float]:
    """Read three numbers, or one for all channels."""
    numbers: list[Any] = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(numbers) != 3:
        raise CheckpointError(f"{name} is {value!r}: expected three numbers")
    first, second, third = (float(number(n, name)) for n in numbers)
    return first, second, third


def positive_triple(value: object, name: str) -> tuple[float, float, float]:
    """Read three numbers to divide by."""
    numbers = triple(value, name)
    for each in numbers:
        positive(each, name)
    return numbers


def positive(value: object, name: str) -> float:
    """Read a number to divide by."""
    found = number(value, name)
    if found <= 0:
        raise CheckpointError(f"{name} is {value!r}: expected a positive number")
    return float(found)
