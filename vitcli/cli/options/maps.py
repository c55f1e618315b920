"""The options of `vit attention`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from vitcli.cli.options.declare import Group, Option

Out = Annotated[
    Path | None,
    Option(
        "-o",
        "--out",
        group=Group.OUTPUT,
        brief="Folder for the maps.",
        help="Folder for the maps, with the same tree as the inputs.",
        metavar="DIR",
    ),
]
MethodOpt = Annotated[
    Literal["raw", "rollout", "grad", "similarity"],
    Option(
        "--method",
        group=Group.MAPS,
        brief="raw, rollout, grad or similarity.",
        help="raw: the weights of one layer. rollout: all layers multiplied. grad: relevance for a"
        " class. similarity: of patches to the query.",
        env="VIT_METHOD",
    ),
]
LayerOpt = Annotated[
    str | None,
    Option(
        "--layer",
        group=Group.MAPS,
        brief="Block, from 1; several, such as 3,6,-1; or all.",
        help="Block: 1, 2, ... or -1 for the last; several, such as 3,6,-1; all; or pool for the"
        " attention pooling.",
        env="VIT_LAYER",
        metavar="N|all",
        show_default="-1; pool if the model has one",
    ),
]
HeadsOpt = Annotated[
    str | None,
    Option(
        "--heads",
        group=Group.MAPS,
        brief="mean, max, min, all, or the number of one.",
        help="mean, max or min over the heads; all heads, a map for each; or the number of one"
        " head, from 1. --head takes the same values.",
        metavar="mean|max|min|all|N",
        show_default="mean; all for --style grid",
    ),
]
QueryOpt = Annotated[
    str | None,
    Option(
        "--query",
        group=Group.MAPS,
        brief="What attends: cls, or the patch at X,Y or 30%,70%.",
        help="The query: cls, or the patch at X,Y in pixels of the image or as 30%,70%.",
        metavar="cls|X,Y",
        show_default="cls, or the mean of all patches",
    ),
]
Class = Annotated[
    str,
    Option(
        "--class",
        group=Group.MAPS,
        brief=False,
        help="With --method grad: a label, its number, or top1, the best label of each image.",
        metavar="LABEL|N|top1",
    ),
]
Discard = Annotated[
    float,
    Option(
        "--discard-ratio",
        group=Group.MAPS,
        help="With --method rollout: the share of weights to leave out, smallest first.",
        min=0.0,
        max=0.999,
        metavar="SHARE",
    ),
]
StyleOpt = Annotated[
    Literal["overlay", "heatmap", "panel", "grid", "mask"],
    Option(
        "--style",
        group=Group.OUTPUT,
        brief="overlay, heatmap, panel, grid or mask.",
        help="panel: image, heatmap and overlay. grid: all heads, layer by layer. mask: only the"
        " patches that hold --mass of the attention.",
        env="VIT_STYLE",
    ),
]
Alpha = Annotated[
    float,
    Option(
        "--alpha",
        group=Group.OUTPUT,
        help="Opacity of the map, from 0 to 1.",
        min=0.0,
        max=1.0,
        metavar="SHARE",
    ),
]
Mass = Annotated[
    float,
    Option(
        "--mass",
        group=Group.OUTPUT,
        help="With --style mask: the share of the attention to show.",
        min=0.0,
        max=1.0,
        metavar="SHARE",
    ),
]
ColoursOpt = Annotated[
    Literal["inferno", "viridis", "turbo", "hot", "gray"],
    Option("--colormap", group=Group.OUTPUT, help="Colours of the map.", env="VIT_COLORMAP"),
]
SizeOpt = Annotated[
    int | None,
    Option(
        "--size",
        group=Group.OUTPUT,
        help="Longer side of the written images, in pixels.",
        min=8,
        max=16384,
        show_default="that of the input",
        metavar="N",
    ),
]
Format = Annotated[
    Literal["png", "jpg"],
    Option(
        "--format",
        group=Group.OUTPUT,
        help="Format of the written images.",
        env="VIT_PICTURE_FORMAT",
    ),
]
Raw = Annotated[
    bool,
    Option(
        "--raw", group=Group.OUTPUT, help="Also write the maps as .npy: float32, (heads, h, w)."
    ),
]
Show = Annotated[
    bool,
    Option(
        "--show",
        group=Group.OUTPUT,
        brief="Show the first image with its map in the terminal.",
        help="Show the first image with its map in the terminal.",
    ),
]
