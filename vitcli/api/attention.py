"""Attention maps of images from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from vitcli.api.images import Images, inputs_of
from vitcli.api.rows import ATTENDED, Rows, record_of_maps
from vitcli.api.running import OnError, RowSink, RunningOptions, Watch
from vitcli.checkpoints.load import Model
from vitcli.jobs.job import DEFAULT_MODEL, Running
from vitcli.models.attention import Heads
from vitcli.records import Attended, Failure
from vitcli.render.heat import Colours
from vitcli.render.styles import Style, StyleName
from vitcli.tasks.attention.attention import AttentionJob
from vitcli.tasks.attention.attention import attention as run
from vitcli.tasks.attention.query import AttentionQuery, Layer, Method, Point


def attention(
    images: Images,
    *,
    model: str | Model = DEFAULT_MODEL,
    method: Method = "raw",
    layers: int | Sequence[Layer] | Literal["all"] | None = None,
    heads: Heads | None = None,
    query: tuple[float, float] | Literal["cls"] | None = None,
    target: str | int = "top1",
    discard_ratio: float = 0.0,
    out: str | os.PathLike[str] | None = None,
    style: StyleName = "overlay",
    colormap: Colours = "inferno",
    alpha: float = 0.5,
    mass: float = 0.6,
    size: int | None = None,
    raw: bool = False,
    overwrite: bool = False,
    on_error: OnError = "row",
    progress: bool = False,
    **running: Unpack[RunningOptions],
) -> Rows[Attended | Failure]:
    """Return the attention maps of every image: one row for each, in input order, all in memory.

    images: as in `classify`. A row is `Failure`, or `Attended` with `ref.path` and `maps`. The maps
    of a layer have `values`, float32 (heads, h, w), one for each patch, and `box`, the part of the
    upright image that they cover: (top, left, bottom, right) as fractions of its sides.
    layers: numbers from 1, -1 for the last, or ["pool"] for an attention pooling. heads: "mean",
    "max" or "min" fuses them; "all", or a number from 1. query: "cls", or the patch at (x, y) in
    pixels of the image. target: the class of method="grad" by its label or number, or "top1".
    out: a folder for drawings of the maps in a `style`, and with `raw` for their values; the
    `files` of a row are their names. on_error and progress are as in `classify`.
    Raises VitError for an error that ends the run.
    """
    sink = RowSink(on_error)
    job = AttentionJob(
        inputs=inputs_of(images),
        model=model,
        running=Running(**running),
        look=AttentionQuery(
            method=method,
            layers=(layers,) if isinstance(layers, int) else layers,
            heads=heads,
            query=Point(*query) if isinstance(query, tuple) else query,
            target=target,
            discard=discard_ratio,
        ),
        style=Style(name=style, colours=colormap, alpha=alpha, mass=mass, size=size),
        raw=raw,
        out=None if out is None else Path(out),
        overwrite=overwrite,
    )
    with Watch(progress=progress) as watch:
        run(job, watch, sink)
    rows = [row for row in sink.rows if isinstance(row, Attended | Failure)]
    return Rows(rows, ATTENDED, record_of_maps, watch.notes)
