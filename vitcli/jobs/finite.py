"""NaN and infinity in results: an image whose result has them counts as failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vitcli.jobs.job import Running
from vitcli.records import ErrorType, Failure, Row, image_of

R = TypeVar("R", bound=Row)


def are_finite(*results: NDArray[np.floating[Any]]) -> list[bool]:
    """Whether all results of each image of a batch are finite.  (B, ...) each"""
    if all(np.isfinite(result).all() for result in results):
        return [True] * len(results[0])
    each = [np.isfinite(result).reshape(len(result), -1).all(axis=1) for result in results]
    good: list[bool] = np.logical_and.reduce(each).tolist()
    return good


def overflow(running: Running) -> str:
    """The message for an image with NaN or infinity: the likely cause, and what to do."""
    what = "the model gives NaN or infinity for it"
    if running.quantize is not None:
        return f"{what}: leave out --quantize {running.quantize}"
    if running.dtype != "fp32":
        return f"{what}: --dtype fp32 has room for larger numbers"
    return f"{what}: its numbers overflow in fp32, so the weights may be damaged"


def with_failures(rows: Sequence[R], good: Sequence[bool], why: str) -> list[R | Failure]:
    """Replace each row that is not good by a failure."""
    return [
        row if is_good else Failure(image_of(row), ErrorType.NOT_FINITE, why)
        for row, is_good in zip(rows, good, strict=True)
    ]
