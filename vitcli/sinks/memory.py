"""Rows into a list, for callers in Python, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vitcli.records import ImageRef, Row


class NoSink:
    """Drops every row, and has nothing to finish: the base of the sinks that write no files."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def finish(self, meta: Mapping[str, object]) -> None: ...

    def abort(self) -> None: ...


class ListSink(NoSink):
    """Keeps every row, without the bytes of its image, and the meta of a run that has finished."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.meta: Mapping[str, object] = {}

    def write(self, rows: Sequence[Row]) -> None:
        self.rows += map(released, rows)

    def finish(self, meta: Mapping[str, object]) -> None:
        self.meta = meta


def released(row: Row) -> Row:
    """Return a row without the bytes of its image."""
    is_heavy = isinstance(row.ref, ImageRef) and row.ref.held
    return replace(row, ref=row.ref.released()) if is_heavy else row  # type: ignore[union-attr]
