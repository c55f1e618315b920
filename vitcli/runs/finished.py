"""Find the rows of a finished output in its journal, so that a later run can take them over."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vitcli.errors import OutputError
from vitcli.files import explained, open_regular
from vitcli.records import ImageRef, Kept
from vitcli.runs.journal import journal_of, read_finished, read_header, readline
from vitcli.runs.journal_lines import Damaged, Entry, Whole
from vitcli.runs.output import Output

START_OVER = "--overwrite starts over"


def unreadable(out: Path) -> OutputError:
    """The error for a journal that is missing or damaged."""
    return OutputError(f"{out} has no whole record of its run, {journal_of(out).name}", START_OVER)


class Ahead:
    """A file that is read forward, many bytes at a time. It is open only during such a read, so any
    number of files can be read at once."""

    def __init__(self, path: Path, at_a_time: int) -> None:
        self._path, self._at_a_time = path, at_a_time
        self._start, self._data = 0, b""

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes at `start`. Raises OutputError if the file is too short."""
        at = start - self._start
        if not 0 <= at <= len(self._data) - length:
            try:
                with open_regular(self._path) as file:
                    if start + length > file.seek(0, 2):
                        raise OutputError(f"{self._path} has no row at {start:,}", START_OVER)
                    file.seek(start)
                    self._data = file.read(max(length, self._at_a_time))
            except OSError as error:
                raise OutputError(f"cannot read {self._path}: {error.strerror}") from None
            self._start, at = start, 0
        part = self._data[at : at + length]
        if len(part) < length:
            raise OutputError(f"{self._path} has become shorter while it was read")
        if at + length >= len(self._data):  # all of it is used: free the memory
            self._data = b""
        return part


class Rows:
    """Reads the rows of a finished output. No file stays open."""

    def __init__(self, output: Output, at_a_time: int = 1 << 16) -> None:
        """`at_a_time` is how many bytes of each file are read ahead. Raises OutputError if the
        files have changed since their run."""
        paths, files = output.paths, output.files
        self._out = paths[""]
        self._journal_path = journal_of(self._out)
        header, finished = read_header(self._journal_path), read_finished(self._journal_path)
        if header is None or finished is None:
            raise unreadable(self._out)
        _check_names(list(paths.values()), finished)
        with explained(self._journal_path):
            until = self._journal_path.stat().st_ctime_ns
        named = {os.path.relpath(path, self._out.parent): path for path in paths.values()}
        for whole in finished:
            if not whole.is_at(named[whole.name], until=until):
                raise OutputError(
                    f"{named[whole.name]} has changed since its run",
                    f"restore it; {START_OVER}",
                )
        text = paths[files.text]
        self._text, self._looked_up = Ahead(text, at_a_time), Ahead(text, at_a_time)
        self._array: Ahead | None = None
        if files.data is not None:
            data = paths[files.data]
            self._array = Ahead(data, at_a_time)
            try:
                with explained(data), open_regular(data) as file:
                    self._data_start = output.kind.data_start(file)
            except ValueError:
                raise unreadable(self._out) from None
        itemsize = np.dtype(header.meta.get("array_dtype", "float32")).itemsize
        self._row_bytes = math.prod(header.meta.get("row_shape", ())) * itemsize

    def text(self, entry: Entry) -> bytes:
        """The text of a row. Runs ask for it further ahead than for `row`, so the two read at
        different positions."""
        return self._looked_up.read(entry.start, entry.length)

    def row(self, ref: ImageRef, entry: Entry) -> Kept:
        """The row of an entry, for the input `ref`."""
        text, data = self._text.read(entry.start, entry.length), None
        if self._array is not None and entry.row is not None:
            start = self._data_start + entry.row * self._row_bytes
            data = self._array.read(start, self._row_bytes)
        return Kept(ref, text, data, is_failed=entry.row is None)


def _check_names(files: Sequence[Path], finished: Sequence[Whole]) -> None:
    """Raise OutputError unless the run has written exactly these files."""
    out, *beside = files
    names = sorted(os.path.relpath(path, out.parent) for path in files)
    if sorted(whole.name for whole in finished) != names:
        with_others = f"along with {' and '.join(map(str, beside))}" if beside else "alone"
        raise OutputError(
            f"{out} was not written {with_others}", f"name the same files as before; {START_OVER}"
        )


class Finished(Rows):
    """Finds rows by path. For paths in the order of the rows it reads straight through the journal;
    for a path out of that order it builds an index, of 32 bytes a row."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        with explained(self._journal_path):
            self._journal = open_regular(self._journal_path)
            self._second = open_regular(self._journal_path)  # `kept` reads at another position
        self._number = 0  # the number of the next entry
        self._next = self._read(self._journal)
        self._second_number = 0
        self._offsets: np.ndarray | None = None

    def find(self, path: str) -> tuple[int, Entry] | None:
        """The number and the entry of a path; None if it has no row."""
        if self._next is None or self._next.path != path:
            number = self._number_of(path)
            if number is None:
                return None
            self._seek(number)
        assert self._next is not None
        result = self._number, self._next
        if self._offsets is None:
            self._number += 1
            self._next = self._read(self._journal)
        else:  # the position in the journal has changed
            self._seek(self._number + 1)
        return result

    def entry(self, number: int) -> Entry:
        """The entry with this number."""
        self._seek(number)
        assert self._next is not None
        return self._next

    def kept(self, number: int) -> Entry:
        """The entry with this number, from the journal opened a second time. Ascending numbers are
        read straight through."""
        if number < self._second_number:
            self._second.seek(self._index()[number])
            self._second_number = number
        while (entry := self._read(self._second)) is not None:
            self._second_number += 1
            if self._second_number > number:
                return entry
        raise unreadable(self._out)

    def count(self) -> int:
        """The number of entries."""
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
        """The offset of each entry. The first call also sorts the hashes of the paths."""
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
