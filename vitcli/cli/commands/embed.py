"""`vit embed`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from vitcli.cli.config.current import current
from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options.parse import output_place, parse_layers
from vitcli.cli.screen.exit import end, is_terminal, start_workers
from vitcli.errors import UsageError
from vitcli.jobs.job import DEFAULT_MODEL

Layer = Annotated[
    int | None,
    typer.Option(
        "--layer",
        help="Layer to use: 0 is the embedding output, i is block i, -1 is the last block.",
        envvar="VIT_LAYER",
        show_default="-1",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        help="Several layers, concatenated in this order, such as 3,6,-1.",
        envvar="VIT_LAYERS",
        metavar="N,N,...",
    ),
]
PoolOpt = Annotated[
    Literal["cls", "mean", "cls+mean", "map", "patches", "tokens", "joint"] | None,
    typer.Option(
        "--pool",
        help="How to pool tokens into a vector; patches and tokens keep one for each; joint is the "
        "vector to compare with texts.",
        envvar="VIT_POOL",
        show_default="the model's own",
    ),
]
Norm = Annotated[
    bool,
    typer.Option(
        "--norm/--no-norm",
        help="Apply the model's final LayerNorm.",
        envvar="VIT_NORM",
    ),
]
L2 = Annotated[
    bool,
    typer.Option("--l2", help="Scale vectors to length 1.", envvar="VIT_L2"),
]
StoreOpt = Annotated[
    Literal["fp32", "fp16"],
    typer.Option(
        "--store",
        help="Precision of the output.",
        envvar="VIT_STORE",
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        help="Write to FILE (.npy, .npz, .safetensors, .parquet, .jsonl) or to a URL (s3://...).",
        metavar="FILE",
    ),
]
FormatOpt = Annotated[
    Literal["npy", "npz", "safetensors", "jsonl", "parquet"] | None,
    typer.Option(
        "--format",
        help="Format, if the suffix of FILE names none. In a pipe: jsonl.",
        show_default=False,
    ),
]


@g.with_texts
def embed(
    common: g.Common,
    model: o.ModelSpec = DEFAULT_MODEL,
    layer: Layer = None,
    layers: Layers = None,
    pool: PoolOpt = None,
    norm: Norm = True,
    l2: L2 = False,
    out: Out = None,
    format: FormatOpt = None,
    store: StoreOpt = "fp32",
) -> None:
    """Extract features: a vector or a grid of tokens per image. Or a vector per text (--text).

    feats.index.jsonl, with a line for every input, and feats.meta.json are written next to
    feats.npy.

    Example:  vit embed ./photos --layer -1 --out feats.npy
    """
    place = output_place(out)
    if layer is not None and layers is not None:
        raise UsageError("--layer and --layers are both given", "use one of them")
    if place is None and is_terminal():
        raise UsageError("features are not printed on a terminal", "use --out feats.npy, or a pipe")
    asked = parse_layers(layers) if layers is not None else (-1 if layer is None else layer,)
    with common.screen as screen:
        if not common.is_shared and common.texts is None:
            start_workers(common.running, common.model)
        from vitcli.fleet.share import share
        from vitcli.tasks.embed import EmbedJob

        job = EmbedJob(
            inputs=common.inputs,
            model=model,
            options=common.model,
            running=common.running,
            layers=asked,
            pool=pool,
            norm=norm,
            l2=l2,
            store=store,
            texts=common.texts,
            out=place,
            format=format,
            overwrite=common.overwrite,
            resuming=common.resuming,
            config=current().text,
        )
        summary = share(job, screen, devices=common.devices, ray=common.ray)
    end(screen, summary, place)
