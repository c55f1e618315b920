"""A finished output and its journal, as a store of rows that need not be computed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vitcli.errors import OutputError
from vitcli.records import ImageRef, Kept
from vitcli.runs.journal import Entry, read_finished, read_header
from vitcli.sinks.files import explained


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
                with self._path.open("rb") as file:
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
        self, journal: Path, data_start: Callable[[BinaryIO], int] | None, at_a_time: int = 1 << 16
    ) -> None:
        """`at_a_time` is how many bytes are read ahead of each file. Raises OutputError where the
        files are no longer those that the journal tells of."""
        files = read_finished(journal) or []
        paths = [journal.parent / name for _, name, _ in files]
        for path, (_, _, size) in zip(paths, files, strict=True):
            if not path.is_file() or path.stat().st_size != size:
                raise OutputError(f"{path} is not as its run left it", "--overwrite starts again")
        self._text = Ahead(paths[0 if data_start else -1], at_a_time)
        self._array = Ahead(paths[-1], at_a_time) if data_start else None
        self._data_start = 0
        if data_start:
            with explained(journal), paths[-1].open("rb") as file:
                self._data_start = data_start(file)
        meta = read_header(journal).get("meta", {})
        itemsize = np.dtype(meta.get("array_dtype", "float32")).itemsize
        self._row_bytes = math.prod(meta.get("row_shape", ())) * itemsize

    def row(self, ref: ImageRef, entry: Entry) -> Kept:
        """The row itself, for another place in a run."""
        text, data = self._text.read(entry.start, entry.length), None
        if self._array is not None and entry.row is not None:
            start = self._data_start + entry.row * self._row_bytes
            data = self._array.read(start, self._row_bytes)
        return Kept(ref, text, data, is_failed=entry.row is None)


class Finished(Rows):
    """Its rows by path. Asked in the order in which they were written it reads straight through
    the journal; for a path out of that order it makes an index, of 16 bytes a row."""

    def __init__(self, journal: Path, data_start: Callable[[BinaryIO], int] | None) -> None:
        super().__init__(journal, data_start)
        with explained(journal):
            self._journal = journal.open("rb")
        self._number = 0  # of the entry that comes next
        self._next = self._read()
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
            self._next = self._read()
        else:  # the index has moved the file
            self._seek(self._number + 1)
        return found

    def entry(self, number: int) -> Entry:
        """The entry of a number."""
        self._seek(number)
        assert self._next is not None
        return self._next

    def count(self) -> int:
        """How many entries there are."""
        has_read_all = self._offsets is None and self._next is None
        return self._number if has_read_all else len(self._index())

    def close(self) -> None:
        self._journal.close()

    def _read(self) -> Entry | None:
        for line in iter(self._journal.readline, b""):
            if line.startswith(b"["):
                return Entry.of(line)
        return None

    def _seek(self, number: int) -> None:
        offsets = self._index()
        self._number = number
        if number < len(offsets):
            self._journal.seek(offsets[number])
            self._next = self._read()
        else:
            self._next = None

    def _index(self) -> np.ndarray:
        """Where each entry begins; and the entries in the order of the hashes of their paths."""
        if self._offsets is None:
            pairs = np.fromiter(self._hashed(), np.dtype((np.int64, 2)))
            self._offsets, hashes = pairs[:, 0], pairs[:, 1]
            self._order = np.argsort(hashes, kind="stable")
            self._hashes = hashes[self._order]
        return self._offsets

    def _hashed(self) -> Iterator[tuple[int, int]]:
        self._journal.seek(0)
        offset = 0
        for line in self._journal:
            if line.startswith(b"["):
                yield offset, hash(Entry.of(line).path)
            offset += len(line)

    def _number_of(self, path: str) -> int | None:
        offsets, wanted = self._index(), hash(path)
        place = int(np.searchsorted(self._hashes, wanted))
        while place < len(offsets) and self._hashes[place] == wanted:
            number = int(self._order[place])
            self._journal.seek(offsets[number])
            entry = self._read()
            if entry is not None and entry.path == path:
                return number
            place += 1
        return None
