"""Find the groups of twins in an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial as with_first

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import InputError, Interrupted, UsageError, printable
from vitcli.indexes.index import Index
from vitcli.jobs.choices import check_choice, check_number
from vitcli.jobs.job import Reporter
from vitcli.jobs.named import is_here
from vitcli.tasks.dedupe.distribution import Bin, as_text, bins_of
from vitcli.tasks.dedupe.files import Files, identity, same_bytes, same_pixels
from vitcli.tasks.dedupe.keep import KEEPS, Keep, Preference, preference
from vitcli.tasks.dedupe.known import Known
from vitcli.tasks.dedupe.links import (
    LINKAGES,
    Linkage,
    complete,
    neighbours_by_product,
    neighbours_in,
    single,
    star,
)
from vitcli.tasks.dedupe.pairs import MAX_PAIRS, Pairs, Pass, best_scores, compare, exact
from vitcli.tasks.dedupe.partial import Partial
from vitcli.tasks.dedupe.threshold import LOWEST, Threshold, chosen, learnt
from vitcli.tasks.dedupe.twin import KINDS, SCORE_DECIMALS, Kind, Twin
from vitcli.tasks.dedupe.vectors import Rows, cosines, lengths, margin

NO_PAIRS = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
ELSEWHERE = "run it in the folder in which vit embed ran"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options that say what twins are, and which one is kept. Without `kinds`: all that can be
    told from here; without `keep`: the largest, if its files are here; without `threshold`: one is
    chosen from the scores, or from `known` pairs of paths."""

    threshold: float | None = None
    kinds: tuple[Kind, ...] | None = None
    linkage: Linkage = "star"
    keep: Keep | None = None
    known: tuple[Known, ...] = ()

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_number("--threshold", self.threshold, 0, 1, "a cosine from 0 to 1, such as 0.98")
        if self.kinds is not None and not self.kinds:
            raise UsageError("no kind of twins is given", f"choose from {', '.join(KINDS)}")
        for kind in self.kinds or ():
            check_choice("--kind", kind, KINDS)
        check_choice("--linkage", self.linkage, LINKAGES)
        if self.keep is not None:
            check_choice("--keep", self.keep, KEEPS)
        if self.threshold is not None and self.known:
            raise UsageError(
                "--threshold and --like-pairs are both given", "known pairs set the threshold"
            )
        if self.kinds is not None and "near" not in self.kinds:
            for name, value in (("--threshold", self.threshold), ("--like-pairs", self.known)):
                if value not in (None, ()):
                    raise UsageError(f"{name} has no effect without --kind near", "leave it out")


@dataclass(frozen=True, slots=True)
class Found:
    """The groups of an index, each with the kept one first, and how they were found."""

    groups: list[list[Twin]]
    kinds: tuple[Kind, ...]
    keep: Keep
    files: Files
    threshold: Threshold | None
    bins: list[Bin]

    @property
    def twins(self) -> list[Twin]:
        """The members of all groups."""
        return [twin for group in self.groups for twin in group]


@dataclass(slots=True)
class _Compared:
    """The rows of an index, compared with each other."""

    lengths: NDArray[np.float64]
    state: Pass | None = None
    threshold: Threshold | None = None
    bins: list[Bin] | None = None


def find(
    index: Index, options: Options, files: Files, partial: Partial, reporter: Reporter
) -> Found:
    """Find the groups. `files` gets the failures of files that cannot be read.

    Raises InputError if the files of an explicit kind or choice are all elsewhere, UsageError if
    there are more pairs than a linkage can hold.
    """
    kinds, keep = _possible(index, options, reporter)
    done = _Compared(lengths(index))
    with _resumable(partial, done):
        if "near" in kinds:
            _compare(index, options, done, partial, reporter)
        rows = np.arange(index.count)
        nothing = np.full(index.count, -1, np.int64)
        bytes_, pixels = nothing, nothing
        if "bytes" in kinds or "pixels" in kinds:
            bytes_ = same_bytes(files, rows)
        if "pixels" in kinds:
            pixels = same_pixels(files, rows, bytes_)
        if "bytes" not in kinds:  # they have only spared the decoding of copies
            bytes_ = nothing
        classes = np.where(pixels >= 0, pixels, np.where(bytes_ >= 0, bytes_ + index.count, -1))
        pairs = _pairs(index, options, done)
        asked = _without_aliases(index, _involved(done, pairs, classes, index), reporter)
        prefer = preference(keep, files, asked, reporter.steps)
        groups = _linked(index, options, done, pairs, classes, prefer.order(asked), reporter)
        of_kind: list[tuple[Kind, Rows]] = [("bytes", bytes_), ("pixels", pixels)]
        strong = [pair for pair in of_kind if pair[0] in kinds]
        twins = list(_twins(index, groups, strong, prefer, done.lengths))
    return Found(twins, kinds, keep, files, done.threshold, done.bins or [])


