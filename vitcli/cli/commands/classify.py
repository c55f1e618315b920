"""`vit classify`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options.parse import output_place
from vitcli.cli.screen.exit import end, is_terminal, start_workers
from vitcli.errors import UsageError
from vitcli.jobs.job import DEFAULT_MODEL
from vitcli.tasks.classify.select import parse

TopK = Annotated[
    int,
    typer.Option(
        "-k",
        "--top-k",
        help="Labels for each image.",
        min=1,
        envvar="VIT_TOP_K",
    ),
]
ScoresOpt = Annotated[
    Literal["prob", "logit"],
    typer.Option(
        "--scores",
        help="Probabilities, or raw logits.",
        envvar="VIT_SCORES",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="Leave out labels that score less.",
        envvar="VIT_THRESHOLD",
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        help="Write to FILE: .jsonl, .csv, .tsv or .parquet; or to a URL, s3://...",
        metavar="FILE",
    ),
]
FormatOpt = Annotated[
    Literal["jsonl", "parquet", "csv", "tsv", "table"] | None,
    typer.Option(
        "--format",
        help="Format, where the suffix does not say. On a terminal: table; in a pipe: jsonl.",
        show_default=False,
    ),
]


SelectOpt = Annotated[
    str | None,
    typer.Option(
        "--select",
        help='Leave out images unless this holds: label == "cat" and score >= 0.8.',
        metavar="EXPR",
    ),
]
PathsOnly = Annotated[
    bool,
    typer.Option(
        "--paths-only",
        help="Write the paths alone, for xargs; NUL-separated with -0.",
    ),
]


@g.with_devices
def classify(
    common: g.Common,
    model: o.ModelSpecs = (DEFAULT_MODEL,),  # type: ignore[assignment]  # typer makes it a list
    top_k: TopK = 5,
    out: Out = None,
    format: FormatOpt = None,
    scores: ScoresOpt = "prob",
    threshold: Threshold = None,
    select: SelectOpt = None,
    paths_only: PathsOnly = False,
    html: o.Html = None,
) -> None:
    """Label images: the top-k classes of each, one row for every input.

    An expression for --select compares label, score, index and path of the best prediction with
    == != < <= > >=, in (...), ~ (a pattern such as "*cat*") and joins with and, or, not.
    any(...) asks for each of the top-k, whose rank it knows: any(label == "cat" and rank <= 3).

    Example:  vit classify ./photos --top-k 5 -o labels.jsonl
    """
    place = output_place(out)
    selection = parse(select) if select is not None else None
    if format == "table" and place is not None:
        raise UsageError("a table is for the terminal", "leave out --out, or use --format csv")
    if paths_only and format is not None:
        raise UsageError("--paths-only is a format of its own", "leave out --format")
    as_table = format == "table" or (
        format is None and place is None and html is None and not paths_only and is_terminal()
    )
    if as_table and html is not None:
        raise UsageError("a table and a page are two outputs", "leave out --format or --html")
    if place is None and html is None and is_terminal():
        common.screen.share_terminal(shows_failures=not paths_only)
    with common.screen as screen:
        if common.ray is None:
            start_workers(common.running)
        from vitcli.cli.screen.table import TableSink
        from vitcli.fleet.share import share
        from vitcli.tasks.classify.classify import ClassifyJob

        job = ClassifyJob(
            inputs=common.inputs,
            models=tuple(model),
            options=common.model,
            running=common.running,
            top_k=top_k,
            scores=scores,
            threshold=threshold,
            select=selection,
            paths_only=paths_only,
            out=place,
            format=None if as_table else format,
            html=html,
            overwrite=common.overwrite,
            resuming=common.resuming,
        )
        table = TableSink(bars=scores == "prob") if as_table else None
        summary = share(job, screen, ray=common.ray, sink=table)
    end(screen, summary, place or html)
