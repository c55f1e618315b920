"""A sink for selected rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vitcli.records import Failure, Progress, Row, Sink


class SelectSink:
    """Passes on the rows that `takes` accepts, and counts those that have not failed."""

    def __init__(self, sink: Sink, takes: Callable[[Row], bool], progress: Progress) -> None:
        self._sink, self._takes, self._progress = sink, takes, progress

    def write(self, rows: Sequence[Row]) -> None:
        taken = [row for row in rows if self._takes(row)]
        self._sink.write(taken)
        self._progress.selected += sum(not isinstance(row, Failure) for row in taken)

    def finish(self, meta: Mapping[str, object]) -> None:
        self._sink.finish(meta)

    def abort(self) -> None:
        self._sink.abort()
