"""Compare all rows of an index with each other, in blocks over half of the square.

A pass finds each pair that may reach a score (the floor), and for each row its best score with
another row. Products of fp32 find the candidates; fp64 decides. A pass holds at most MAX_PAIRS: if
there are more, the floor rises, and `floor` says from which score on the pairs are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.interrupts import interrupts
from vitcli.tasks.dedupe.vectors import ROUNDING, Rows, Vectors, cosines, margin, unit

MAX_PAIRS = 4_000_000
TALL, WIDE = 4096, 2048  # rows of the blocks that are multiplied
STRIP = 64
SAME = 1 - 1e-5  # rows with a higher score count as the same vector
NOTHING = -2.0  # the best score of a row without another

Scores = NDArray[np.float32]


@dataclass(slots=True)
class Pass:
    """How far a pass has come. Blocks are numbered along the rows of the square.

    best, other: for each row its best score below SAME, and with which row; (N,).
    same: whether a row has another with the same vector; (N,).
    a, b, scores: the pairs a < b of rows that reach the floor, in fp32.
    """

    floor: float
    best: Scores
    other: NDArray[np.int32]
    same: NDArray[np.bool_]
    done: int = 0
    a: list[NDArray[np.int32]] = field(default_factory=list)
    b: list[NDArray[np.int32]] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    held: int = 0

    @staticmethod
    def start(count: int, floor: float) -> Pass:
        """The beginning of a pass over `count` rows."""
        best = np.full(count, NOTHING, np.float32)
        return Pass(floor, best, np.zeros(count, np.int32), np.zeros(count, np.bool_))

    def is_complete(self, threshold: float, width: int) -> bool:
        """Whether every pair that reaches the threshold has been kept."""
        return self.floor <= threshold - margin(width)

    def join(self) -> None:
        """Join the parts of the pairs into one."""
        self.a, self.b = [_joined(self.a, np.int32)], [_joined(self.b, np.int32)]
        self.scores = [_joined(self.scores, np.float32)]


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of rows and their scores in fp64, in the order of a, then b; a < b."""

    a: Rows
    b: Rows
    scores: NDArray[np.float64]

    @property
    def count(self) -> int:
        return len(self.a)


def total_steps(count: int) -> int:
    """The number of row comparisons of a pass, a half of the square."""
    return sum(tall * wide for _, _, tall, wide in _blocks(count))


def _blocks(count: int) -> Iterator[tuple[int, int, int, int]]:
    """The blocks on and above the diagonal: first row, first column, rows, columns."""
    for i in range(0, count, TALL):
        for j in range(i, count, WIDE):
            wide = min(WIDE, count - j)
            yield i, j, min(TALL, j - i + wide, count - i), wide


def compare(
    vectors: Vectors,
    lengths: NDArray[np.float64],
    state: Pass,
    report: Callable[[int, int], object],
    save: Callable[[Pass], object] = lambda state: None,
) -> None:
    """Finish a pass. `report` gets the comparisons done and their total; `save` is called between
    two blocks. Interrupted is raised between two blocks, too, so that the state is consistent."""
    count = vectors.count
    total, so_far, rows, at = total_steps(count), 0, np.empty((0, 0), np.float32), -1
    product = np.empty(min(TALL, count) * min(WIDE, count), np.float32)
    for number, (i, j, tall, wide) in enumerate(_blocks(count)):
        so_far += tall * wide
        if number < state.done:
            continue
        with interrupts.held():
            if at != i:
                stop = min(i + TALL, count)
                rows, at = unit(vectors.read(i, stop), lengths[i:stop]), i
            columns = unit(vectors.read(j, j + wide), lengths[j : j + wide])
            scores = product[: tall * wide].reshape(tall, wide)
            np.matmul(rows[:tall], columns.T, out=scores)
            _take(state, scores, i, j, lengths)
            state.done = number + 1
        interrupts.check()
        save(state)
        report(so_far, total)


