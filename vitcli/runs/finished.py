"""A finished output and its journal, as a store of rows that need not be computed again."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vitcli.errors import OutputError
from vitcli.files import explained, open_regular
from vitcli.records import ImageRef, Kept
from vitcli.runs.journal import (
    Damaged,
    Entry,
    Whole,
    journal_of,
    read_finished,
    read_header,
    readline,
)

START_AGAIN = "--overwrite starts again"


def unreadable(out: Path) -> OutputError:
    """A journal that is not as a run leaves it."""
    return OutputError(f"{out} has no whole record of its run, {journal_of(out).name}", START_AGAIN)


class Ahead:
    """A file that is read forward, and is open only while some bytes are read ahead: there may be
    any number of them."""

    def __init__(self, path: Path, at_a_time: int) -> None:
        self._path, self._at_a_time = path, at_a_time
        self._start, self._data = 0, b""

    def read(self, start: int, length: int) -> bytes:
        """Raises OutputError."""
        at = start - self._start
        if not 0 <= at <= len(self._data) - length:
            try:
                with open_regular(self._path) as file:
                    if start + length > file.seek(0, 2):
                        raise OutputError(f"{self._path} has no row at {start:,}", START_AGAIN)
                    file.seek(start)
                    self._data = file.read(max(length, self._at_a_time))
            except OSError as error:
                raise OutputError(f"cannot read {self._path}: {error.strerror}") from None
            self._start, at = start, 0
        found = self._data[at : at + length]
        if len(found) < length:
            raise OutputError(f"{self._path} has become shorter while it was read")
        if at + length >= len(self._data):  # nothing is kept of what is larger
            self._data = b""
        return found


class Rows:
    """The rows of a finished output, by its journal. They are found without open files."""

    def __init__(
        self,
        out: Path,
        beside: Sequence[Path],
        data_start: Callable[[BinaryIO], int] | None,
        at_a_time: int = 1 << 16,
    ) -> None:
        """`beside` are the files that belong to it; `at_a_time` is how many bytes are read ahead
        of each. Raises OutputError where the files are no longer those that its run has left."""
        self._out, self._journal_path = out, journal_of(out)
        header, finished = read_header(self._journal_path), read_finished(self._journal_path)
        if header is None or finished is None:
            raise unreadable(out)
        paths = _ours([out, *beside], finished)
        if data_start and (paths[0], paths[-1]) != (beside[0], out):
            raise unreadable(out)
        with explained(self._journal_path):
            until = self._journal_path.stat().st_ctime_ns
        for path, whole in zip(paths, finished, strict=True):
            if not whole.is_at(path, until=until):
                raise OutputError(
                    f"{path} is not as its run left it", f"restore it, or {START_AGAIN}"
                )
        self._text, self._looked_up = (
            Ahead(paths[0 if data_start else -1], at_a_time) for _ in range(2)
        )
        self._array = Ahead(paths[-1], at_a_time) if data_start else None
        self._data_start = 0
        if data_start:
            try:
                with explained(out), open_regular(out) as file:
                    self._data_start = data_start(file)
            except ValueError:
                raise unreadable(out) from None
        itemsize = np.dtype(header.meta.get("array_dtype", "float32")).itemsize
        self._row_bytes = math.prod(header.meta.get("row_shape", ())) * itemsize

    def text(self, entry: Entry) -> bytes:
        """The text of a row, looked up ahead of the rows that are taken over."""
        return self._looked_up.read(entry.start, entry.length)

    def row(self, ref: ImageRef, entry: Entry) -> Kept:
        """The row itself, for another place in a run."""
        text, data = self._text.read(entry.start, entry.length), None
        if self._array is not None and entry.row is not None:
            start = self._data_start + entry.row * self._row_bytes
            data = self._array.read(start, self._row_bytes)
        return Kept(ref, text, data, is_failed=entry.row is None)


def _ours(files: Sequence[Path], finished: Sequence[Whole]) -> list[Path]:
    """The files as the journal names them, which are ours. Raises OutputError."""
    out, *beside = files
    named = {os.path.relpath(path, out.parent): path for path in files}
    names = [whole.name for whole in finished]
    if sorted(names) != sorted(named):
        raise OutputError(
            f"{out} was not written along with {' and '.join(map(str, beside)) or 'nothing else'}",
            f"do as before, or {START_AGAIN}",
        )
    return [named[name] for name in names]


class Finished(Rows):
    """Finds rows by path. Asked in the order in which they were written it reads straight through
    the journal; for a path out of that order it makes an index, of 32 bytes a row."""

    def __init__(
        self, out: Path, beside: Sequence[Path], data_start: Callable[[BinaryIO], int] | None
    ) -> None:
        super().__init__(out, beside, data_start)
        with explained(self._journal_path):
            self._journal = open_regular(self._journal_path)
            self._second = open_regular(self._journal_path)  # follows behind the first
        self._number = 0  # of the entry that comes next
        self._next = self._read(self._journal)
        self._second_number = 0
        self._offsets: np.ndarray | None = None

    def find(self, path: str) -> tuple[int, Entry] | None:
        """The entry of a path, and its number."""
        if self._next is None or self._next.path != path:
            number = self._number_of(path)
            if number is None:
                return None
            self._seek(number)
        assert self._next is not None
        found = self._number, self._next
        if self._offsets is None:
            self._number += 1
            self._next = self._read(self._journal)
        else:  # the index has moved the file
            self._seek(self._number + 1)
        return found

    def entry(self, number: int) -> Entry:
        """The entry of a number."""
        self._seek(number)
        assert self._next is not None
        return self._next

    def kept(self, number: int) -> Entry:
        """The entry of a number, which `find` has passed. Rows that are asked for in their order
        are read straight through."""
        if number < self._second_number:
            self._second.seek(self._index()[number])
            self._second_number = number
        while (entry := self._read(self._second)) is not None:
            self._second_number += 1
            if self._second_number > number:
                return entry
        raise unreadable(self._out)

    def count(self) -> int:
        """How many entries there are."""
        has_read_all = self._offsets is None and self._next is None
        return self._number if has_read_all else len(self._index())

    def close(self) -> None:
        self._journal.close()
        self._second.close()

    def _read(self, journal: BinaryIO) -> Entry | None:
        try:
            while line := readline(journal):
                if line.startswith(b"["):
                    return Entry.of(line)
        except Damaged:
            raise unreadable(self._out) from None
        return None

    def _seek(self, number: int) -> None:
        offsets = self._index()
        self._number = number
        if number < len(offsets):
            self._journal.seek(offsets[number])
            self._next = self._read(self._journal)
        else:
            self._next = None

    def _index(self) -> np.ndarray:
        """Where each entry begins; and the entries in the order of the hashes of their paths."""
        if self._offsets is None:
            try:
                pairs = np.fromiter(self._hashed(), np.dtype((np.int64, 2)))
            except Damaged:
                raise unreadable(self._out) from None
            self._offsets, hashes = pairs[:, 0], pairs[:, 1]
            self._order = np.argsort(hashes, kind="stable")
            self._hashes = hashes[self._order]
        return self._offsets

    def _hashed(self) -> Iterator[tuple[int, int]]:
        self._journal.seek(0)
        offset = 0
        while line := readline(self._journal):
            if line.startswith(b"["):
                yield offset, hash(Entry.of(line).path)
            offset += len(line)

    def _number_of(self, path: str) -> int | None:
        offsets, wanted = self._index(), hash(path)
        place = int(np.searchsorted(self._hashes, wanted))
        while place < len(offsets) and self._hashes[place] == wanted:
            number = int(self._order[place])
            self._journal.seek(offsets[number])
            entry = self._read(self._journal)
            if entry is not None and entry.path == path:
                return number
            place += 1
        return None
