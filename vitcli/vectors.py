"""Search, deduplicate and map what `vit embed` has written, or an array, from Python."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vitcli.checkpoints.load import Model
    from vitcli.indexes.index import Index
    from vitcli.records import TextClean
    from vitcli.tasks.dedupe.keep import Keep
    from vitcli.tasks.dedupe.links import Linkage
    from vitcli.tasks.dedupe.twin import Kind, Twin

Names: TypeAlias = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
IndexLike: TypeAlias = "Names | NDArray[Any]"
"""Files that `vit embed` wrote (a path, a pattern, or several), or an array (N, D)."""


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


@dataclass(frozen=True, slots=True)
class ImageMap:
    """The result of `map`: row i of each field belongs to `paths[i]`.

    x, y: (N,). clusters: (N,), from 0, which is the largest; distances: (N,), to the middle of the
    cluster. Both are None for clusters="none". labels: a text or None for each image, with `color`.
    explained: the shares of the variance along x and y, for method="pca".
    """

    paths: tuple[str, ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    clusters: NDArray[np.int64] | None
    distances: NDArray[np.float64] | None
    labels: tuple[str | None, ...] | None
    explained: tuple[float, ...] | None


def search(
    index: IndexLike,
    queries: Names | None = None,
    *,
    texts: str | Sequence[str] = (),
    minus: str | Sequence[str] = (),
    like: str | int | Sequence[str | int] = (),
    vectors: NDArray[np.floating] | str | os.PathLike[str] | None = None,
    paths: Sequence[str | os.PathLike[str]] | None = None,
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
) -> list[Found]:
    """Return the rows of an index nearest to each query: exact, ties by row, best first.
    `approximate` compares only the rows that a graph next to the index proposes.

    index: files that `vit embed` wrote (a path, a pattern, or several), or an array (N, D) with a
    path for each row in `paths`. queries: images, which the model of the index embeds; texts: for
    an index of the joint space, `minus` subtracted from each; like: paths or numbers of rows;
    vectors: an array (Q, D) or a file. ray: the address of a cluster that shares the rows.
    Found come in this order. Raises VitError.
    """
    from pathlib import Path

    from vitcli.errors import UsageError
    from vitcli.fleet.searching import finder
    from vitcli.jobs.job import Inputs, Running
    from vitcli.tasks.search.queries import Asked, Embedding
    from vitcli.tasks.search.search import SearchJob
    from vitcli.tasks.search.search import search as run

    if approximate and ray is not None:
        raise UsageError("approximate and ray exclude each other", "leave out one of them")
    opened = _index(index, paths)
    rows: list[Found] = []

    def keep(records: Iterable[Mapping[str, Any]]) -> None:
        for record in records:
            hits = [
                Hit(item[opened.names], item["score"], item["row"])
                for item in record.get("results", ())
            ]
            error = record.get("error")
            words = None if error is None else f"{error['type']}: {error['message']}"
            rows.append(Found(record["query"], record["kind"], tuple(hits), words))

    given = (like,) if isinstance(like, str | int) else tuple(like)
    of_file = isinstance(vectors, str | Path | os.PathLike)
    run(
        SearchJob(
            index=opened,
            asked=Asked(
                inputs=Inputs(paths=() if queries is None else _names(queries)),
                texts=(texts,) if isinstance(texts, str) else tuple(texts),
                minus=(minus,) if isinstance(minus, str) else tuple(minus),
                like=tuple(str(one) for one in given),
                vectors=os.fspath(vectors) if of_file else vectors,  # type: ignore[arg-type]
            ),
            embedding=Embedding(
                model=model,
                running=Running(device=device, workers=workers),
                clean=text_clean,
                tokenizer=tokenizer,
            ),
            k=k,
            threshold=threshold,
            metric=metric,
            not_itself=not_itself,
            approximate=approximate,
        ),
        write=keep,
        find=finder(ray),
    )
    return rows


def dedupe(
    index: IndexLike,
    *,
    paths: Sequence[str | os.PathLike[str]] | None = None,
    threshold: float | None = None,
    kind: str | Sequence[Kind] | None = None,
    linkage: Linkage = "star",
    keep: Keep | None = None,
    like_pairs: Sequence[tuple[str, str]] = (),
    workers: int | None = None,
) -> list[Twin]:
    """Return the members of the groups of images that are there twice: a `Twin` for each, the kept
    one of a group first. No file is changed.

    index: what `vit embed` has written (a path, or several), or an array (N, D) of floats with the
    path of each row in `paths`; without paths only vectors are compared. kind: "bytes" (the same
    file), "pixels" (they look the same: all frames, upright), "near" (a cosine of at least
    `threshold`), several in a sequence or with commas; None for all that the files allow. Without
    `threshold` one is chosen from the scores, or set by `like_pairs` of paths. linkage: "star" (all
    within the threshold of the kept one), "complete" or "single". keep: "largest" (the default),
    "first", "oldest", "newest". Files that cannot be read are told by a RuntimeWarning. Raises
    VitError.
    """
    import warnings

    from vitcli.errors import printable
    from vitcli.indexes.index import mapped
    from vitcli.jobs.job import SILENT, Inputs
    from vitcli.tasks.dedupe.dedupe import files_of, kinds_of
    from vitcli.tasks.dedupe.find import Options, find
    from vitcli.tasks.dedupe.known import pairs_of
    from vitcli.tasks.dedupe.partial import Partial

    opened = _index(index, paths)
    is_bare = hasattr(index, "shape") and paths is None
    kinds = kinds_of(kind)
    options = Options(
        threshold=threshold,
        kinds=("near",) if kinds is None and is_bare else kinds,
        linkage=linkage,
        keep="first" if keep is None and is_bare else keep,
        known=pairs_of(like_pairs),
    )
    with mapped(opened) as rows:
        files = files_of(rows, Inputs(), workers, SILENT)
        twins = find(rows, options, files, Partial(None, {}), SILENT).twins
    if files.failures:
        first = files.failures[min(files.failures)]
        warnings.warn(
            f"{len(files.failures):,} of {opened.count:,} files could not be read: "
            f"{printable(first.ref.path)}: {first.message}",
            RuntimeWarning,
            stacklevel=2,
        )
    return twins


def map(
    index: IndexLike,
    paths: Sequence[str | os.PathLike[str]] | None = None,
    *,
    method: Literal["pca", "umap"] = "pca",
    clusters: int | Literal["auto", "none"] = "auto",
    metric: Literal["cosine", "euclidean"] = "cosine",
    color: str | os.PathLike[str] | None = None,
    color_column: str | None = None,
    seed: int = 0,
) -> ImageMap:
    """Return a place in the plane, a cluster and the distance to its middle for every image.

    index: files that `vit embed` wrote, or an array (N, D) whose rows belong to `paths`. metric:
    "cosine" compares vectors by their angle; "euclidean" as they are stored. clusters: the number,
    or "auto" for the one with the best silhouette. color: a table with labels (an output of `vit
    classify`), or "folders". The same seed gives the same numbers. Raises VitError.
    """
    from pathlib import Path

    from vitcli.indexes.index import mapped
    from vitcli.jobs.job import SILENT
    from vitcli.tasks.map.labels import FOLDERS, Coloring
    from vitcli.tasks.map.map import MapJob, check_job, compute

    found = _index(index, paths)
    coloring = None
    if color is not None:
        file = None if color == FOLDERS else Path(color)
        coloring = Coloring(file, color_column)
    job = MapJob(
        index=found, method=method, clusters=clusters, metric=metric, color=coloring, seed=seed
    )
    check_job(job)
    with mapped(found) as opened:
        made = compute(opened, job, SILENT)
        labels = None
        if made.labels is not None:
            labels = tuple(made.labels.names[c] if c >= 0 else None for c in made.labels.codes)
        return ImageMap(
            paths=tuple(opened.iter_names()),
            x=made.x,
            y=made.y,
            clusters=made.clusters,
            distances=made.distances,
            labels=labels,
            explained=made.explained,
        )


def _index(index: IndexLike, paths: Sequence[str | os.PathLike[str]] | None) -> Index:
    """Open an index: files, or an array with the path of each row."""
    from vitcli.errors import UsageError
    from vitcli.indexes.index import index_of, open_index

    is_array = hasattr(index, "shape")
    if isinstance(paths, str | bytes | os.PathLike):
        raise UsageError("paths is one path", "give a list with the path of each row")
    if is_array:
        return index_of(index, paths)  # type: ignore[arg-type]
    if paths is not None:
        raise UsageError("paths has no effect for an index of files", "leave it out")
    return open_index(_names(index))


def _names(paths: Names) -> tuple[str, ...]:
    if isinstance(paths, str | os.PathLike):
        return (os.fspath(paths),)
    return tuple(os.fspath(path) for path in paths)