def _take(state: Pass, scores: Scores, i: int, j: int, lengths: NDArray[np.float64]) -> None:
    """Take what a block of scores has to tell; it is changed.  (n, m)"""
    tall, wide = scores.shape
    for row in range(j - i, tall):  # each pair once, and no row with itself
        scores[row, : row - (j - i) + 1] = NOTHING
    scores[np.flatnonzero(lengths[i : i + tall] == 0)] = NOTHING
    scores[:, np.flatnonzero(lengths[j : j + wide] == 0)] = NOTHING
    tops = scores.max(axis=1)
    rows = np.flatnonzero(tops >= min(state.floor, SAME))
    if len(rows):
        _collect(state, scores, rows, i, j)
        tops = scores.max(axis=1)
    better = _improve(state, tops, i)
    places = (int(scores[row].argmax()) for row in better)
    state.other[i + better] = np.fromiter(places, np.int32, len(better)) + j
    strips = _strips(scores)
    better = _improve(state, strips.max(axis=0), j)
    state.other[j + better] = _tops_of(scores, strips, better) + i


def _collect(state: Pass, scores: Scores, rows: Rows, i: int, j: int) -> None:
    """Add the pairs of a block that reach the floor, and hide those of the same vector."""
    step = max(1, (1 << 21) // scores.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        block = scores[part]
        found = block >= state.floor
        count = int(np.count_nonzero(found))
        if state.held + count > MAX_PAIRS:
            _raise_floor(state, block[found])
            found = block >= state.floor
            count = int(np.count_nonzero(found))
        if count:
            at = np.nonzero(found)
            state.a.append((part[at[0]] + i).astype(np.int32))
            state.b.append((at[1] + j).astype(np.int32))
            state.scores.append(block[at])
            state.held += count
        alike = block >= SAME
        if alike.any():
            state.same[i + part[alike.any(axis=1)]] = True
            state.same[j + np.flatnonzero(alike.any(axis=0))] = True
            block[alike] = NOTHING
            scores[part] = block


def _raise_floor(state: Pass, more: Scores) -> None:
    """Raise the floor until half of the room is free, and drop the pairs below it."""
    state.join()
    scores = np.concatenate([state.scores[0], more])
    place = len(scores) - MAX_PAIRS // 2
    floor = np.nextafter(np.partition(scores, place)[place], np.float32(2))
    state.floor = float(floor)
    kept = state.scores[0] >= floor
    state.a, state.b = [state.a[0][kept]], [state.b[0][kept]]
    state.scores = [state.scores[0][kept]]
    state.held = len(state.scores[0])


def _improve(state: Pass, tops: Scores, start: int) -> Rows:
    """Take the better scores of the rows from `start`. Return which have improved."""
    before = state.best[start : start + len(tops)]
    better = np.flatnonzero(tops > before)
    before[better] = tops[better]
    return better


def _strips(scores: Scores) -> Scores:
    """The highest score of each column in strips of STRIP rows.  (n, m) -> (n / STRIP, m)"""
    whole = len(scores) // STRIP * STRIP
    strips = scores[:whole].reshape(-1, STRIP, scores.shape[1]).max(axis=1)
    return strips if whole == len(scores) else np.vstack([strips, scores[whole:].max(axis=0)])


def _tops_of(scores: Scores, strips: Scores, columns: Rows) -> Rows:
    """The row of the highest score in each of these columns; a column is slow to read whole."""
    firsts = strips[:, columns].argmax(axis=0) * STRIP
    rows = np.minimum(firsts + np.arange(STRIP)[:, None], len(scores) - 1)
    tops: Rows = firsts + scores[rows, columns].argmax(axis=0)
    return tops


def exact(vectors: Vectors, lengths: NDArray[np.float64], state: Pass, threshold: float) -> Pairs:
    """The pairs of a pass that reach the threshold in fp64."""
    state.join()
    near = state.scores[0] >= threshold - margin(vectors.width)
    a, b = (part[0][near].astype(np.int64) for part in (state.a, state.b))
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    scores = cosines(vectors, lengths, a, b)
    reached = scores >= threshold - ROUNDING
    return Pairs(a[reached], b[reached], scores[reached])


def best_scores(vectors: Vectors, lengths: NDArray[np.float64], state: Pass) -> NDArray[np.float64]:
    """The best score of each row with another, in fp64: 1 where another has the same vector, and
    NaN where nothing can be compared.  -> (N,)"""
    rows = np.flatnonzero(state.best > NOTHING)
    scores = np.full(vectors.count, np.nan)
    scores[rows] = cosines(vectors, lengths, rows, state.other[rows].astype(np.int64))
    return scores
