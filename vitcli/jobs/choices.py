"""Check the values of a job's options: words of a known set, numbers within limits."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

from vitcli.errors import UsageError, printable

MAX_SHOWN = 40  # characters of an odd value


def check_choice(option: str, value: object, known: Sequence[str]) -> None:
    """Raise UsageError, which lists the known words, if a value is not one of them."""
    if not isinstance(value, str) or value not in known:
        is_empty = isinstance(value, str) and not value.strip()
        what = "is empty" if is_empty else f"{_shown(value)} is not known"
        raise UsageError(f"{option} {what}", f"choose from {', '.join(known)}")


def check_number(option: str, value: object, low: float, high: float, example: str) -> None:
    """Raise UsageError for NaN, for infinity, and for anything else that is not a number between
    the limits."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not low <= float(value) <= high or abs(float(value)) == float("inf"):  # type: ignore[arg-type]
        raise UsageError(f"{option} {_shown(value)} is out of range", f"give {example}")


def check_whole(option: str, value: object, low: int, high: int, example: str) -> None:
    """Raise UsageError for anything but a whole number between the limits."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not low <= int(value) <= high:  # type: ignore[call-overload]
        raise UsageError(f"{option} {_shown(value)} is out of range", f"give {example}")


def _shown(value: object) -> str:
    """A value in a message, as Python writes it."""
    text = f"{value:g}" if isinstance(value, float) else printable(repr(value))
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
