"""Rows into an HTML page, alone or together with another text output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vitcli.records import Attended, Classified, ErrorType, Failure, Kept, Maps, Prediction, Row
from vitcli.sinks.files import PartialFile, Target
from vitcli.sinks.text import LineSink, record_of

PAGE = ".html"


class Page(Protocol):
    """The parts of a page, in order."""

    def head(self) -> bytes: ...

    def row(
        self, record: Mapping[str, object], thumbnail: bytes, layers: Sequence[Maps] = ()
    ) -> bytes: ...

    def tail(self) -> bytes: ...

    def record_in(self, row: bytes) -> dict[str, object]: ...


class PageSink:
    """Writes the page and, with `beside`, an output of lines, in a file of the same target or on
    standard output. The page holds the record of each row, so a resumed run restores the lines from
    it."""

    def __init__(self, target: Target, page: Page, beside: LineSink | None = None) -> None:
        self._target = target
        self._page = page
        self._beside = beside
        is_alone = beside is None or beside.target is not target
        self._file: PartialFile = target.open() if is_alone else target.open_beside(PAGE)
        self._file.write_header(page.head())

    def write(self, rows: Sequence[Row]) -> list[int]:
        if self._beside is not None:
            self._beside.write([self._read(row) if isinstance(row, Kept) else row for row in rows])
        texts = [row.text if isinstance(row, Kept) else self._line(row) for row in rows]
        self._file.write(b"".join(texts))
        return list(map(len, texts))

    def _line(self, row: Row) -> bytes:
        thumbnail = row.thumbnail if isinstance(row, Classified | Attended) else b""
        maps = row.maps if isinstance(row, Attended) else ()
        return self._page.row(record_of(row), thumbnail, maps)

    def _read(self, row: Kept) -> Row:
        """The kept row, as the output of lines expects it."""
        record: Mapping[str, Any] = self._page.record_in(row.text) if row.text else {}
        if "error" in record:
            error = record["error"]
            return Failure(row.ref, ErrorType(error["type"]), error["message"])
        if "predictions" in record and "files" not in record:
            return Classified(row.ref, tuple(Prediction(**p) for p in record["predictions"]))
        assert self._beside is not None
        return Kept(row.ref, self._beside.line_of(record), None, row.is_failed)

    def finish(self, meta: Mapping[str, object]) -> None:
        self._file.write(self._page.tail())
        files = [self._file]
        if self._beside is not None and self._beside.target is self._target:
            files.insert(0, self._beside.file)
        elif self._beside is not None:
            self._beside.finish(meta)
        self._target.finish(*files)

    def abort(self) -> None:
        self._file.abort()
        if self._beside is not None:
            self._beside.abort()
