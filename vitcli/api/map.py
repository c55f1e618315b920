"""Map an index to the plane, from Python."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from vitcli.api.arguments import names_of, whole
from vitcli.api.index import IndexLike, Paths, index_for
from vitcli.api.running import Watch
from vitcli.errors import UsageError
from vitcli.indexes.index import mapped
from vitcli.sinks.frames import arrow_of, frame_of
from vitcli.sinks.tables import Columns, Record
from vitcli.tasks.map.labels import FOLDERS, Coloring
from vitcli.tasks.map.map import MapJob, check_job, columns_of, compute

if TYPE_CHECKING:  # optional dependencies
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class ImageMap:
    """The result of `map`: row i of each field belongs to `paths[i]`.

    x, y: (N,). clusters: (N,), from 0, which is the largest; distances: (N,), to the middle of the
    cluster. Both are None for clusters="none". labels: a text or None for each image, with `color`.
    explained: the shares of the variance along x and y, for method="pca".
    The tables have the columns of `vit map`, and raise OutputError without their library.
    """

    paths: tuple[str, ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    clusters: NDArray[np.int64] | None
    distances: NDArray[np.float64] | None
    labels: tuple[str | None, ...] | None
    explained: tuple[float, ...] | None
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> pd.DataFrame:
        """The columns path, x, y, cluster, distance, row, and label if there are labels."""
        return frame_of(self._records(), self._columns)

    def to_arrow(self) -> pa.Table:
        """The columns of the Parquet file of `vit map`."""
        return arrow_of(self._records(), self._columns)

    @property
    def _columns(self) -> Columns:
        return columns_of("path", "path", has_label=self.labels is not None)

    def _records(self) -> list[Record]:
        none = [None] * len(self.paths)
        values = {
            "path": self.paths,
            "x": self.x,
            "y": self.y,
            "cluster": none if self.clusters is None else self.clusters,
            "distance": none if self.distances is None else self.distances,
            "row": range(len(self.paths)),
            "label": self.labels or none,
        }
        rows = zip(*values.values(), strict=True)
        return [dict(zip(values, row, strict=True)) for row in rows]


def map(
    index: IndexLike,
    paths: Paths | None = None,
    *,
    method: Literal["pca", "umap"] = "pca",
    clusters: int | Literal["auto", "none"] = "auto",
    metric: Literal["cosine", "euclidean"] = "cosine",
    color: str | os.PathLike[str] | None = None,
    color_column: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> ImageMap:
    """Return a place in the plane, a cluster and the distance to its middle for every image.

    index: files that `vit embed` wrote, the result of `embed`, or an array (N, D) whose rows belong
    to `paths`. metric: "cosine" compares vectors by their angle; "euclidean" as they are stored.
    clusters: the number, or "auto" for the one with the best silhouette. color: a table with labels
    (an output of `vit classify`), or "folders". The same seed gives the same numbers. Raises
    VitError.
    """
    if not isinstance(clusters, str) or clusters not in ("auto", "none"):
        clusters = whole("clusters", clusters, 1)
    seed = whole("seed", seed, 0)
    found = index_for(index, paths)
    coloring = None
    if color_column is not None and (color is None or color == FOLDERS):
        raise UsageError("color_column has no effect without a table", "give color=")
    if color is not None:
        file = None if color == FOLDERS else Path(*names_of("color", color))
        coloring = Coloring(file, color_column)
    job = MapJob(
        index=found, method=method, clusters=clusters, metric=metric, color=coloring, seed=seed
    )
    check_job(job)
    with mapped(found) as opened, Watch(progress=progress) as watch:
        made = compute(opened, job, watch)
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
            notes=watch.notes,
        )
