"""Choose which image of a group is kept, and say why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitcli.tasks.dedupe.files import Files, modified
from vitcli.tasks.dedupe.vectors import Rows

Keep = Literal["largest", "first", "oldest", "newest"]
KEEPS: tuple[Keep, ...] = ("largest", "first", "oldest", "newest")


@dataclass(frozen=True, slots=True)
class Preference:
    """Keys of the rows of an index, (N, K): of two rows, the one with the lower key is kept. `less`
    says of a row what is wrong with it when its first different key is higher, and `more` what is
    good about the one that is kept. Equal keys leave the first row."""

    keys: NDArray[np.float64]
    less: tuple[str, ...]
    more: tuple[str, ...]

    def order(self, rows: Rows) -> Rows:
        """The rows, the most preferred first."""
        keys = self.keys[rows]
        return rows[np.lexsort((rows, *keys.T[::-1]))]

    def why(self, row: int, kept: int) -> str:
        """Why a row is not kept."""
        at = self._differs(row, kept)
        if at is None:
            return "later" if row > kept else "copy"
        return "unreadable" if np.isinf(self.keys[row, at]) else self.less[at]

    def why_kept(self, kept: int, others: Rows) -> str:
        """Why a row is kept: the first key in which another is worse."""
        found = [at for row in others if (at := self._differs(int(row), kept)) is not None]
        return self.more[min(found)] if found else "first"

    def _differs(self, row: int, kept: int) -> int | None:
        different = np.flatnonzero(self.keys[row] != self.keys[kept])
        return int(different[0]) if len(different) else None


def preference(
    keep: Keep, files: Files, rows: Rows, report: Callable[[str, int, int], object]
) -> Preference:
    """Read what `keep` has to know of these rows. A file that cannot be read is the last choice."""
    count = len(files.sizes)
    if keep == "first":
        return Preference(np.empty((count, 0)), (), ())
    if keep == "largest":
        unsized = rows[files.sizes[rows] < 0]
        files.stat([row for row in unsized if int(row) not in files.failures])
        unseen = np.array(
            [r for r in rows if files.pixels[r, 0] < 0 and int(r) not in files.failures], np.int64
        )
        for _ in files.look("size", unseen):
            pass
        keys = np.full((count, 2), np.inf)
        is_seen = files.pixels[:, 0] >= 0
        keys[is_seen, 0] = -files.pixels[is_seen].prod(axis=1)
        keys[is_seen, 1] = -files.sizes[is_seen]
        return Preference(keys, ("smaller", "fewer bytes"), ("largest", "most bytes"))
    keys = np.full((count, 1), np.inf)
    sign = 1.0 if keep == "oldest" else -1.0
    for done, row in enumerate(map(int, rows), 1):
        time = modified(files.name(row))
        if time is None:
            files.lost(row)
        else:
            keys[row, 0] = sign * time
        report("files", done, len(rows))
    return Preference(keys, ("newer" if keep == "oldest" else "older",), (keep,))
