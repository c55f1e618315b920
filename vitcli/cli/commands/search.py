"""`vit search`."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options.declare import Argument, Group, Option
from vitcli.cli.options.parse import output_place
from vitcli.cli.options.words import TextCleanOpt, Tokenizer
from vitcli.cli.screen.exit import end, is_terminal, start_workers
from vitcli.errors import UsageError
from vitcli.stores import Url

IndexArgument = Annotated[
    str,
    Argument(
        "INDEX",
        group=Group.INPUTS,
        brief="A file that vit embed wrote.",
        help="A file that vit embed wrote, a pattern in quotes, or a URL; --index adds more.",
    ),
]
More = Annotated[
    list[str] | None,
    Option(
        "--index",
        group=Group.INPUTS,
        help="Another file of the index; repeatable.",
        metavar="INDEX",
    ),
]
Text = Annotated[
    list[str] | None,
    Option(
        "--text",
        group=Group.INPUTS,
        brief="Search for this text, in an index of --pool joint.",
        help="Search for this text; for an index of --pool joint; repeatable.",
        metavar="TEXT",
    ),
]
Minus = Annotated[
    list[str] | None,
    Option(
        "--minus",
        group=Group.INPUTS,
        brief="Less of this, for each --text.",
        help="Less of this, for each --text; repeatable.",
        metavar="TEXT",
    ),
]
Like = Annotated[
    list[str] | None,
    Option(
        "--like",
        group=Group.INPUTS,
        brief="Search for a row, by its path or number.",
        help="Search for a row of the index, by its path or number: no model; repeatable.",
        metavar="PATH|ROW",
    ),
]
Vectors = Annotated[
    str | None,
    Option(
        "--vectors",
        group=Group.INPUTS,
        brief="Search for each vector of FILE.",
        help="Search for each vector of FILE.",
        metavar="FILE",
    ),
]
K = Annotated[
    int,
    Option(
        "-k",
        "--top-k",
        group=Group.OUTPUT,
        brief=True,
        help="Number of results per query.",
        min=1,
        env="VIT_TOP_K",
        metavar="N",
    ),
]
Threshold = Annotated[
    float | None,
    Option(
        "--threshold",
        group=Group.OUTPUT,
        brief=True,
        help="Leave out results with a lower score.",
        env="VIT_SEARCH_THRESHOLD",
        metavar="SCORE",
    ),
]
MetricOpt = Annotated[
    Literal["cosine", "dot"],
    Option(
        "--metric",
        group=Group.OUTPUT,
        help="How to compare: the cosine, or the dot product.",
        env="VIT_SEARCH_METRIC",
    ),
]
Approximate = Annotated[
    bool,
    Option(
        "--approximate",
        group=Group.SPEED,
        brief="Faster for millions of rows, may miss a few.",
        help="Faster for millions of rows, may miss a few: pip install 'vitcli[index]'.",
        env="VIT_APPROXIMATE",
    ),
]
NotItself = Annotated[
    bool,
    Option("--not-itself", group=Group.OUTPUT, brief=True, help="Leave out the query's own file."),
]
Model = Annotated[
    str | None,
    Option(
        "-m",
        "--model",
        group=Group.MODEL,
        brief="The model of the index, where it is now.",
        help="Where the model of the index is now.",
        metavar="MODEL",
        show_default="as the index says",
    ),
]
Out = Annotated[
    str | None,
    Option(
        "-o",
        "--out",
        group=Group.OUTPUT,
        brief="Write to FILE: .jsonl, .csv, .tsv or .parquet.",
        help="Write to FILE (.jsonl, .csv, .tsv, .parquet).",
        metavar="FILE",
    ),
]
FormatOpt = Annotated[
    Literal["jsonl", "csv", "tsv", "parquet", "table"] | None,
    Option(
        "--format",
        group=Group.OUTPUT,
        brief=False,
        help="Format, if the suffix of FILE names none. On a terminal: table; in a pipe: jsonl.",
    ),
]
PathsOnly = Annotated[
    bool,
    Option(
        "--paths-only",
        group=Group.OUTPUT,
        brief="Write only the paths, for xargs.",
        help="Write only the paths, for xargs; with -0, each ends with NUL.",
    ),
]


@g.with_queries
def search(
    common: g.Common,
    index: IndexArgument,
    more: More = None,
    text: Text = None,
    minus: Minus = None,
    like: Like = None,
    vectors: Vectors = None,
    k: K = 10,
    threshold: Threshold = None,
    metric: MetricOpt = "cosine",
    not_itself: NotItself = False,
    approximate: Approximate = False,
    model: Model = None,
    text_clean: TextCleanOpt = None,
    tokenizer: Tokenizer = None,
    offline: o.Offline = False,
    out: Out = None,
    format: FormatOpt = None,
    paths_only: PathsOnly = False,
    html: o.Html = None,
) -> None:
    """Find the images of an index that are nearest to images, texts or other rows.

    The index is what vit embed wrote; queries are embedded by its model. All rows are compared,
    unless --approximate is given.

    Example:  vit search feats.npy cat.jpg -k 20
    """
    place = output_place(out)
    if isinstance(place, Url):
        raise UsageError(f"results are written to a file, not to {place}", "name a file with --out")
    if format == "table" and (place is not None or paths_only or html is not None):
        raise UsageError("--format table is only for a terminal", "leave it out")
    if approximate and common.ray is not None:
        raise UsageError("--approximate and --ray exclude each other", "leave out one of them")
    as_table = format == "table" or (
        format is None and place is None and html is None and not paths_only and is_terminal()
    )
    if place is None and html is None and is_terminal():
        common.screen.share_terminal(loads=as_table)
    # The search has a thread for each processor; threads of BLAS below them would only wait.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with common.screen as screen:
        from vitcli.cli.screen.table import QueryTable
        from vitcli.fleet.searching import finder
        from vitcli.tasks.search.queries import Asked, Embedding
        from vitcli.tasks.search.search import SearchJob
        from vitcli.tasks.search.search import search as run

        inputs, null = common.inputs, common.inputs.null and paths_only
        job = SearchJob(
            index=(index, *(more or ())),
            asked=Asked(
                inputs=inputs,
                texts=tuple(text or ()),
                minus=tuple(minus or ()),
                like=tuple(like or ()),
                vectors=vectors,
            ),
            embedding=Embedding(
                model=model,
                running=common.running,
                clean=text_clean,
                tokenizer=tokenizer,
                offline=offline,
            ),
            k=k,
            metric=metric,
            threshold=threshold,
            not_itself=not_itself,
            approximate=approximate,
            out=place,
            format=None if as_table else format,
            paths_only=paths_only,
            null=null,
            html=html,
            overwrite=common.overwrite,
        )
        if inputs.paths or inputs.files_from is not None:
            start_workers(common.running)
        table = QueryTable(screen.stop) if as_table else None
        summary = run(job, screen, table, finder(common.ray))
    end(screen, summary, place or html)
