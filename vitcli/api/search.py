"""Search an index from Python."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitcli.api.arguments import likes_of, score_of, texts_of, whole, workers_of
from vitcli.api.images import Images, inputs_of
from vitcli.api.index import IndexLike, Paths, index_for
from vitcli.api.rows import Rows
from vitcli.api.running import Watch
from vitcli.errors import UsageError
from vitcli.fleet.searching import finder
from vitcli.jobs.job import Inputs, Running
from vitcli.records import TextClean
from vitcli.sinks.tables import Record
from vitcli.tasks.search.queries import Asked, Embedding
from vitcli.tasks.search.search import SearchJob, columns_of
from vitcli.tasks.search.search import search as run

if TYPE_CHECKING:  # imports torch, which like= does not need
    from vitcli.checkpoints.load import Model

Row: TypeAlias = "str | os.PathLike[str] | SupportsIndex"
"""A row of an index: its path, or its number."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A row of an index that a search has found: its path (or its text), score and row."""

    path: str
    score: float
    row: int


@dataclass(frozen=True, slots=True)
class Found:
    """The hits of one query, best first. `error` says why there are none. `kind` is "image",
    "text", "like" or "vector"."""

    query: str
    kind: str
    hits: tuple[Hit, ...] = ()
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the query could be embedded."""
        return self.error is None


def search(
    index: IndexLike,
    queries: Images | None = None,
    *,
    texts: str | Sequence[str] = (),
    minus: str | Sequence[str] = (),
    like: Row | Iterable[Row] = (),
    vectors: NDArray[np.floating] | str | os.PathLike[str] | None = None,
    paths: Paths | None = None,
    k: int = 10,
    threshold: float | None = None,
    metric: Literal["cosine", "dot"] = "cosine",
    not_itself: bool = False,
    approximate: bool = False,
    model: str | Model | None = None,
    text_clean: TextClean | None = None,
    tokenizer: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    ray: str | None = None,
    progress: bool = False,
) -> Rows[Found]:
    """Return the rows of an index nearest to each query: exact, ties by row, best first.
    `approximate` compares only the rows that a graph next to the index proposes.

    index: files that `vit embed` wrote (a path, a pattern, or several), the result of `embed`, or
    an array (N, D) with a path for each row in `paths`. queries: images as in `classify`, which the
    model of the index embeds; texts: for an index of the joint space, `minus` subtracted from each;
    like: paths or numbers of rows; vectors: an array (Q, D) or a file. ray: the address of a
    cluster that shares the rows. Found come in this order. Raises VitError.
    """
    if approximate and ray is not None:
        raise UsageError("approximate and ray exclude each other", "leave out one of them")
    of_file = isinstance(vectors, str | os.PathLike)
    asked = Asked(
        inputs=Inputs() if queries is None else inputs_of(queries),
        texts=texts_of("texts", texts),
        minus=texts_of("minus", minus),
        like=likes_of(like),
        vectors=os.fspath(vectors) if of_file else vectors,  # type: ignore[arg-type]
    )
    opened = index_for(index, paths)
    job = SearchJob(
        index=opened,
        asked=asked,
        embedding=Embedding(
            model=model,
            running=Running(device=device, workers=workers_of(workers)),
            clean=text_clean,
            tokenizer=tokenizer,
        ),
        k=whole("k", k, 1),
        threshold=score_of("threshold", threshold),
        metric=metric,
        not_itself=bool(not_itself),
        approximate=bool(approximate),
    )
    rows: list[Found] = []

    def keep(records: Iterable[Mapping[str, Any]]) -> None:
        for record in records:
            items = record.get("results", ())
            hits = [Hit(item[opened.names], item["score"], item["row"]) for item in items]
            error = record.get("error")
            words = None if error is None else f"{error['type']}: {error['message']}"
            rows.append(Found(record["query"], record["kind"], tuple(hits), words))

    with Watch(progress=progress) as watch:
        run(job, watch, keep, finder(ray))
    return Rows(rows, columns_of(opened.names), partial(_record, opened.names), watch.notes)


def _record(name: str, found: Found) -> Record:
    """The record of a query; `name` names a row of the index."""
    named = {"query": found.query, "kind": found.kind}
    if found.error is not None:
        kind, _, message = found.error.partition(": ")
        return {**named, "error": {"type": kind, "message": message}}
    items = [{name: hit.path, "score": hit.score, "row": hit.row} for hit in found.hits]
    return {**named, "results": items}
