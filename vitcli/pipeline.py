"""The one loop: batches → rows → sink. Every input gives exactly one row, in input order.

What differs between the commands is only `Forward`, the function from a batch to its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TypeAlias

from vitcli.records import Batch, Failure, Progress, Row, Sink

Forward: TypeAlias = Callable[[Batch], Sequence[Row]]
"""Rows for the refs of a batch that decoded, in their order."""


def run(
    batches: Iterable[Batch],
    forward: Forward,
    sink: Sink,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Take every batch through the model into the sink, failures in their places."""
    progress = Progress()
    for batch in batches:
        rows = forward(batch) if batch.refs else ()
        sink.write(in_order(rows, batch.failures))
        progress.add(len(rows), batch.failures)
        on_progress(progress)
    return progress


def in_order(rows: Iterable[Row], failures: Iterable[Failure]) -> list[Row]:
    """Results and failures of one batch, as the inputs came."""
    return sorted(chain(rows, failures), key=lambda row: row.ref.index)
