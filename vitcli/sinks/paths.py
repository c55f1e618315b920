"""Paths alone, for another program: `| xargs -0 mv -t cats/`."""

from __future__ import annotations

import os

from vitcli.records import Failure, Row, image_of
from vitcli.sinks.text import LineSink


class PathsSink(LineSink):
    """Writes the path of every image that has not failed, byte for byte, and ends it with a line
    break or NUL."""

    has_suffix = False

    def lines(self, row: Row) -> bytes:
        end = b"\0" if self._format.null else b"\n"
        return b"" if isinstance(row, Failure) else os.fsencode(image_of(row).path) + end
