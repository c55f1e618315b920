"""Rows into an HTML page, alone or together with another text output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from vitcli.errors import OutputError, printable
from vitcli.records import Attended, Classified, Kept, Maps, Row
from vitcli.sinks.files import PartialFile, Target
from vitcli.sinks.sink import FileSink
from vitcli.sinks.text import LineSink, record_of

PAGE = ".html"


class PageParts(Protocol):
    """The parts of a page, in order."""

    def head(self) -> bytes: ...

    def row(
        self, record: Mapping[str, object], thumbnail: bytes, layers: Sequence[Maps] = ()
    ) -> bytes: ...

    def tail(self) -> bytes: ...

    def record_in(self, row: bytes) -> dict[str, object]: ...


class PageSink(FileSink):
    """Writes the page and, with `lines`, another text output: in files of the same target, or on
    standard output. The page holds the record of each row, from which a resumed run restores the
    lines."""

    def __init__(self, target: Target, page: PageParts, lines: LineSink | None = None) -> None:
        self._page, self._lines = page, lines
        super().__init__(target)

    def _open(self) -> None:
        self._is_alone = not self._target.files  # no file of the target holds the lines
        self._file = self._target.open("" if self._is_alone else PAGE)
        head = self._page.head()
        if not self._file.begins_with(head):
            raise OutputError(
                f"{printable(str(self._file.path))} was begun by another version of vit",
                "its pages differ: start over with --overwrite",
            )
        self._file.write_header(head)

    def write(self, rows: Sequence[Row]) -> list[int]:
        if self._lines is not None:
            self._lines.write([self._read(row) if isinstance(row, Kept) else row for row in rows])
        texts = [row.text if isinstance(row, Kept) else self._text(row) for row in rows]
        self._file.write(b"".join(texts))
        return list(map(len, texts))

    def _text(self, row: Row) -> bytes:
        thumbnail = row.thumbnail if isinstance(row, Classified | Attended) else b""
        maps = row.maps if isinstance(row, Attended) else ()
        return self._page.row(record_of(row), thumbnail, maps)

    def _read(self, row: Kept) -> Kept:
        """The kept row in the form of the other output."""
        assert self._lines is not None
        return replace(row, text=self._lines.line_of(row.ref, self._page.record_in(row.text)))

    def complete(self, meta: Mapping[str, object]) -> list[PartialFile]:
        self._file.write(self._page.tail())
        if self._lines is None:
            return [self._file]
        if self._is_alone:
            self._lines.finish(meta)
            return [self._file]
        return [*self._lines.complete(meta), self._file]
