"""Paths alone, for another program: `| xargs -0 mv -t cats/`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vitcli.records import Failure, Row
from vitcli.sinks.files import Target
from vitcli.sinks.format import JSONL, Format
from vitcli.sinks.text import LineSink


class PathsSink(LineSink):
    """Writes the path of every image that has not failed, byte for byte, and ends it with a line
    break or NUL."""

    has_suffix = False

    def __init__(
        self, target: Target, meta: Mapping[str, Any] | None = None, format: Format = JSONL
    ) -> None:
        super().__init__(target, meta, format)
        self._end = b"\0" if format.null else b"\n"

    def lines(self, row: Row) -> bytes:
        return b"" if isinstance(row, Failure) else os.fsencode(row.ref.path) + self._end
