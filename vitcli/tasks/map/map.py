"""Place the images of an index on a map: in the plane, in clusters, as a table or as a page."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import InputError, OutputError, UsageError
from vitcli.files import whole_file
from vitcli.indexes.index import Index, mapped, open_index
from vitcli.jobs.choices import check_choice, check_whole
from vitcli.jobs.job import SILENT, Reporter, Summary
from vitcli.jobs.of_index import check_outputs
from vitcli.records import Progress
from vitcli.render.map_page import Labels, MapData, write_map
from vitcli.sinks.tables import TABLES, Columns, Kind, TableFile, open_table
from vitcli.tasks.map.kmeans import assign_all, fit, sample
from vitcli.tasks.map.labels import Coloring, labels_of
from vitcli.tasks.map.number import LADDER, choose_number
from vitcli.tasks.map.pca import components, passes_of
from vitcli.tasks.map.rows import Metric, Rows, Tick
from vitcli.tasks.map.thumbnails import choose_rows, small_images
from vitcli.tasks.map.umap import check_umap, umap

Method: TypeAlias = Literal["pca", "umap"]
Clusters: TypeAlias = int | Literal["auto", "none"]
METHODS: tuple[Method, ...] = ("pca", "umap")
METRICS: tuple[Metric, ...] = ("cosine", "euclidean")
SORTS = ("index", "distance")
MAX_CLUSTERS, MAX_SEED = 99_999, 2**63 - 1
DECIMALS = 6
SMALLEST = 1e-3  # of vectors as they are stored: three digits of the largest are left
DEFAULT_THUMBNAILS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class MapJob:
    """A map of the index `specs` (or of an open one). The table goes to `out`, or to standard
    output if there is neither `out` nor `html`."""

    index: tuple[str, ...] | Index
    method: Method = "pca"
    clusters: Clusters = "auto"
    metric: Metric = "cosine"
    color: Coloring | None = None
    seed: int = 0
    sort: Literal["index", "distance"] = "index"
    thumbnails: int = DEFAULT_THUMBNAILS
    workers: int | None = None
    out: Path | None = None
    format: str = "jsonl"
    html: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_choice("--method", self.method, METHODS)
        check_choice("--metric", self.metric, METRICS)
        check_choice("--sort", self.sort, SORTS)
        check_choice("--format", self.format, TABLES)
        if not (isinstance(self.clusters, str) and self.clusters in ("auto", "none")):
            example = "a number from 1, auto, or none"
            check_whole("--clusters", self.clusters, 1, MAX_CLUSTERS, example)
        check_whole("--seed", self.seed, 0, MAX_SEED, "a whole number from 0")
        check_whole("--thumbnails", self.thumbnails, 0, MAX_SEED, "a whole number from 0")


@dataclass(frozen=True, slots=True)
class Map:
    """x, y: (N,), rounded to 6 decimals. clusters: (N,), from 0 for the largest; distances: (N,),
    to the middle of the cluster. Both are None without clusters. explained: the shares of the
    variance along x and y, for PCA. facts: how the map was made, in words."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    clusters: NDArray[np.int64] | None
    distances: NDArray[np.float64] | None
    labels: Labels | None
    explained: tuple[float, ...] | None
    facts: tuple[tuple[str, str], ...]


def map_index(job: MapJob, reporter: Reporter = SILENT) -> Summary:
    """Make the map and write it. Raises VitError."""
    started = time.monotonic()
    check_job(job)
    opened = open_index(job.index, reporter.note) if isinstance(job.index, tuple) else job.index
    file = None if job.color is None else job.color.file
    table = [] if file is None else [(file, "the file of --color")]
    check_outputs((job.out, job.html), job.index, opened, table)
    with mapped(opened) as index, ExitStack() as files:
        made = compute(index, job, reporter)
        if job.html is not None:
            title = f"Map of {index.label}" if index.files else "Map"
            rows = choose_rows(made.clusters, made.distances, index.count, job.thumbnails, job.seed)
            small = {}
            if index.names == "path" and len(rows):
                small = small_images(index, rows, reporter, job.workers)
            page = files.enter_context(whole_file(job.html))
            unit = "image" if index.names == "path" else "text"
            write_map(page, _page(made, index, title, small, unit))
        if job.out is not None or job.html is None:
            kind: Kind = "path" if index.names == "path" else "text"
            columns = columns_of(index.names, kind, has_label=made.labels is not None)
            to = TableFile(job.out, job.format, overwrite=job.overwrite)
            write = files.enter_context(open_table(to, columns))
            write(_records(index, made, job.sort))
        if index.names == "path":
            progress = Progress()
            progress.add(index.count)
            reporter.progress(progress)
    return Summary(index.count, 0, time.monotonic() - started, unit="row")


def check_job(job: MapJob) -> None:
    """Raise UsageError or OutputError for a mistake that can be seen before anything is read."""
    if job.clusters == "none" and job.sort == "distance":
        raise UsageError("--sort distance needs clusters", "leave out --clusters none")
    if job.method == "umap":
        check_umap()
    outputs = [path for path in (job.out, job.html) if path is not None]
    if job.format == "parquet" and (job.out is not None or job.html is None):
        TableFile(job.out, "parquet", overwrite=job.overwrite).check()
    if len(set(outputs)) < len(outputs):
        raise UsageError("the table and the page have the same name", "give two names")
    for path in outputs:
        if path.is_dir():
            raise OutputError(f"{path} is a directory", "give the name of a file")
        if path.is_file() and not job.overwrite:
            raise OutputError(f"{path} already exists", "--overwrite replaces it")
        if not path.parent.is_dir():
            raise OutputError(f"{path.parent} is not a directory", "make it first")


