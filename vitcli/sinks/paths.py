"""Paths alone, for another program: `| xargs -0 mv -t cats/`."""

from __future__ import annotations

import os

from vitcli.records import Failure, Row
from vitcli.sinks.files import Target
from vitcli.sinks.text import LineSink


class PathsSink(LineSink):
    """The path of every image that has not failed, in its own bytes: one a line, or each ended
    by NUL."""

    def __init__(self, target: Target, *, null: bool = False) -> None:
        super().__init__(target)
        self._end = b"\0" if null else b"\n"

    def lines(self, row: Row) -> bytes:
        return b"" if isinstance(row, Failure) else os.fsencode(row.ref.path) + self._end
