"""The one loop: batches → rows → sink. Every input gives exactly one row, in input order.

What differs between the commands is only `Forward`, the function from a batch to its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TypeAlias

from vitcli.errors import Interrupted
from vitcli.records import Batch, Failure, Kept, Progress, Row, Sink

Forward: TypeAlias = Callable[[Batch], Sequence[Row]]
"""Rows for the refs of a batch that decoded, in their order. One may fail even now."""


def run(
    batches: Iterable[Batch],
    forward: Forward,
    sink: Sink,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    progress: Progress | None = None,
) -> Progress:
    """Take every batch through the model into the sink, failures in their places.

    An interruption waits until the batch in flight is written. `progress` is what is done already.
    """
    progress = progress or Progress()
    for batch in batches:
        with interrupts.held():
            rows = forward(batch) if batch.refs else ()
            sink.write(in_order(rows, batch.failures, batch.kept))
            failed = [row for row in rows if isinstance(row, Failure)]
            progress.add(len(rows) - len(failed), [*batch.failures, *failed], batch.kept)
            on_progress(progress)
        interrupts.check()
    return progress


def in_order(
    rows: Iterable[Row], failures: Iterable[Failure], kept: Iterable[Kept] = ()
) -> list[Row]:
    """Results, failures and kept rows of one batch, as the inputs came."""
    return sorted(chain(rows, failures, kept), key=lambda row: row.ref.index)


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
