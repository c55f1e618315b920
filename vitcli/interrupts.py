"""Signals that end a run between two batches, never inside one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from vitcli.errors import Interrupted

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
ONE_SIGNAL = 0.3  # seconds: two signals within this time count as one


class Interrupts:
    """Lets a signal end the run after the current batch, never inside it. Signals belong to the
    process, so there is only one instance."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget the signals of an earlier program in this process."""
        self._is_held = False
        self._number: int | None = None
        self._raised: Interrupted | None = None

    def strike(self, number: int) -> None:
        """Record a signal. Raise Interrupted now, or at the next `check` if signals are held."""
        self._number = number
        if not self._is_held:
            self.check()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold signals back until the block ends and `check` is called."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    @property
    def is_struck(self) -> bool:
        """Whether a signal has come for which Interrupted was not raised yet."""
        return self._number is not None

    def check(self) -> None:
        """Raise Interrupted if a signal has come; again, if a library has swallowed the first."""
        number, self._number = self._number, None
        if number is not None:
            self._raised = Interrupted(number)
        if self._raised is not None:
            raise self._raised

    def cause(self, error: BaseException) -> BaseException:
        """Return the Interrupted that a library may have replaced with an error of its own; or else
        the error."""
        return self._raised if self._raised and isinstance(error, Exception) else error


interrupts = Interrupts()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the block between two batches; a second one ends it at
    once. A signal that was ignored before (nohup, a background job) stays ignored.

    `timeout` and others signal a process and then its group: both count as one signal.
    """
    first = 0.0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not first:
            first = time.monotonic()
            interrupts.strike(number)
        elif time.monotonic() - first > ONE_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    interrupts.forget()
    before = {}
    for number in SIGNALS:
        with suppress(ValueError):  # not in the main thread: the caller handles its signals
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    except Exception as error:
        cause = interrupts.cause(error)
        if cause is error:
            raise
        raise cause from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
