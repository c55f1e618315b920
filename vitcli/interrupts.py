"""Signals that end a run between two batches, never inside one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vitcli.errors import Interrupted


class Interrupts:
    """Lets a signal end the run between two batches, never inside one. Signals belong to the
    process, so there is one of these."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A new program begins."""
        self._is_held = False
        self._number: int | None = None
        self._raised: Interrupted | None = None

    def strike(self, number: int) -> None:
        """A signal has come: raise Interrupted, now or at the next `check`."""
        self._number = number
        if not self._is_held:
            self.check()

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is done inside is done whole."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    @property
    def is_struck(self) -> bool:
        """Whether a signal has come that nobody has heard of yet."""
        return self._number is not None

    def check(self) -> None:
        """Raise Interrupted if a signal has come; again, if somebody has swallowed it."""
        number, self._number = self._number, None
        if number is not None:
            self._raised = Interrupted(number)
        if self._raised is not None:
            raise self._raised

    def cause(self, error: BaseException) -> BaseException:
        """What has really ended the run: a library that is interrupted may make an error of its
        own of it."""
        return self._raised if self._raised and isinstance(error, Exception) else error


interrupts = Interrupts()
