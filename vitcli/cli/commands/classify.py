"""`vit classify`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from vitcli.cli.config.current import current
from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options.parse import output_place
from vitcli.cli.screen.exit import end, is_terminal, start_workers
from vitcli.errors import UsageError
from vitcli.tasks.classify.select import parse

TopK = Annotated[
    int | None,
    typer.Option(
        "-k",
        "--top-k",
        help="Number of labels per image; for a sigmoid with --threshold, all that reach it.",
        show_default="5",
        min=1,
        envvar="VIT_TOP_K",
    ),
]
ScoresOpt = Annotated[
    Literal["prob", "softmax", "sigmoid", "logit", "cosine"],
    typer.Option(
        "--scores",
        help="prob is what the model's head is trained for (vit info tells); softmax, sigmoid and "
        "logit (the raw output) override it; cosine is for --classes.",
        envvar="VIT_SCORES",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="Leave out labels with a lower score.",
        envvar="VIT_THRESHOLD",
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        help="Write to FILE (.jsonl, .csv, .tsv, .parquet) or to a URL (s3://...).",
        metavar="FILE",
    ),
]
FormatOpt = Annotated[
    Literal["jsonl", "parquet", "csv", "tsv", "table"] | None,
    typer.Option(
        "--format",
        help="Format, if the suffix of FILE names none. On a terminal: table; in a pipe: jsonl.",
        show_default=False,
    ),
]


SelectOpt = Annotated[
    str | None,
    typer.Option(
        "--select",
        help='Keep only images for which EXPR holds: label == "cat" and score >= 0.8.',
        metavar="EXPR",
    ),
]
PathsOnly = Annotated[
    bool,
    typer.Option(
        "--paths-only",
        help="Write only the paths, for xargs; with -0, each ends with NUL.",
    ),
]


@g.with_words
def classify(
    common: g.Common,
    model: o.ModelSpecs = o.DEFAULT_MODELS,
    top_k: TopK = None,
    out: Out = None,
    format: FormatOpt = None,
    scores: ScoresOpt = "prob",
    threshold: Threshold = None,
    select: SelectOpt = None,
    paths_only: PathsOnly = False,
    html: o.Html = None,
) -> None:
    """Label images with their top-k classes, one row per input.

    --select compares the best prediction's label, score and index, and the path, with == != < <=
    > >=, in (...) and ~ (a pattern such as "*cat*"), joined by and, or, not. any(...) tests each
    of the top-k, which have a rank, too: any(label == "cat" and rank <= 3).

    Example:  vit classify ./photos --top-k 5 -o labels.jsonl
    """
    place = output_place(out)
    selection = parse(select) if select is not None else None
    if format == "table" and place is not None:
        raise UsageError(
            "--format table is only for a terminal", "leave out --out, or use --format csv"
        )
    if paths_only and format is not None:
        raise UsageError("--paths-only and --format exclude each other", "leave out --format")
    if threshold is not None and threshold > 1 and scores != "logit":
        raise UsageError(
            f"--threshold {threshold:g}: no score is above 1", "give a share, such as 0.5"
        )
    as_table = format == "table" or (
        format is None and place is None and html is None and not paths_only and is_terminal()
    )
    if as_table and html is not None:
        raise UsageError(
            "--format table and --html exclude each other", "leave out --format or --html"
        )
    if place is None and html is None and is_terminal():
        common.screen.share_terminal(shows_failures=not paths_only)
    with common.screen as screen:
        if not common.is_shared:
            start_workers(common.running, common.model)
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
            words=common.words,
            paths_only=paths_only,
            out=place,
            format=None if as_table else format,
            html=html,
            overwrite=common.overwrite,
            resuming=common.resuming,
            config=current().text,
        )
        is_here = as_table and not common.is_shared
        table = TableSink(bars=scores not in ("logit", "cosine")) if is_here else None
        summary = share(job, screen, devices=common.devices, ray=common.ray, sink=table)
    end(screen, summary, place or html)
