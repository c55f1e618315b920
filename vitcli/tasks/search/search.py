"""Search an index: a row for each query, with the nearest rows of the index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vitcli.errors import UsageError, printable
from vitcli.indexes.approximate import files_written, propose
from vitcli.indexes.index import Index, open_index
from vitcli.indexes.search import QUERIES, Finder, Found, Metric, nearest
from vitcli.jobs.apart import check_apart, read_of_inputs, written_of
from vitcli.jobs.choices import check_choice, check_number, check_whole
from vitcli.jobs.job import SILENT, Reporter, Summary
from vitcli.jobs.of_index import check_outputs, read_of_index
from vitcli.sinks.tables import TABLES, Columns, Kind, TableFile, open_table
from vitcli.tasks.search.page import open_page
from vitcli.tasks.search.queries import (
    Asked,
    Embedding,
    Query,
    checked_vectors,
    files_read,
    iter_queries,
    row_of,
)

DEFAULT_K = 10
MAX_K = 100_000
METRICS: tuple[Metric, ...] = ("cosine", "dot")
MAX_FOUND, MAX_SHOWN = 4_000_000, 100_000  # results that are held as numbers, and as records
Record = Mapping[str, Any]
Writer = Callable[[Iterable[Record]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchJob:
    """One run of `vit search`. `index` is an open index or the files of one. `threshold` leaves out
    rows with a lower score; `not_itself` leaves out the row of the query's own file; `approximate`
    compares only the rows that a graph proposes. `out=None` is standard output."""

    index: Index | tuple[str, ...]
    asked: Asked
    embedding: Embedding = field(default_factory=Embedding)
    k: int = DEFAULT_K
    metric: Metric = "cosine"
    threshold: float | None = None
    not_itself: bool = False
    approximate: bool = False
    out: Path | None = None
    format: str | None = None
    paths_only: bool = False
    null: bool = False
    html: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_whole("-k", self.k, 1, MAX_K, f"a number from 1 to {MAX_K:,}")
        check_choice("--metric", self.metric, METRICS)
        if self.threshold is not None and self.metric == "cosine":
            check_number("--threshold", self.threshold, -1, 1, "a cosine from -1 to 1")
        elif self.threshold is not None:
            check_number("--threshold", self.threshold, -np.inf, np.inf, "a number")
        if self.approximate and self.metric != "cosine":
            raise UsageError(
                f"--approximate compares cosines, not --metric {self.metric}",
                "leave out one of them",
            )
        if self.not_itself and not (self.asked.inputs.has_any or self.asked.like):
            raise UsageError(
                "--not-itself has no effect for texts and vectors", "leave it out, or name images"
            )
        if self.null and not self.paths_only:
            raise UsageError("-0 has no effect without --paths-only", "add --paths-only")
        if self.format is not None and self.paths_only:
            raise UsageError("--paths-only and --format exclude each other", "leave out --format")

    def table(self) -> TableFile:
        """Where the rows go. Raises UsageError for an unknown format."""
        return TableFile(
            out=self.out,
            format=self.output_format(),
            overwrite=self.overwrite,
            null=self.null,
            beside=() if self.html is None else (self.html,),
        )

    def output_format(self) -> str:
        """The name of the format. Raises UsageError for an unknown one."""
        from vitcli.sinks import PREDICTIONS, choose_format

        if self.paths_only:
            return "paths"
        known = {name: PREDICTIONS[name] for name in TABLES}
        return choose_format(self.out, self.format, known, has_page=True)


def columns_of(name: Kind) -> Columns:
    """The fields of a row; `name` names a row of the index."""
    fields: dict[str, Kind] = {"query": "path", "kind": "text"}
    return Columns(fields, ("results", {name: name, "score": "float", "row": "int"}), True)


def search(
    job: SearchJob,
    reporter: Reporter = SILENT,
    write: Writer | None = None,
    find: Finder = nearest,
) -> Summary:
    """Run the job. Rows go to `write` if it is given, else to the job's output; and to its page.
    `find` searches the index.

    Raises VitError for errors that end the run; an image that fails is a row with an error.
    """
    started = time.monotonic()
    index = open_index(job.index, reporter.note) if isinstance(job.index, tuple) else job.index
    if job.paths_only and index.names == "text":
        raise UsageError(
            f"the rows of {index.label} are texts, which have no paths", "leave out --paths-only"
        )
    read = [*files_read(job.asked), *read_of_inputs(job.asked.inputs)]
    check_outputs((job.out, job.html), job.index, index, read)
    if job.approximate:
        read += read_of_index(job.index)
        check_apart(written_of(files_written(index.files)), read)
        reporter.note("the search is approximate: it may miss a row; every score is exact")
    with ExitStack() as opened:
        if write is None:
            to = job.table()
            to.check()
        page = opened.enter_context(
            open_page(job.html, index, job.embedding.running.workers, reporter.note)
        )
        if write is None:
            is_page_alone = job.html is not None and job.out is None and job.format is None
            if is_page_alone and not job.paths_only:
                write = _nothing
            else:
                write = opened.enter_context(open_table(to, columns_of(index.names)))
        done = failed = 0
        at_once = max(1, min(QUERIES, MAX_FOUND // job.k))
        shown = max(1, min(QUERIES, MAX_SHOWN // job.k))
        for queries in iter_queries(index, job.asked, job.embedding, reporter):
            if job.not_itself:
                queries = _with_rows(queries, index, reporter)
            for some in _batches(queries, at_once):
                records = _records(job, index, some, reporter, find)
                for few in _batches(some, shown):
                    made = list(islice(records, len(few)))
                    write(made)
                    page(made, few)
                    errors = sum("error" in record for record in made)
                    done, failed = done + len(few) - errors, failed + errors
    return Summary(done, failed, time.monotonic() - started, unit="query")


def _batches(queries: Sequence[Query], size: int) -> Iterator[Sequence[Query]]:
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def _with_rows(queries: Sequence[Query], index: Index, reporter: Reporter) -> list[Query]:
    """The queries with the rows of their own files. Tell which images are not in the index, so that
    --not-itself leaves out nothing for them."""
    found = [replace(query, own=row_of(query, index)) for query in queries]
    images = [query for query in found if query.kind == "image"]
    others = [query.name for query in images if query.own is None]
    if others:
        reporter.note(
            f"--not-itself: {len(others):,} of {len(images):,} images are not in {index.label} by "
            f"their path, such as {printable(others[0])}: nothing is left out for them"
        )
    return found


def _nothing(records: Iterable[Record]) -> None:
    """Write no rows: the page has them."""


def _records(
    job: SearchJob, index: Index, queries: Sequence[Query], reporter: Reporter, find: Finder
) -> Iterator[Record]:
    """The rows of queries, in their order."""
    queries = checked_vectors(queries, needs_length=job.metric == "cosine")
    good = [query for query in queries if query.vector is not None]
    found = iter(_nearest(job, index, good, reporter, find) if good else ())
    for query in queries:
        named = {"query": query.name, "kind": query.kind}
        if query.vector is None:
            yield {**named, "error": query.error}
        else:
            own = query.own if job.not_itself else None
            yield {**named, "results": _results(index, next(found), own, job.k)}


def _nearest(
    job: SearchJob, index: Index, queries: Sequence[Query], reporter: Reporter, find: Finder
) -> list[Found]:
    """The nearest rows of queries that have a vector."""
    vectors = np.stack([query.vector for query in queries if query.vector is not None])
    k = job.k + job.not_itself
    if job.approximate:
        return propose(index, vectors, k, threshold=job.threshold, step=reporter.steps)
    step = partial(reporter.steps, "rows compared")
    return find(index, vectors, k, metric=job.metric, threshold=job.threshold, step=step)


def _results(index: Index, found: Found, own: int | None, k: int) -> list[Record]:
    pairs = [
        (row, score)
        for row, score in zip(found.rows.tolist(), found.scores.tolist(), strict=True)
        if row != own
    ]
    return [{index.names: index.name(row), "score": score, "row": row} for row, score in pairs[:k]]
