"""The queue of the rows that a run takes over from an earlier output."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator

from vitcli.records import ImageRef, Kept
from vitcli.runs.finished import Finished


class KeptRows:
    """A queue of old rows: the number and the place of each, in 16 bytes. It may become long,
    because images are listed far ahead of the row that is written."""

    def __init__(self, old: Finished | None) -> None:
        self._old = old
        self._numbers, self._places = array("q"), array("q")

    def add(self, number: int, place: int) -> None:
        """Add a row. The places never decrease."""
        self._numbers.append(number)
        self._places.append(place)

    def before(self, place: int | None, at_once: int) -> Iterator[list[Kept]]:
        """Yield the rows before a place, or all, in lists of `at_once`; then remove them. Raises
        OutputError if a row no longer exists."""
        places = self._places
        count = len(places) if place is None else bisect_left(places, place)
        for start in range(0, count, at_once):
            stop = min(start + at_once, count)
            yield [self._row(number) for number in range(start, stop)]
        del self._numbers[:count], self._places[:count]

    def _row(self, at: int) -> Kept:
        assert self._old is not None
        entry = self._old.kept(self._numbers[at])
        return self._old.row(ImageRef(self._places[at], entry.path, entry.stamp), entry)
