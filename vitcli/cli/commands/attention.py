"""`vit attention`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.screen.exit import end, is_terminal, start_workers
from vitcli.errors import UsageError
from vitcli.jobs.job import DEFAULT_MODEL

if TYPE_CHECKING:
    from vitcli.models.attention import Heads
    from vitcli.tasks.attention.query import Layer, Query


FUSIONS = ("mean", "max", "min", "all")


Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        help="Folder for the pictures, in a tree like that of the inputs.",
        metavar="DIR",
    ),
]
MethodOpt = Annotated[
    Literal["raw", "rollout", "grad", "similarity"],
    typer.Option(
        "--method",
        help="raw: one layer's weights. rollout: those of all layers, multiplied. grad: what counts"
        " for a class. similarity: patches like the query.",
        envvar="VIT_METHOD",
    ),
]
LayerOpt = Annotated[
    str | None,
    typer.Option(
        "--layer",
        help="Block 1, 2, ... or -1, the last; several (3,6,-1); all; pool, an attention pooling.",
        envvar="VIT_LAYER",
        metavar="N|all",
        show_default="-1, or pool where there is one",
    ),
]
HeadsOpt = Annotated[
    str | None,
    typer.Option(
        "--heads",
        help="mean, max or min of the heads; all of them, or one by its number from 1. --head does"
        " as well, unless that is a file.",
        metavar="mean|max|min|all|N",
        show_default="mean; all for --style grid",
    ),
]
QueryOpt = Annotated[
    str | None,
    typer.Option(
        "--query",
        help="Who looks: cls, or the patch at X,Y in pixels of the picture or as 30%,70%.",
        metavar="cls|X,Y",
        show_default="cls, or the mean of all patches",
    ),
]
Class = Annotated[
    str,
    typer.Option(
        "--class",
        help="Of --method grad: a label, its number, or top1, the best of each image.",
        metavar="LABEL|N|top1",
    ),
]
Discard = Annotated[
    float,
    typer.Option(
        "--discard-ratio",
        help="Of --method rollout: the share of smallest weights that is left out.",
        min=0.0,
        max=0.999,
    ),
]
StyleOpt = Annotated[
    Literal["overlay", "heatmap", "panel", "grid", "mask"],
    typer.Option(
        "--style",
        help="What is drawn. panel: photo, heatmap and overlay. grid: all heads, layer by layer."
        " mask: what holds --mass of the attention.",
        envvar="VIT_STYLE",
    ),
]
Alpha = Annotated[float, typer.Option("--alpha", help="How much the map covers.", min=0.0, max=1.0)]
Mass = Annotated[
    float,
    typer.Option("--mass", help="Of --style mask: the share of attention.", min=0.0, max=1.0),
]
ColoursOpt = Annotated[
    Literal["inferno", "viridis", "turbo", "hot", "gray"],
    typer.Option("--colormap", help="From little to much.", envvar="VIT_COLORMAP"),
]
SizeOpt = Annotated[
    int | None,
    typer.Option(
        "--size",
        help="Pixels of the longer side of a picture.",
        min=8,
        max=16384,
        show_default="the photo's own",
    ),
]
Format = Annotated[
    Literal["png", "jpg"],
    typer.Option("--format", help="Of the pictures.", envvar="VIT_PICTURE_FORMAT"),
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Write the maps too: .npy, float32, (heads, h, w).")
]
Show = Annotated[
    bool, typer.Option("--show", help="Show the overlay of the first image in the terminal.")
]


@g.with_resuming
def attention(
    common: g.Common,
    model: o.ModelSpec = DEFAULT_MODEL,
    out: Out = None,
    method: MethodOpt = "raw",
    layer: LayerOpt = None,
    heads: HeadsOpt = None,
    query: QueryOpt = None,
    class_: Class = "top1",
    discard_ratio: Discard = 0.0,
    style: StyleOpt = "overlay",
    alpha: Alpha = 0.5,
    mass: Mass = 0.6,
    colormap: ColoursOpt = "inferno",
    size: SizeOpt = None,
    format: Format = "png",
    raw: Raw = False,
    html: o.Html = None,
    show: Show = False,
) -> None:
    """See where the model looks: a map for each image, drawn on it.

    photos/cat.jpg becomes DIR/photos/cat.jpg.png; DIR/attention.jsonl has a line for every input,
    and so has standard output, unless it is a terminal.

    Example:  vit attention ./photos --out maps
    """
    if out is None and html is None and not show:
        raise UsageError(
            "nothing is asked for", "name a folder with --out DIR or a page with --html, or --show"
        )
    with common.screen as screen:
        start_workers(common.running)
        from vitcli.cli.screen.preview import Preview
        from vitcli.render import styles
        from vitcli.sinks.memory import NoSink
        from vitcli.tasks.attention.attention import AttentionJob
        from vitcli.tasks.attention.attention import attention as run
        from vitcli.tasks.attention.query import AttentionQuery

        options = common.model
        if heads is None and options.head is not None and is_heads(str(options.head)):
            heads, options = str(options.head), replace(options, head=None)
        asked = parse_heads(heads)
        if asked is None and style == "grid" and method == "raw":
            asked = "all"
        preview = Preview()
        if show and preview.room is None:
            screen.note("--show: there is no terminal here")
        job = AttentionJob(
            inputs=common.inputs,
            model=model,
            options=options,
            running=common.running,
            look=AttentionQuery(
                method=method,
                layers=parse_layers(layer),
                heads=asked,
                query=parse_query(query),
                target=class_,
                discard=discard_ratio,
            ),
            style=styles.Style(name=style, colours=colormap, alpha=alpha, mass=mass, size=size),
            file_format=format,
            raw=raw,
            out=out,
            html=html,
            echo=not is_terminal(),
            show=preview.room if show else None,
            overwrite=common.overwrite,
            resuming=common.resuming,
        )
        nowhere = NoSink() if out is None and html is None and is_terminal() else None
        summary = run(job, screen, nowhere, preview.show)
    preview.print()
    end(screen, summary, out or html)


def parse_layers(text: str | None) -> tuple[Layer, ...] | Literal["all"] | None:
    """`3,6,-1`, `all`, `pool`."""
    if text is None or text == "all":
        return text  # type: ignore[return-value]  # it is "all"
    try:
        return tuple("pool" if part == "pool" else int(part) for part in text.split(","))
    except ValueError:
        hint = "give a number, several such as 3,6,-1, or all"
        raise UsageError(f"--layer {text}", hint) from None


def parse_heads(text: str | None) -> Heads | None:
    """`mean`, `max`, `min`, `all`, or a number from 1."""
    if text is None or text in FUSIONS:
        return text  # type: ignore[return-value]  # one of these
    if not is_heads(text):
        raise UsageError(f"--heads {text}", "give mean, max, min, all, or a number from 1")
    return int(text)


def is_heads(text: str) -> bool:
    """Whether it says which heads are meant, and names no file."""
    return text in FUSIONS or text.isdecimal()


def parse_query(text: str | None) -> Query:
    """`cls`, `120,80` or `30%,70%`."""
    from vitcli.tasks.attention.query import Point

    if text is None or text == "cls":
        return text  # type: ignore[return-value]  # it is "cls"
    number = r"(\d{1,9}(?:\.\d{1,9})?)"
    match = re.fullmatch(rf"{number}(%?)\s*,\s*{number}(%?)", text.strip())
    hint = "give cls, a place in pixels such as 120,80, or 30%,70%"
    if match is None or match[2] != match[4]:
        raise UsageError(f"--query {text}", hint)
    x, y, is_share = float(match[1]), float(match[3]), bool(match[2])
    if is_share and max(x, y) > 100:
        raise UsageError(f"--query {text} is beyond the picture", hint)
    scale = 100 if is_share else 1
    return Point(x / scale, y / scale, is_share)
