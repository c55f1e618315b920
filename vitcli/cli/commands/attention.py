"""`vit attention`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from vitcli.cli.config.current import current
from vitcli.cli.options import groups as g
from vitcli.cli.options import maps as m
from vitcli.cli.options import options as o
from vitcli.cli.screen.exit import end, is_terminal, start_workers
from vitcli.errors import UsageError
from vitcli.jobs.job import DEFAULT_MODEL

if TYPE_CHECKING:
    from vitcli.models.attention import Fusion, Heads
    from vitcli.tasks.attention.query import Layer, Query

NAMED_HEADS: tuple[Fusion | Literal["all"], ...] = ("mean", "max", "min", "all")


@g.with_resuming
def attention(
    common: g.Common,
    model: o.ModelSpec = DEFAULT_MODEL,
    out: m.Out = None,
    method: m.MethodOpt = "raw",
    layer: m.LayerOpt = None,
    heads: m.HeadsOpt = None,
    query: m.QueryOpt = None,
    class_: m.Class = "top1",
    discard_ratio: m.Discard = 0.0,
    style: m.StyleOpt = "overlay",
    alpha: m.Alpha = 0.5,
    mass: m.Mass = 0.6,
    colormap: m.ColoursOpt = "inferno",
    size: m.SizeOpt = None,
    format: m.Format = "png",
    raw: m.Raw = False,
    html: o.Html = None,
    show: m.Show = False,
) -> None:
    """Draw where the model looks, as a map on each image.

    The map of photos/cat.jpg is DIR/photos/cat.png, or DIR/photos/cat.jpg.png if another image
    there is called cat. DIR/attention.jsonl has a line for every input; standard output has the
    same lines, unless it is a terminal.

    Example:  vit attention ./photos --out maps
    """
    if out is None and html is None and not show:
        raise UsageError(
            "no output is given", "name a folder with --out DIR or a page with --html, or --show"
        )
    with common.screen as screen:
        start_workers(common.running, common.model)
        from vitcli.cli.screen.preview import Preview
        from vitcli.render import styles
        from vitcli.sinks.memory import NoSink
        from vitcli.tasks.attention import attention as task
        from vitcli.tasks.attention.query import AttentionQuery

        options = common.model
        if heads is None and options.head is not None and _is_heads(str(options.head)):
            heads, options = str(options.head), replace(options, head=None)
        asked = parse_heads(heads)
        if asked is None and style == "grid" and method == "raw":
            asked = "all"
        preview = Preview()
        if show and preview.room is None:
            screen.note("--show has no effect: there is no terminal")
        job = task.AttentionJob(
            inputs=common.inputs,
            model=model,
            options=options,
            running=common.running,
            look=AttentionQuery(
                method=method,
                layers=parse_blocks(layer),
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
            config=current().text,
        )
        nowhere = NoSink() if out is None and html is None and is_terminal() else None
        summary = task.attention(job, screen, nowhere, preview.show)
    preview.print()
    end(screen, summary, out or html)


def parse_blocks(text: str | None) -> tuple[Layer, ...] | Literal["all"] | None:
    """Parse `3,6,-1`, `all` or `pool`."""
    if text is None:
        return None
    if text == "all":
        return "all"
    try:
        return tuple("pool" if part == "pool" else int(part) for part in text.split(","))
    except ValueError:
        hint = "give a number, several such as 3,6,-1, or all"
        raise UsageError(f"--layer {text} is not a list of layers", hint) from None


def parse_heads(text: str | None) -> Heads | None:
    """Parse `mean`, `max`, `min`, `all`, or a number from 1."""
    named = next((name for name in NAMED_HEADS if name == text), None)
    if text is None or named is not None:
        return named
    if not text.isdecimal():
        raise UsageError(
            f"--heads {text} is not known", "give mean, max, min, all, or a number from 1"
        )
    return int(text)


def _is_heads(text: str) -> bool:
    """Whether the value of --head selects attention heads; otherwise it names a file."""
    return text in NAMED_HEADS or text.isdecimal()


def parse_query(text: str | None) -> Query:
    """Parse `cls`, `120,80` or `30%,70%`."""
    from vitcli.tasks.attention.query import Point

    if text is None:
        return None
    if text == "cls":
        return "cls"
    number = r"(\d{1,9}(?:\.\d{1,9})?)"
    match = re.fullmatch(rf"{number}(%?)\s*,\s*{number}(%?)", text.strip())
    hint = "give cls, a place in pixels such as 120,80, or 30%,70%"
    if match is None or match[2] != match[4]:
        raise UsageError(f"--query {text} is not a place", hint)
    x, y, is_share = float(match[1]), float(match[3]), bool(match[2])
    if is_share and max(x, y) > 100:
        raise UsageError(f"--query {text} is outside the image", hint)
    scale = 100 if is_share else 1
    return Point(x / scale, y / scale, is_share)