def _possible(index: Index, options: Options, reporter: Reporter) -> tuple[tuple[Kind, ...], Keep]:
    """The kinds to look for, and the choice of the kept one, given where the files are."""
    kinds, keep = options.kinds or KINDS, options.keep or "largest"
    reads_files = keep != "first" or kinds != ("near",)
    if not reads_files or not index.count or any(map(is_here, index.iter_names())):
        return kinds, keep
    gone = f"{printable(index.name(0))} is not found from here, nor is any other file of the index"
    if options.kinds is not None and kinds != ("near",):
        raise InputError(f"{gone}: --kind {','.join(kinds)} reads them", ELSEWHERE)
    if options.keep not in (None, "first"):
        raise InputError(f"{gone}: --keep {keep} reads them", f"{ELSEWHERE}, or use --keep first")
    only = "only near twins are found, and " if options.kinds is None else ""
    reporter.note(f"{gone}: {only}the first of a group is kept ({ELSEWHERE} for more)")
    return ("near",), "first"


@contextmanager
def _resumable(partial: Partial, done: _Compared) -> Iterator[None]:
    """Keep the pass of an interrupted run."""
    try:
        yield
    except Interrupted as interrupted:
        if done.state is not None and done.state.done:
            partial.write(done.state)
        interrupted.can_resume = partial.is_there
        raise


def _compare(
    index: Index, options: Options, done: _Compared, partial: Partial, reporter: Reporter
) -> None:
    """Compare all rows, and choose the threshold."""
    slack = margin(index.width)
    known = _known(index, options, done.lengths)
    given = known.value if known else options.threshold
    floor = (LOWEST if given is None else given) - slack
    done.state = partial.load(reporter.note) or Pass.start(index.count, floor)
    report = with_first(reporter.steps, "rows compared")
    compare(index, done.lengths, done.state, report, partial.save)
    best = best_scores(index, done.lengths, done.state)
    if given is not None:
        done.threshold = known or Threshold(given, f"threshold {given:g}, as given")
    else:
        done.threshold = chosen(best, done.state.same)
    done.bins = bins_of(best, done.state.same)
    if zeros := int(np.count_nonzero(done.lengths == 0)):
        reporter.note(f"{zeros:,} vectors are zero, and near to nothing")
    if options.threshold is None and index.count:
        reporter.note(done.threshold.how)
        reporter.note("the best score of each image with another:")
        for line in as_text(done.bins, done.threshold.value):
            reporter.note(line)
    value = done.threshold.value
    if options.linkage != "star" and not done.state.is_complete(value, index.width):
        if given is None:  # the pass has kept lower pairs than the threshold needs
            done.state = Pass.start(index.count, value - slack)
            compare(index, done.lengths, done.state, report)
        if not done.state.is_complete(value, index.width):
            raise _too_many(options.linkage, value, done.state.floor + slack)


def _too_many(linkage: str, threshold: float, floor: float) -> UsageError:
    higher = f"use --threshold {floor:.6f}, which fewer reach, or " if floor < 1 else ""
    return UsageError(
        f"more than {MAX_PAIRS:,} pairs reach the threshold {threshold:g}, and --linkage {linkage} "
        "has to hold them all",
        f"{higher}use --linkage star",
    )


def _known(index: Index, options: Options, lengths: NDArray[np.float64]) -> Threshold | None:
    """The threshold of the known pairs. Raises InputError for a path that is not in the index."""
    if not options.known:
        return None
    rows = np.empty((len(options.known), 2), np.int64)
    for number, pair in enumerate(options.known):
        for side, path in enumerate((pair.first, pair.second)):
            row = index.row_of(path)
            if row is None:
                raise InputError(
                    f"{pair.place}: {printable(path)} is not in {index.label}",
                    "give paths as the index has them",
                )
            rows[number, side] = row
    names = [(printable(a), printable(b)) for a, b, _ in options.known]
    known = learnt(cosines(index, lengths, rows[:, 0], rows[:, 1]), names)
    if known.value < 0:
        raise InputError(f"{known.how}, whose vectors are not alike", "are they twins?")
    return known


