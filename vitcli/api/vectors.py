"""Search, deduplicate and map what `vit embed` has written, or an array, from Python."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeAlias

from vitcli.api.images import Images, inputs_of

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
IndexLike: TypeAlias = "Names | NDArray[Any] | Sequence[Sequence[float]]"
"""Files that `vit embed` wrote (a path, a pattern, or several), or an array (N, D)."""
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
    queries: Images | None = None,
    *,
    texts: str | Sequence[str] = (),
    minus: str | Sequence[str] = (),
    like: Row | Iterable[Row] = (),
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
    path for each row in `paths`. queries: images as in `classify`, which the model of the index
    embeds; texts: for an index of the joint space, `minus` subtracted from each; like: paths or
    numbers of rows; vectors: an array (Q, D) or a file. ray: the address of a cluster that shares
    the rows. Found come in this order. Raises VitError.
    """
    from vitcli.errors import UsageError
    from vitcli.fleet.searching import finder
    from vitcli.jobs.job import Inputs, Running
    from vitcli.tasks.search.queries import Asked, Embedding
    from vitcli.tasks.search.search import SearchJob
    from vitcli.tasks.search.search import search as run

    if approximate and ray is not None:
        raise UsageError("approximate and ray exclude each other", "leave out one of them")
    of_file = isinstance(vectors, str | os.PathLike)
    asked = Asked(
        inputs=Inputs() if queries is None else inputs_of(queries),
        texts=_texts("texts", texts),
        minus=_texts("minus", minus),
        like=_likes(like),
        vectors=os.fspath(vectors) if of_file else vectors,  # type: ignore[arg-type]
    )
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

    run(
        SearchJob(
            index=opened,
            asked=asked,
            embedding=Embedding(
                model=model,
                running=Running(device=device, workers=_workers(workers)),
                clean=text_clean,
                tokenizer=tokenizer,
            ),
            k=_whole("k", k, 1),
            threshold=_score("threshold", threshold),
            metric=metric,
            not_itself=bool(not_itself),
            approximate=bool(approximate),
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
    file), "pixels" (they look the same: upright RGB, opacity, all frames), "near" (a cosine of at
    least `threshold`), several in a sequence or with commas; None for all that the files allow.
    Without `threshold` one is chosen from the scores, or set by `like_pairs` of paths. linkage:
    "star" (all within the threshold of the kept one), "complete" or "single". keep: "largest" (the
    default), "first", "oldest", "newest". Files that cannot be read are told by a RuntimeWarning.
    Raises VitError.
    """
    import warnings

    from vitcli.errors import printable
    from vitcli.indexes.index import mapped
    from vitcli.jobs.job import SILENT, Inputs
    from vitcli.tasks.dedupe.dedupe import files_of, kinds_of
    from vitcli.tasks.dedupe.find import Options, find
    from vitcli.tasks.dedupe.known import numbered
    from vitcli.tasks.dedupe.partial import Partial

    is_bare = not _is_named(index) and paths is None
    opened = _index(index, paths)
    options = Options(
        threshold=_score("threshold", threshold),
        kinds=kinds_of(None if kind is None else ",".join(_texts("kind", kind)))
        or (("near",) if is_bare else None),
        linkage=linkage,
        keep=keep or ("first" if is_bare else None),
        known=numbered(_pairs(like_pairs)),
    )
    with mapped(opened) as rows:
        files = files_of(rows, Inputs(), _workers(workers), SILENT)
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

    from vitcli.errors import UsageError
    from vitcli.indexes.index import mapped
    from vitcli.jobs.job import SILENT
    from vitcli.tasks.map.labels import FOLDERS, Coloring
    from vitcli.tasks.map.map import MapJob, check_job, compute

    if not isinstance(clusters, str) or clusters not in ("auto", "none"):
        clusters = _whole("clusters", clusters, 1)
    seed = _whole("seed", seed, 0)
    found = _index(index, paths)
    coloring = None
    if color_column is not None and (color is None or color == FOLDERS):
        raise UsageError("color_column has no effect without a table", "give color=")
    if color is not None:
        file = None if color == FOLDERS else Path(*_names("color", color))
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
    import warnings
    from functools import partial

    from vitcli.errors import UsageError
    from vitcli.indexes.index import index_of, open_index

    if not _is_named(index):
        return index_of(index, None if paths is None else _names("paths", paths))  # type: ignore[arg-type]
    if paths is not None:
        raise UsageError("paths has no effect for an index of files", "leave it out")
    note = partial(warnings.warn, category=UserWarning, stacklevel=5)
    return open_index(_names("index", index), note)  # type: ignore[arg-type]


def _is_named(index: object) -> bool:
    """Whether an index is given by the names of its files, and not by its numbers."""
    if hasattr(index, "shape"):
        return False
    if isinstance(index, list | tuple):
        return all(isinstance(one, str | os.PathLike) for one in index)
    return True


def _names(what: str, names: Names) -> tuple[str, ...]:
    """Paths as texts. Raises UsageError for what is neither a path nor several."""
    from vitcli.errors import UsageError

    several = (names,) if isinstance(names, str | bytes | os.PathLike) else names
    try:
        found = tuple(str(os.fsdecode(name)) for name in several)
    except TypeError:
        raise UsageError(f"{what} is not a path, nor several", "give a str or a Path") from None
    if not found and what == "index":
        raise UsageError("the index has no files", "name files that vit embed wrote")
    return found


def _likes(like: object) -> tuple[str | int, ...]:
    """Paths as texts, and numbers of rows. Raises UsageError."""
    from numbers import Integral

    from vitcli.errors import UsageError

    def row(one: object) -> str | int:
        if isinstance(one, str | bytes | os.PathLike):
            return str(os.fsdecode(one))
        if isinstance(one, Integral) and not isinstance(one, bool) and int(one) >= 0:
            return int(one)
        raise UsageError(f"like: {_short(one)} is neither a path nor the number of a row")

    if isinstance(like, str | bytes | os.PathLike) or not isinstance(like, Iterable):
        return (row(like),)
    if not getattr(like, "shape", True):  # an array of NumPy without axes
        return (row(like.item()),)  # type: ignore[attr-defined]
    return tuple(row(one) for one in like)


def _texts(what: str, texts: object) -> tuple[str, ...]:
    """One text or several as a tuple. Raises UsageError."""
    from vitcli.errors import UsageError

    given = (texts,) if isinstance(texts, str) or not isinstance(texts, Iterable) else texts
    several = tuple(given)
    if not all(isinstance(text, str) for text in several):
        raise UsageError(f"{what} is not a text, nor several", "give a str or a list")
    return several


def _pairs(pairs: object) -> tuple[tuple[str, str], ...]:
    """Pairs of paths as texts. Raises UsageError."""
    from vitcli.errors import UsageError

    try:
        several = list(pairs)  # type: ignore[call-overload]
        if any(isinstance(pair, str | bytes) for pair in several):
            raise TypeError
        return tuple((str(os.fsdecode(a)), str(os.fsdecode(b))) for a, b in several)
    except (TypeError, ValueError):
        raise UsageError("like_pairs are not pairs of paths", "give [('a.jpg', 'b.jpg')]") from None


def _whole(what: str, number: object, least: int) -> int:
    """A whole number, of Python or of NumPy. Raises UsageError."""
    from numbers import Integral

    from vitcli.errors import UsageError

    if not isinstance(number, Integral) or isinstance(number, bool) or int(number) < least:
        raise UsageError(f"{what}={_short(number)}", f"give a whole number from {least}")
    return int(number)


def _workers(workers: object) -> int | None:
    """A number of worker processes, or None. Raises UsageError."""
    return None if workers is None else _whole("workers", workers, 0)


def _score(what: str, number: object) -> float | None:
    """A number or None. Raises UsageError."""
    from numbers import Real

    from vitcli.errors import UsageError

    if number is None:
        return None
    if not isinstance(number, Real) or isinstance(number, bool):
        raise UsageError(f"{what}={_short(number)}", "give a number, or None")
    return float(number)


def _short(value: object) -> str:
    from vitcli.errors import printable, shortened

    return printable(shortened(repr(value), 80))
