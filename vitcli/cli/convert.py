"""`vit convert`."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitcli.cli import options as o
from vitcli.cli.screen import Screen
from vitcli.tasks.job import ModelOptions

if TYPE_CHECKING:
    from vitcli.tasks.convert import Conversion


class To(StrEnum):
    HF = "hf"
    TIMM = "timm"
    ONNX = "onnx"


class Precision(StrEnum):
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


Source = Annotated[str, typer.Argument(metavar="SRC", help=o.MODEL_HELP, show_default=False)]
Target = Annotated[
    Path,
    typer.Argument(
        metavar="DST", help="Directory to make, or a file that ends in .onnx.", show_default=False
    ),
]
ToOpt = Annotated[To, typer.Option("--to", help="Who shall open it.", show_default=False)]
DtypeOpt = Annotated[Precision, typer.Option("--dtype", help="Precision of the weights written.")]
Verify = Annotated[
    bool,
    typer.Option("--verify", help="Load both and compare logits and hidden states, or fail."),
]


def convert(
    source: Source,
    target: Target,
    to: ToOpt,
    dtype: DtypeOpt = Precision.FP32,
    verify: Verify = False,
    overwrite: o.Overwrite = False,
    layout: o.Layout = None,
    labels: o.Labels = None,
    image_size: o.ImageSize = None,
    preprocess: o.Preprocess = None,
    num_heads: o.NumHeads = None,
    head: o.Head = None,
    sha256: o.Sha256 = None,
    offline: o.Offline = False,
    quiet: o.Quiet = False,
) -> None:
    """Rewrite a checkpoint for another library, with its labels and preprocessing.

    Examples:

    vit convert timm/vit_base_patch16_224.augreg_in1k out/ --to hf --verify

    vit convert google/vit-base-patch16-224 out/ --to timm --verify

    vit convert facebook/dinov2-base dinov2.onnx --to onnx --verify

    vit convert weights.pth out/ --to hf --num-heads 6 --labels names.txt

    vit convert google/vit-large-patch16-224 half/ --to hf --dtype fp16
    """
    with Screen(quiet=quiet, progress=False) as screen:
        from vitcli.tasks.convert import ConvertJob
        from vitcli.tasks.convert import convert as run

        job = ConvertJob(
            source=source,
            target=target,
            to=to.value,
            dtype=dtype.value,
            verify=verify,
            overwrite=overwrite,
            options=ModelOptions(
                layout=layout,
                labels=labels,
                image_size=o.parse_image_size(image_size),
                preprocess=preprocess.value if preprocess else None,
                num_heads=num_heads,
                head=head,
                sha256=sha256,
                offline=offline,
            ),
        )
        done = run(job, screen.note)
    if not quiet:
        _report(done, source, target)


def _report(done: Conversion, source: str, target: Path) -> None:
    """What was detected, renamed, fused and dropped, and how far the numbers moved."""
    print(f"{source} is {done.layout}, written as {done.written} to {target}")
    print(f"  {done.renamed} tensors renamed, {done.fused} made of several")
    for why, count in Counter(done.dropped.values()).items():
        names = [name for name, reason in done.dropped.items() if reason == why]
        listed = ", ".join(names[:3]) + (", ..." if count > 3 else "")
        print(f"  dropped {listed}: {why}")
    for note in done.notes:
        print(f"  {note}")
    for name, delta in done.deltas.items():
        print(f"  {name}: max |Δ| {delta:.2g}, allowed {done.tolerance:g}")