def _pairs(index: Index, options: Options, done: _Compared) -> Pairs | None:
    """The pairs that are near; None if there are more than can be held."""
    if done.state is None or done.threshold is None:
        return NO_PAIRS
    if not done.state.is_complete(done.threshold.value, index.width):
        return None
    return exact(index, done.lengths, done.state, done.threshold.value)


def _involved(done: _Compared, pairs: Pairs | None, classes: Rows, index: Index) -> Rows:
    """The rows that may have a twin."""
    is_in = classes >= 0
    if pairs is not None:
        is_in[pairs.a] = is_in[pairs.b] = True
    elif done.state is not None and done.threshold is not None:
        is_in |= done.state.same | (done.state.best >= done.threshold.value - margin(index.width))
    return np.flatnonzero(is_in)


def _without_aliases(index: Index, rows: Rows, reporter: Reporter) -> Rows:
    """Leave out rows that name the file of another row: to remove one would remove both. The row
    whose path has no links stays, or else the first."""
    if index.names != "path":
        return rows
    chosen: dict[str, int] = {}
    for row in map(int, rows):
        path = index.name(row)
        real = identity(path)
        if real not in chosen or (
            _is_plain(path, real) and not _is_plain(index.name(chosen[real]), real)
        ):
            chosen[real] = row
    if lost := len(rows) - len(chosen):
        rows_name = "row names" if lost == 1 else "rows name"
        reporter.note(f"{lost:,} {rows_name} the file of another row, and count once with it")
    return np.array(sorted(chosen.values()), np.int64)


def _is_plain(path: str, real: str) -> bool:
    return real.endswith(path.lstrip("./"))


def _linked(
    index: Index,
    options: Options,
    done: _Compared,
    pairs: Pairs | None,
    classes: Rows,
    order: Rows,
    reporter: Reporter,
) -> list[Rows]:
    """The groups of rows, the kept one first, in the order of the kept ones."""
    is_asked = np.zeros(index.count, np.bool_)
    is_asked[order] = True
    classes = np.where(is_asked, classes, -1)
    if options.linkage == "star":
        if pairs is not None:
            neighbours = neighbours_in(pairs, index.count)
        else:
            assert done.threshold is not None
            neighbours = neighbours_by_product(
                *(index, done.lengths, done.threshold.value, order),
                with_first(reporter.steps, "rows grouped"),
            )
        groups = list(star(order, classes, neighbours))
    else:
        assert pairs is not None
        both = is_asked[pairs.a] & is_asked[pairs.b]
        pairs = Pairs(pairs.a[both], pairs.b[both], pairs.scores[both])
        join = single if options.linkage == "single" else complete
        rank = np.empty(index.count, np.int64)
        rank[order] = np.arange(len(order))
        groups = [_kept_first(group, rank) for group in join(index.count, classes, pairs)]
    return sorted(groups, key=lambda group: int(group[0]))


def _kept_first(group: Rows, rank: Rows) -> Rows:
    kept = group[np.argmin(rank[group])]
    return np.concatenate([[kept], np.sort(group[group != kept])])


def _twins(
    index: Index,
    groups: Iterable[Rows],
    strong: list[tuple[Kind, Rows]],
    prefer: Preference,
    lengths: NDArray[np.float64],
) -> Iterator[list[Twin]]:
    """The records of each group."""
    for number, group in enumerate(groups, 1):
        kept = int(group[0])
        of = index.name(kept)
        scores = cosines(index, lengths, np.full(len(group) - 1, kept), group[1:])
        twins = []
        for row, score in zip(map(int, group[1:]), scores, strict=True):
            shared = (kind for kind, c in strong if c[row] >= 0 and c[row] == c[kept])
            kind: Kind = next(shared, "near")
            value = round(float(score), SCORE_DECIMALS)
            why = prefer.why(row, kept)
            twins.append(Twin(number, index.name(row), kind, value, False, why, of, row))
        best = min((twin.kind for twin in twins), key=KINDS.index)
        why = prefer.why_kept(kept, group[1:])
        yield [Twin(number, of, best, 1.0, True, why, of, kept), *twins]