def compute(index: Index, job: MapJob, reporter: Reporter) -> Map:
    """Compute places, clusters and labels. Raises InputError for an index without rows."""
    if not index.count:
        raise InputError("the index has no rows", "vit embed writes one for each image")
    labels = labels_of(index, job.color, reporter) if job.color is not None else None
    passes = passes_of(index.width) + 1 if job.method == "pca" else 1
    passes += (job.metric == "euclidean") + (job.clusters != "none")
    tick = _ticker(reporter, index.count * passes)
    rows = Rows.open(index, job.metric, tick)
    if 0 < rows.largest * rows.scale < SMALLEST:
        raise InputError(
            f"the numbers of {index.label} are {rows.largest * rows.scale:.2g} at most, and a map "
            f"has {DECIMALS} decimals",
            "use --metric cosine, or multiply the vectors",
        )
    facts = [
        ("vectors", f"{index.count:,} of {index.width} numbers"),
        ("compared by", "cosine" if job.metric == "cosine" else "Euclidean distance, as stored"),
    ]
    if model := index.meta.get("model"):
        facts.insert(0, ("model", str(model)))
    explained = None
    if job.method == "pca":
        axes = components(rows, 2, job.seed, tick)
        places = np.concatenate([axes.project(block) for _, block in rows.blocks(tick)])
        places *= rows.scale
        explained = axes.explained
        shares = " and ".join(f"{100 * share:.1f} %" for share in explained)
        facts.append(("places", f"principal components, {shares} of the variance"))
        reporter.note(f"x and y have {shares} of the variance")
    else:
        places = umap(rows, job.seed, tick, reporter)
        facts.append(("places", "UMAP"))
    clusters = distances = None
    if job.clusters != "none":
        clusters, distances = _clusters(rows, job, reporter, tick, facts)
    facts.append(("seed", str(job.seed)))
    places = np.round(places, DECIMALS) + 0.0  # no -0.0
    return Map(places[:, 0], places[:, 1], clusters, distances, labels, explained, tuple(facts))


def _clusters(
    rows: Rows, job: MapJob, reporter: Reporter, tick: Tick, facts: list[tuple[str, str]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    number = LADDER[-1] if isinstance(job.clusters, str) else int(job.clusters)
    vectors = sample(rows, min(number, rows.count), job.seed)
    how = "k-means"
    if job.clusters == "auto":
        chosen = choose_number(vectors, rows.metric, job.seed)
        number = chosen.number
        how = f"k-means; their number has the best silhouette, {chosen.silhouette:.2f}"
        if number == 1:
            how = "k-means; there are too few different rows for more"
            reporter.note("one cluster: there are too few different rows for more")
        else:
            reporter.note(
                f"{number} clusters: of the numbers tried, from 2 to {chosen.tried}, this one has "
                f"the best silhouette, {chosen.silhouette:.2f}"
            )
    middles = fit(vectors, min(number, rows.count), rows.metric, job.seed)
    clusters, distances = assign_all(rows, middles, tick)
    found = int(clusters.max()) + 1
    if found < number and job.clusters != "auto":
        are = "cluster" if found == 1 else "clusters"
        reporter.note(f"{found:,} {are}, not {number:,}: there are no more different rows")
    if len(vectors) < rows.count:
        how += f", fitted to {len(vectors):,} rows drawn at random"
    facts.append(("clusters", f"{found:,}, by {how}"))
    return clusters, np.round(distances * rows.scale, DECIMALS) + 0.0


def _ticker(reporter: Reporter, total: int) -> Tick:
    """Count rows for the reporter."""
    done = 0

    def tick(rows: int) -> None:
        nonlocal done
        done = min(total, done + rows)
        reporter.steps("rows read", done, total)

    reporter.steps("rows read", 0, total)
    return tick


def _page(made: Map, index: Index, title: str, small: dict[int, bytes], unit: str) -> MapData:
    return MapData(
        title=title,
        about=index.maker if index.files else "",
        x=made.x,
        y=made.y,
        clusters=made.clusters,
        distances=made.distances,
        paths=index.iter_names(),
        labels=made.labels,
        thumbnails=small,
        facts=(*made.facts, ("thumbnails", f"{len(small):,}")),
        unit=unit,
    )


def columns_of(name: str, kind: Kind, *, has_label: bool) -> Columns:
    """The fields of a row; `name` names a row of the index."""
    fields: dict[str, Kind] = {name: kind, "x": "float", "y": "float", "cluster": "int"}
    fields |= {"distance": "float", "row": "int"}
    return Columns({**fields, "label": "text"} if has_label else fields, None)


def _records(
    index: Index, made: Map, sort: Literal["index", "distance"]
) -> Iterator[dict[str, Any]]:
    """The records of the table, in the order of the index or the oddest first."""
    order: Sequence[int] | NDArray[np.int64] = range(index.count)
    names: Iterator[str] = index.iter_names()
    if sort == "distance":
        assert made.distances is not None
        order = np.argsort(-made.distances, kind="stable")
        names = (index.name(int(row)) for row in order)
    for row, name in zip(map(int, order), names, strict=True):
        record: dict[str, Any] = {
            index.names: name,
            "x": float(made.x[row]),
            "y": float(made.y[row]),
            "cluster": None if made.clusters is None else int(made.clusters[row]),
            "distance": None if made.distances is None else float(made.distances[row]),
            "row": row,
        }
        if made.labels is not None:
            code = made.labels.codes[row]
            record["label"] = None if code < 0 else made.labels.names[code]
        yield record
