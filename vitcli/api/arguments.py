"""Check and convert the arguments of calls from Python."""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TypeAlias

from vitcli.errors import UsageError, printable, shortened

Names: TypeAlias = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""A path, or several."""


def names_of(what: str, names: Names) -> tuple[str, ...]:
    """Paths as texts. Raises UsageError for what is neither a path nor several."""
    several = (names,) if isinstance(names, str | bytes | os.PathLike) else names
    try:
        found = tuple(str(os.fsdecode(name)) for name in several)
    except TypeError:
        raise UsageError(f"{what} is not a path, nor several", "give a str or a Path") from None
    if not found and what == "index":
        raise UsageError("the index has no files", "name files that vit embed wrote")
    return found


def likes_of(like: object) -> tuple[str | int, ...]:
    """Paths as texts, and numbers of rows. Raises UsageError."""

    def row(one: object) -> str | int:
        if isinstance(one, str | bytes | os.PathLike):
            return str(os.fsdecode(one))
        if isinstance(one, Integral) and not isinstance(one, bool) and int(one) >= 0:
            return int(one)
        raise UsageError(f"like: {short(one)} is neither a path nor the number of a row")

    if isinstance(like, str | bytes | os.PathLike) or not isinstance(like, Iterable):
        return (row(like),)
    if not getattr(like, "shape", True):  # an array of NumPy without axes
        return (row(like.item()),)  # type: ignore[attr-defined]
    return tuple(row(one) for one in like)


def texts_of(what: str, texts: object) -> tuple[str, ...]:
    """One text or several as a tuple. Raises UsageError."""
    given = (texts,) if isinstance(texts, str) or not isinstance(texts, Iterable) else texts
    several = tuple(given)
    if not all(isinstance(text, str) for text in several):
        raise UsageError(f"{what} is not a text, nor several", "give a str or a list")
    return several


def pairs_of(pairs: object) -> tuple[tuple[str, str], ...]:
    """Pairs of paths as texts. Raises UsageError."""
    try:
        several = list(pairs)  # type: ignore[call-overload]
        if any(isinstance(pair, str | bytes) for pair in several):
            raise TypeError
        return tuple((str(os.fsdecode(a)), str(os.fsdecode(b))) for a, b in several)
    except (TypeError, ValueError):
        raise UsageError("like_pairs are not pairs of paths", "give [('a.jpg', 'b.jpg')]") from None


def whole(what: str, number: object, least: int) -> int:
    """A whole number, of Python or of NumPy. Raises UsageError."""
    if not isinstance(number, Integral) or isinstance(number, bool) or int(number) < least:
        raise UsageError(f"{what}={short(number)}", f"give a whole number from {least}")
    return int(number)


def workers_of(workers: object) -> int | None:
    """A number of worker processes, or None. Raises UsageError."""
    return None if workers is None else whole("workers", workers, 0)


def score_of(what: str, number: object) -> float | None:
    """A number or None. Raises UsageError."""
    if number is None:
        return None
    if not isinstance(number, Real) or isinstance(number, bool):
        raise UsageError(f"{what}={short(number)}", "give a number, or None")
    return float(number)


def short(value: object) -> str:
    return printable(shortened(repr(value), 80))
