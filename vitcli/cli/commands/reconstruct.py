"""`vit reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.screen.exit import end, start_workers
from vitcli.jobs.job import DEFAULT_MODEL

Out = Annotated[
    Path,
    typer.Option("-o", "--out", help="Folder for a PNG per image.", metavar="DIR"),
]
MaskRatio = Annotated[
    float | None,
    typer.Option(
        "--mask-ratio",
        help="Share of patches to hide.",
        show_default="the model's own, or 0.6",
        min=0.0,
        max=1.0,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Random seed of the hidden patches.", min=0)]
NoPaste = Annotated[
    bool,
    typer.Option("--no-paste", help="Also show the model's prediction of the visible patches."),
]


@g.with_common
def reconstruct(
    common: g.Common,
    out: Out,
    model: o.ModelSpec = DEFAULT_MODEL,
    mask_ratio: MaskRatio = None,
    seed: Seed = 0,
    no_paste: NoPaste = False,
) -> None:
    """Hide patches and let a masked autoencoder fill them in.

    Each PNG shows the original, the masked image and the reconstruction.

    Example:  vit reconstruct photos/ -m facebook/vit-mae-base --mask-ratio 0.75 --out mae/
    """
    with common.screen as screen:
        start_workers(common.running, common.model)
        from vitcli.tasks import reconstruct as task

        job = task.ReconstructJob(
            inputs=common.inputs,
            out=out,
            model=model,
            options=common.model,
            running=common.running,
            mask_ratio=mask_ratio,
            seed=seed,
            paste=not no_paste,
            overwrite=common.overwrite,
        )
        summary = task.reconstruct(job, screen)
    end(screen, summary, out)
