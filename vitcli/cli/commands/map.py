"""`vit map`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options.declare import Argument, Group, Option
from vitcli.cli.options.parse import output_place, parse_workers, shorten
from vitcli.cli.screen.exit import end, is_terminal
from vitcli.cli.screen.screen import Screen
from vitcli.errors import UsageError

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
IndexArgument = Annotated[
    list[str],
    Argument(
        "INDEX...",
        group=Group.INPUTS,
        brief="Files that vit embed wrote; quoted patterns, URLs.",
        help="Files of vit embed: .npy, .npz, .safetensors, .parquet; quoted patterns, URLs.",
    ),
]
Out = Annotated[
    str | None,
    Option(
        "-o",
        "--out",
        group=Group.OUTPUT,
        brief="Page (.html), or table (.jsonl, .csv, .parquet).",
        help="Write a page (.html) or a table (.jsonl, .csv, .tsv, .parquet) to FILE.",
        metavar="FILE",
    ),
]
FormatOpt = Annotated[
    Literal["jsonl", "csv", "tsv", "parquet"] | None,
    Option("--format", group=Group.OUTPUT, help="Format of the table, if FILE has no suffix."),
]
MethodOpt = Annotated[
    Literal["pca", "umap"],
    Option(
        "--method",
        group=Group.MAPS,
        brief="How the dots are placed.",
        help="Places by principal components, or by UMAP (pip install 'vitcli[map]').",
        env="VIT_MAP_METHOD",
    ),
]
ClustersOpt = Annotated[
    str,
    Option(
        "--clusters",
        group=Group.MAPS,
        brief="Number of clusters.",
        help="Number of clusters; auto takes the one with the best silhouette.",
        metavar="K|auto|none",
        env="VIT_CLUSTERS",
    ),
]
MetricOpt = Annotated[
    Literal["cosine", "euclidean"],
    Option(
        "--metric",
        group=Group.MAPS,
        help="Compare vectors by their angle, or by their distance as they are stored.",
        env="VIT_MAP_METRIC",
    ),
]
Color = Annotated[
    str | None,
    Option(
        "--color",
        group=Group.MAPS,
        brief="Labels from a table, or the folders.",
        help="Labels from an output of vit classify or another table, or the images' folders.",
        metavar="FILE|folders",
    ),
]
ColorColumn = Annotated[
    str | None,
    Option(
        "--color-column",
        group=Group.MAPS,
        help="Column of --color with the labels.",
        metavar="NAME",
        show_default="label, or the best prediction",
    ),
]
Sort = Annotated[
    Literal["index", "distance"],
    Option(
        "--sort",
        group=Group.OUTPUT,
        brief="Order of the table; distance: oddest first.",
        help="Order of the table: as in the index, or the oddest images first.",
    ),
]
Thumbnails = Annotated[
    int,
    Option(
        "--thumbnails",
        group=Group.OUTPUT,
        brief=True,
        help="Number of thumbnails in the page.",
        min=0,
        env="VIT_THUMBNAILS",
        metavar="N",
    ),
]
Seed = Annotated[
    int, Option("--seed", group=Group.MAPS, help="Random seed.", min=0, env="VIT_SEED", metavar="N")
]


@g.with_screen
def map(
    screen: Screen,
    index: IndexArgument,
    out: Out = None,
    format: FormatOpt = None,
    html: o.Html = None,
    method: MethodOpt = "pca",
    clusters: ClustersOpt = "auto",
    metric: MetricOpt = "cosine",
    color: Color = None,
    color_column: ColorColumn = None,
    sort: Sort = "index",
    thumbnails: Thumbnails = 1000,
    seed: Seed = 0,
    workers: o.Workers = "auto",
    overwrite: o.Overwrite = False,
) -> None:
    """Show all images of an index as dots: similar ones are close, clusters have colours.

    The page (.html) needs no network: it zooms, shows thumbnails, finds paths, and gives the paths
    of the images that a lasso chooses. The table has path, x, y, cluster (0 is the largest),
    distance to the cluster's middle (the largest are the oddest images), and row.

    Example:  vit map feats.npy -o map.html --clusters 20
    """
    place = output_place(out)
    if place is not None and not isinstance(place, Path):
        raise UsageError(f"--out {shorten(str(out))} is not a file of this machine", "name a file")
    suffix = place.suffix.lower() if place is not None else ""
    if suffix == ".html":
        if html is not None or format is not None:
            raise UsageError(
                "--out is a page already", "use --out for a table, --html for the page"
            )
        place, html, suffix = None, place, ""
    elif place is not None and format is None and suffix not in SUFFIXES:
        raise UsageError(
            f"--out {shorten(str(out))} is not a known format",
            "end it in .html, .jsonl, .csv, .tsv or .parquet",
        )
    if place is None and html is None and is_terminal():
        raise UsageError("no output is given", "add -o map.html, or -o map.parquet for a table")
    if sort == "distance" and place is None and html is not None:
        raise UsageError("--sort has no effect on the page", "its list begins with the oddest")
    if color_column is not None and color in (None, "folders"):
        raise UsageError("--color-column has no effect without a table", "add --color FILE")
    with screen:
        from vitcli.tasks.map.labels import FOLDERS, Coloring
        from vitcli.tasks.map.map import MapJob, map_index

        coloring = None
        if color is not None:
            coloring = Coloring(None if color == FOLDERS else Path(color), color_column)
        job = MapJob(
            index=tuple(index),
            method=method,
            clusters=parse_clusters(clusters),
            metric=metric,
            color=coloring,
            seed=seed,
            sort=sort,
            thumbnails=thumbnails,
            workers=parse_workers(workers),
            out=place,
            format=format or suffix.removeprefix(".") or "jsonl",
            html=html,
            overwrite=overwrite,
        )
        summary = map_index(job, screen)
    end(screen, summary, place or html)


def parse_clusters(text: str) -> int | Literal["auto", "none"]:
    """Parse a number, `auto` or `none`."""
    if text == "auto":
        return "auto"
    if text == "none":
        return "none"
    if not text.isdecimal() or not 1 <= len(text) <= 5 or int(text) < 1:
        raise UsageError(
            f"--clusters {shorten(text)} is not a number of clusters",
            "give a number, auto, or none",
        )
    return int(text)
