"""Join linked images into groups, by one of three linkages.

Copies (the same bytes or pixels) come as classes, which are never split: a class joins a group as a
whole or not at all. The images have an order of preference, and the first of a group is kept.

star: the most preferred image that is in no group yet is kept, and takes each class that is in no
group yet and whose images are all within the threshold of it; and so on, until every image is
kept or taken. So each image is in one group at most, and a chain A~B~C, with A not like C, is not
one group unless B is kept.
complete: the two most alike groups become one as long as all their images are within the
threshold of each other.
single: whatever is joined by a chain of pairs is one group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitcli.tasks.dedupe.pairs import Pairs
from vitcli.tasks.dedupe.vectors import ROUNDING, Rows, Vectors, gathered

Linkage = Literal["star", "complete", "single"]
LINKAGES: tuple[Linkage, ...] = ("star", "complete", "single")
Neighbours: TypeAlias = Callable[[int, NDArray[np.bool_]], Rows]
"""Returns the rows within the threshold of a row; those that are taken may be left out."""
ROWS_AHEAD, MOST_AHEAD = 16, 256  # rows of which the neighbours are computed at once
BLOCK = 4096


def neighbours_in(pairs: Pairs, count: int) -> Neighbours:
    """Look neighbours up in the pairs of a pass."""
    ends = np.concatenate([pairs.a, pairs.b])
    others = np.concatenate([pairs.b, pairs.a])
    order = np.lexsort((others, ends))
    others = others[order]
    starts = np.searchsorted(ends[order], np.arange(count + 1))
    return lambda row, taken: others[starts[row] : starts[row + 1]]


def neighbours_by_product(
    vectors: Vectors,
    lengths: NDArray[np.float64],
    threshold: float,
    order: Rows,
    report: Callable[[int, int], object],
) -> Neighbours:
    """Compute neighbours in fp64, for more pairs than can be held. They must be asked in `order`,
    and only for rows that are not taken."""
    ready: dict[int, Rows] = {}
    place = {int(row): at for at, row in enumerate(order)}
    ahead = ROWS_AHEAD

    def compute(first: int, taken: NDArray[np.bool_]) -> None:
        nonlocal ahead
        rest = order[place[first] :]
        rest = rest[~taken[rest]]
        asked = rest[:ahead]
        ahead = min(MOST_AHEAD, 2 * ahead)
        rows = _unit64(vectors, lengths, asked)
        parts: list[list[Rows]] = [[] for _ in asked]
        free = np.sort(rest[lengths[rest] > 0])
        for start in range(0, len(free), BLOCK):
            block = free[start : start + BLOCK]
            near = rows @ _unit64(vectors, lengths, block).T >= threshold - ROUNDING
            for at, row in enumerate(asked):
                if lengths[row] > 0:
                    parts[at].append(block[near[at] & (block != row)])
        ready.clear()
        for row, found in zip(asked, parts, strict=True):
            ready[int(row)] = np.concatenate([np.empty(0, np.int64), *found])

    def neighbours(row: int, taken: NDArray[np.bool_]) -> Rows:
        if row not in ready:
            report(place[row], len(order))
            compute(row, taken)
        return ready[row]

    return neighbours


def _unit64(vectors: Vectors, lengths: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    of = lengths[rows]
    return gathered(vectors, rows) / np.where(of > 0, of, 1.0)[:, None]


def star(order: Rows, classes: Rows, neighbours: Neighbours) -> Iterator[Rows]:
    """Yield the groups of two or more, the kept row first, the others in their order.

    order: rows, the most preferred first. classes: for each row of the index the number of its
    class of copies, -1 for a row without copies.
    """
    taken = np.zeros(len(classes), np.bool_)
    is_asked = np.zeros(len(classes), np.bool_)
    is_asked[order] = True
    copies = _members(order, classes)
    for kept in map(int, order):
        if taken[kept]:
            continue
        own = copies.get(int(classes[kept]), np.array([kept]))
        near = neighbours(kept, taken)
        near = near[~taken[near] & is_asked[near]]
        joined = [own]
        alone = near[classes[near] < 0]
        joined.append(alone[alone != kept])
        numbers, counts = np.unique(classes[near][classes[near] >= 0], return_counts=True)
        for number, found in zip(numbers, counts, strict=True):
            members = copies[int(number)]
            if number != classes[kept] and found == len(members):
                joined.append(members)
        group = np.concatenate(joined)
        taken[group] = True
        if len(group) > 1:
            yield np.concatenate([[kept], np.sort(group[group != kept])])


def _members(order: Rows, classes: Rows) -> dict[int, Rows]:
    """The rows of each class."""
    rows = order[classes[order] >= 0]
    rows = rows[np.argsort(classes[rows], kind="stable")]
    numbers, starts = np.unique(classes[rows], return_index=True)
    return dict(zip(map(int, numbers), np.split(rows, starts[1:]), strict=False))


def single(count: int, classes: Rows, pairs: Pairs) -> list[Rows]:
    """The groups of two or more: the connected parts of the graph."""
    parent = np.arange(count)
    copied = np.flatnonzero(classes >= 0)
    firsts = _first_of(copied, classes[copied])
    a = np.concatenate([firsts, pairs.a])
    b = np.concatenate([copied, pairs.b])
    while True:  # the lowest number spreads over each part
        low = np.minimum(parent[a], parent[b])
        before = parent.copy()
        np.minimum.at(parent, parent[a], low)
        np.minimum.at(parent, parent[b], low)
        np.minimum.at(parent, a, low)
        np.minimum.at(parent, b, low)
        parent = parent[parent]
        if np.array_equal(parent, before):
            return _groups(parent)


def _first_of(rows: Rows, numbers: Rows) -> Rows:
    """The first row with the number of each."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return rows[first][inverse]


def complete(count: int, classes: Rows, pairs: Pairs) -> list[Rows]:
    """The groups of two or more in which all are within the threshold of each other."""
    label = np.arange(count)
    copied = np.flatnonzero(classes >= 0)
    label[copied] = _first_of(copied, classes[copied])
    members = {int(n): [int(n)] for n in range(count)}
    for row in copied:
        if label[row] != row:
            members[int(label[row])] += members.pop(int(row))
    links = neighbours_in(pairs, count)
    nobody = np.zeros(count, np.bool_)
    linked: dict[int, set[int]] = {}

    def of(row: int) -> set[int]:
        if row not in linked:
            linked[row] = set(links(row, nobody).tolist())
        return linked[row]

    order = np.lexsort((pairs.b, pairs.a, -np.round(pairs.scores, 12)))
    for at in order:
        first, second = sorted((int(label[pairs.a[at]]), int(label[pairs.b[at]])))
        if first == second:
            continue
        others = members[second]
        if all(of(row).issuperset(others) for row in members[first]):
            members[first] += members.pop(second)
            label[others] = first
    return _groups(label)


def _groups(label: Rows) -> list[Rows]:
    """The rows of each label that two or more have, in the order of their first rows."""
    order = np.argsort(label, kind="stable")
    _, starts = np.unique(label[order], return_index=True)
    return [rows for rows in np.split(order, starts[1:]) if len(rows) > 1] if len(order) else []
