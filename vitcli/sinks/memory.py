"""Rows into a list, for callers in Python, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vitcli.records import Row


class NoSink:
    """Drops every row, and has nothing to finish: the base of the sinks that write no files."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def finish(self, meta: Mapping[str, object]) -> None: ...

    def abort(self) -> None: ...


class ListSink(NoSink):
    """Keeps every row, and the meta of the run once it has finished."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.meta: Mapping[str, object] = {}

    def write(self, rows: Sequence[Row]) -> None:
        self.rows += rows

    def finish(self, meta: Mapping[str, object]) -> None:
        self.meta = meta
