"""`vit dedupe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options.declare import Argument, Group, Option
from vitcli.cli.options.parse import output_place, parse_workers
from vitcli.cli.screen.exit import end, is_terminal
from vitcli.errors import UsageError
from vitcli.jobs.job import Inputs
from vitcli.stores import Url

IndexArgument = Annotated[
    list[str],
    Argument(
        "INDEX...",
        group=Group.INPUTS,
        help="What vit embed has written: files, quoted patterns, shards, URLs.",
    ),
]
Threshold = Annotated[
    float | None,
    Option(
        "--threshold",
        group=Group.TWINS,
        brief=True,
        help="Cosine from which images are near twins.",
        env="VIT_DEDUPE_THRESHOLD",
        metavar="COSINE",
        show_default="chosen from the scores",
    ),
]
KindOpt = Annotated[
    str | None,
    Option(
        "--kind",
        group=Group.TWINS,
        brief="bytes, pixels (same look), near (by vectors).",
        help="Kinds of twins: bytes (same file), pixels (they look the same), near (by vectors).",
        env="VIT_DEDUPE_KIND",
        metavar="KIND,...",
        show_default="bytes,pixels,near",
    ),
]
LinkageOpt = Annotated[
    Literal["star", "complete", "single"],
    Option(
        "--linkage",
        group=Group.TWINS,
        brief=False,
        help="Groups: all near the kept image (star), all near each other, or chains (single).",
        env="VIT_LINKAGE",
    ),
]
KeepOpt = Annotated[
    Literal["largest", "first", "oldest", "newest"] | None,
    Option(
        "--keep",
        group=Group.TWINS,
        brief="largest, first, oldest or newest of a group.",
        help="Which image of a group to keep; largest compares pixels, then bytes.",
        env="VIT_KEEP",
        show_default="largest",
    ),
]
LikePairs = Annotated[
    Path | None,
    Option(
        "--like-pairs",
        group=Group.TWINS,
        brief="Set the threshold from known twins.",
        help="Set the threshold from known twins: two paths a line, or an output of dedupe.",
        env="VIT_LIKE_PAIRS",
        metavar="FILE",
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
        brief="Write only the paths of twins, for xargs.",
        help="Write only the paths that are not kept, for xargs; with -0, each ends with NUL.",
    ),
]
NullOpt = Annotated[
    bool, Option("-0", "--null", group=Group.OUTPUT, help="With --paths-only: end with NUL.")
]
ResumeOpt = Annotated[
    bool,
    Option(
        "--resume",
        group=Group.LONG_RUNS,
        brief="Continue an interrupted comparison.",
        help="Continue an interrupted comparison; the blocks that are done are kept.",
        env="VIT_RESUME",
    ),
]


def reading(
    formats: o.FormatsOpt = "common",
    max_pixels: o.MaxPixels = "89.5M",
    image_timeout: o.ImageTimeout = 60.0,
    allow_outside: o.AllowOutside = False,
) -> Inputs:
    """How to read the files of an index."""
    return g.reading(formats, None, max_pixels, image_timeout, allow_outside)


@g.spelled_as(reading, g.screen, g.overwrite)
def dedupe(
    common: g.Reading,
    index: IndexArgument,
    threshold: Threshold = None,
    kind: KindOpt = None,
    linkage: LinkageOpt = "star",
    keep: KeepOpt = None,
    like_pairs: LikePairs = None,
    out: Out = None,
    format: FormatOpt = None,
    paths_only: PathsOnly = False,
    null: NullOpt = False,
    html: o.Html = None,
    resume: ResumeOpt = False,
    workers: o.Workers = "auto",
) -> None:
    """Find images that are there twice, in what vit embed has written. Nothing is deleted.

    A row for each member of a group, the kept one first, with its kind (the same bytes, the same
    pixels, or near), its cosine with the kept one and why it is not kept.

    Example:  vit dedupe feats.npy --html twins.html
    """
    place = output_place(out)
    if isinstance(place, Url):
        raise UsageError(f"--out {place}: twins are written to a file", "name a file")
    if paths_only and format is not None:
        raise UsageError("--paths-only and --format exclude each other", "leave out --format")
    if null and not paths_only:
        raise UsageError("-0 has no effect without --paths-only", "leave it out")
    if resume and place is None and html is None:
        raise UsageError("standard output cannot be resumed", "write to a file with --out")
    if format == "table" and place is not None:
        raise UsageError("--format table is only for a terminal", "leave out --out")
    as_table = format == "table" or (
        format is None and place is None and html is None and not paths_only and is_terminal()
    )
    with common.screen as screen:
        from vitcli.tasks.dedupe.dedupe import DedupeJob, kinds_of
        from vitcli.tasks.dedupe.dedupe import dedupe as run
        from vitcli.tasks.dedupe.find import Options

        job = DedupeJob(
            index=tuple(index),
            options=Options(threshold=threshold, kinds=kinds_of(kind), linkage=linkage, keep=keep),
            inputs=common.inputs,
            workers=parse_workers(workers),
            like_pairs=like_pairs,
            out=place,
            format=None if format == "table" else format,
            paths_only=paths_only,
            null=null,
            html=html,
            overwrite=common.overwrite,
            resume=resume,
        )
        summary, found = run(job, screen, show=not as_table)
        if as_table:
            from vitcli.cli.screen.twins import print_twins

            screen.stop()
            print_twins(found.groups)
    end(screen, summary, place or html)
