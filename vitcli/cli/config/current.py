"""The options of the command that runs now, as a config file has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Current:
    """The command that runs: `text` is a config file that repeats it; `standing` are the options
    that come from a file or the environment, by their names in Python."""

    text: str | None = None
    standing: frozenset[str] = frozenset()


_current: ContextVar[Current] = ContextVar("current", default=Current())  # noqa: B039  # frozen


def current() -> Current:
    """The command that runs now; empty outside of a command."""
    return _current.get()


@contextmanager
def running(command: Current) -> Iterator[None]:
    """Make a command the current one while it runs."""
    token = _current.set(command)
    try:
        yield
    finally:
        _current.reset(token)
