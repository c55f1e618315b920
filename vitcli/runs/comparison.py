"""The inputs of a run, compared with the rows of earlier runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vitcli.errors import OutputError, printable
from vitcli.records import ImageRef
from vitcli.runs.finished import Finished
from vitcli.runs.journal_lines import NOWHERE, Entry
from vitcli.runs.output import Output

MAX_NAMED = 3  # images that failed in an earlier run


@dataclass(frozen=True, slots=True)
class Survey:
    """How a finished output compares with the inputs.

    `is_same`: its rows are those of the inputs, in the same order. `fresh` counts the images to
    compute, `rows` the rows, `failed` those that failed, `selected` the other rows with a text.
    `kept_failures` has the paths of the failed rows that stay.
    """

    is_same: bool
    fresh: int
    rows: int
    failed: int
    selected: int
    kept_failures: FailedPaths


@dataclass(slots=True)
class FailedPaths:
    """The paths of the images that failed in an earlier run: how many, and the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, path: str) -> None:
        """Count a path."""
        self.count += 1
        if len(self.first) < MAX_NAMED:
            self.first.append(path)


class Comparison:
    """Finds the row of a finished output, `old`, for each input."""

    def __init__(
        self,
        output: Output,
        list_refs: Callable[[], Iterator[ImageRef]],
        has_unlisted: Callable[[], bool],
    ) -> None:
        self._output, self._resuming = output, output.resuming
        self._list_refs, self._has_unlisted = list_refs, has_unlisted
        self._keeps_missing = self._resuming.keep_missing
        self._present = bytearray()  # for each old row: whether its path is listed
        stats = map(_stat, output.paths.values())
        self._own = {(stat.st_dev, stat.st_ino) for stat in stats if stat is not None}

    def survey(self, old: Finished) -> Survey:
        """Compare all inputs with the finished output, before `entries` is called."""
        fresh, reached, is_same, failed, selected = 0, 0, True, 0, 0
        kept_failures = FailedPaths()
        for ref in self._stamped():
            number, entry = old.find(ref.path) or (-1, None)
            is_kept = self.serves(entry, ref, old.text)
            fresh += not is_kept
            if is_kept and entry is not None and entry.row is None:
                kept_failures.add(ref.path)
            is_same = (
                is_same and entry is not None and number >= reached and entry.place == ref.index
            )
            reached = number + 1
            if entry is not None:
                failed += entry.row is None
                selected += entry.row is not None and entry.length > 0
                self._present.extend(bytes(max(0, number + 1 - len(self._present))))
                self._present[number] = 1
        count = old.count()
        self._present.extend(bytes(count - len(self._present)))
        # The rows of a folder that cannot be listed are kept.
        self._keeps_missing = self._resuming.keep_missing or self._has_unlisted()
        is_same = is_same and (self._keeps_missing or all(self._present))
        if is_same and not fresh:
            gone = (number for _, number in self._missing(old, 0, count, -1))
            failed += sum(old.entry(number).row is None for number in gone)
        return Survey(is_same, fresh, count, failed, selected, kept_failures)

    def entries(self, old: Finished | None) -> Iterator[tuple[ImageRef, int | None]]:
        """Yield every input, with the number of its old row, or None if there is no valid one.
        Between them, yield the old rows that are kept although their images are gone."""
        reached, index = 0, -1
        for ref in self._stamped():
            row = old.find(ref.path) if old is not None else None
            if old is None or row is None:
                yield ref, None
            else:
                number, entry = row
                yield from self._missing(old, reached, number, index)
                reached = max(reached, number + 1)
                yield ref, number if self.serves(entry, ref, old.text) else None
            index = ref.index
        if old is not None:
            yield from self._missing(old, reached, old.count(), index)

    def serves(self, entry: Entry | None, ref: ImageRef, text: Callable[[Entry], bytes]) -> bool:
        """Whether an old row is still valid: the image is unchanged, the files that the row names
        exist, and the row is not a failure that is to be tried again."""
        if entry is None or (self._resuming.retry_failed and entry.row is None):
            return False
        if entry.stamp != ref.stamp:
            return False
        has_files = self._output.has_files
        return has_files is None or has_files(ref, text(entry))

    def _missing(
        self, old: Finished, start: int, stop: int, index: int
    ) -> Iterator[tuple[ImageRef, int]]:
        """The old rows from `start` to `stop` that are kept although their images are gone. Each is
        placed after the input `index`."""
        for number in range(start, stop if self._keeps_missing else start):
            if not self._present[number]:
                entry = old.entry(number)
                yield ImageRef(index, entry.path, entry.stamp), number

    def _stamped(self) -> Iterator[ImageRef]:
        """Yield the inputs with their stamps. Raises OutputError for one that is also an output."""
        for ref in self._list_refs():
            if ref.stamp is not None:
                yield ref
                continue
            status = _stat(ref.file)
            if status is not None and (status.st_dev, status.st_ino) in self._own:
                raise OutputError(
                    f"{printable(ref.file)} is an input, and would be overwritten",
                    "write to another file",
                )
            stamp = NOWHERE
            if status is not None:
                stamp = status.st_size, status.st_mtime_ns
            if ref.member is not None:
                version = ref.member.version
                stamp = ref.member.size, stamp[1] if version is None else version[3]
            yield replace(ref, stamp=stamp)


def _stat(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None
