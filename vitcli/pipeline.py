"""The main loop: batches → rows → sink. Every input has exactly one row, in input order.

The commands differ only in `Forward`, the function from a batch to its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TypeAlias

from vitcli.interrupts import interrupts
from vitcli.records import Batch, Failure, Progress, Row, Sink

Forward: TypeAlias = Callable[[Batch], Sequence[Row]]
"""Maps a batch to one row for each of its refs, in any order; a row may be a Failure."""


def run(
    batches: Iterable[Batch],
    forward: Forward,
    sink: Sink,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    progress: Progress | None = None,
) -> Progress:
    """Run `forward` on each batch and write its rows to the sink, failures in their places.

    An interruption waits until the current batch is written. `progress` starts with the rows of an
    earlier run.
    """
    progress = progress or Progress()
    for batch in batches:
        with interrupts.held():
            rows = rows_of(batch, forward)
            sink.write(rows)
            count(progress, rows)
            on_progress(progress)
        interrupts.check()
    return progress


def rows_of(batch: Batch, forward: Forward) -> list[Row]:
    """Compute the rows of a batch, and return them in input order, failures among them."""
    return in_order(forward(batch) if batch.refs else (), batch.failures)


def count(progress: Progress, rows: Sequence[Row]) -> None:
    """Add rows to the progress of a run."""
    failed = [row for row in rows if isinstance(row, Failure)]
    progress.add(len(rows) - len(failed), failed)


def in_order(rows: Iterable[Row], failures: Iterable[Failure]) -> list[Row]:
    """Sort the results and failures of a batch by input."""
    return sorted(chain(rows, failures), key=lambda row: row.ref.index)
