"""NaN and infinity in results: an image whose result has them counts as failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from vitcli.jobs.job import Running
from vitcli.records import ErrorType, Failure, Row, image_of

if TYPE_CHECKING:  # imports torch, which a run with nothing to do does not need
    from torch import Tensor

R = TypeVar("R", bound=Row)


def are_finite(*results: Tensor) -> list[bool]:
    """Whether all results of each image of a batch are finite.  (B, ...) each"""
    if all(bool(result.isfinite().all()) for result in results):
        return [True] * len(results[0])
    each = [result.isfinite().flatten(1).all(dim=1).tolist() for result in results]
    return [all(image) for image in zip(*each, strict=True)]


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
