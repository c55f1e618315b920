"""`vit convert`."""

from __future__ import annotations

import math
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vitcli.cli.options import options as o
from vitcli.cli.options import words as w
from vitcli.cli.options.declare import Argument, Group, Option
from vitcli.cli.options.parse import parse_size
from vitcli.cli.screen.exit import is_terminal, show
from vitcli.cli.screen.screen import Screen
from vitcli.errors import in_bytes, listed, printable
from vitcli.jobs.job import ModelOptions

if TYPE_CHECKING:
    from vitcli.checkpoints.tensor_diff import Change
    from vitcli.tasks.convert import Conversion

KINDS = ("kept", "renamed", "reshaped", "fused", "split", "merged", "added")
SIDES = ("before", "after")
MAX_NAMED = 3  # dropped tensors
NAME_WIDTH = 10  # of the first column


Source = Annotated[
    str,
    Argument(
        "SRC", group=Group.MODEL, brief="Hub id, folder, weight file, or demo.", help=o.MODEL_HELP
    ),
]
Target = Annotated[
    Path,
    Argument("DST", group=Group.OUTPUT, help="New folder, or a file that ends in .onnx."),
]
ToOpt = Annotated[
    Literal["hf", "timm", "onnx"],
    Option(
        "--to",
        group=Group.OUTPUT,
        brief="Library that will open the result.",
        help="Library that will open the result: transformers, timm or ONNX Runtime.",
    ),
]
DtypeOpt = Annotated[
    Literal["fp32", "fp16", "bf16"],
    Option("--dtype", group=Group.OUTPUT, brief=True, help="Precision of the written weights."),
]
Verify = Annotated[
    bool,
    Option(
        "--verify",
        group=Group.OUTPUT,
        brief="Load both, and fail if their outputs differ.",
        help="Load SRC and DST, and fail if logits or hidden states differ.",
    ),
]


def convert(
    source: Source,
    target: Target,
    to: ToOpt,
    dtype: DtypeOpt = "fp32",
    verify: Verify = False,
    overwrite: o.Overwrite = False,
    layout: o.Layout = None,
    labels: o.Labels = None,
    image_size: o.ImageSize = None,
    patch_size: o.PatchSize = None,
    max_patches: o.MaxPatches = None,
    preprocess: o.Preprocess = None,
    num_heads: o.NumHeads = None,
    head: o.Head = None,
    sha256: o.Sha256 = None,
    drop: o.Drop = None,
    offline: o.Offline = False,
    quiet: o.Quiet = False,
    classes: w.ClassesOpt = None,
    classes_file: w.ClassesFile = None,
    template: w.Template = None,
    templates: w.TemplatesOpt = None,
    text_clean: w.TextCleanOpt = None,
    tokenizer: w.Tokenizer = None,
) -> None:
    """Convert a checkpoint, with labels and preprocessing.

    Examples:
    vit convert timm/vit_base_patch16_224.augreg_in1k out/ --to hf --verify
    vit convert google/vit-base-patch16-224 out/ --to timm --verify
    vit convert facebook/dinov2-base dinov2.onnx --to onnx --verify
    vit convert google/siglip2-base-patch16-224 cats.onnx --to onnx --classes "cat, dog"
    vit convert weights.pth out/ --to hf --num-heads 6 --labels names.txt
    vit convert google/vit-large-patch16-224 half/ --to hf --dtype fp16
    """
    with Screen(quiet=quiet, progress=False) as screen:
        from vitcli.tasks import convert as task

        job = task.ConvertJob(
            source=source,
            target=target,
            to=to,
            dtype=dtype,
            verify=verify,
            overwrite=overwrite,
            options=ModelOptions(
                layout=layout,
                labels=labels,
                image_size=parse_size("--image-size", image_size),
                patch_size=parse_size("--patch-size", patch_size),
                max_patches=max_patches,
                preprocess=preprocess,
                num_heads=num_heads,
                head=head,
                sha256=sha256,
                drop=tuple(drop or ()),
                offline=offline,
            ),
            words=w.words(classes, classes_file, template, templates, text_clean, tokenizer),
        )
        done = task.convert(job, screen)
    if not quiet:
        lines = _report(done, source, target, dtype)
        show("\n".join(map(_fitted, lines) if is_terminal() else lines))


def _report(done: Conversion, source: str, target: Path, dtype: str) -> Iterator[str]:
    """Yield the detected layout, the changes of the tensors, and the differences of the outputs."""
    model = done.source
    architecture = model.provenance.architecture
    named = f"{model.layout} ({architecture})" if architecture else model.layout
    yield printable(f"{source} is {named}")
    yield printable(f"written as {done.written}, {dtype}, {in_bytes(done.bytes)}, to {target}")
    for kind in KINDS:
        changes = [change for change in done.changes if change.kind == kind]
        if changes:
            more = ", ..." * (len(changes) > 1)
            yield _line(kind, _count(changes) + (_example(changes[0]) + more) * (kind != "kept"))
    dropped = model.provenance.dropped
    for why in dict.fromkeys(dropped.values()):
        names = [name for name, reason in dropped.items() if reason == why]
        yield _line("dropped", f"{len(names)}: {listed(names, MAX_NAMED)} ({why})")
    for note in done.notes:
        yield _line("note", note)
    for delta in done.deltas:
        text = f"{delta.what}: max |Δ| {delta.found:.2g}"
        is_held = math.isfinite(delta.allowed)
        text += f", allowed {delta.allowed:g}" * is_held
        yield _line("verified" if is_held else "measured", text)


def _fitted(line: str) -> str:
    """Wrap a line to the width of the terminal, and indent the rest; names stay whole."""
    return textwrap.fill(
        line,
        shutil.get_terminal_size().columns,
        subsequent_indent=" " * (2 + NAME_WIDTH),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _line(name: str, text: str) -> str:
    return printable(f"  {name:<{NAME_WIDTH}}{text}")


def _count(changes: Sequence[Change]) -> str:
    """The number of tensors, and the number after the change if it differs."""
    before, after = (sum(len(getattr(change, side)) for change in changes) for side in SIDES)
    if not before or not after or before == after:
        return f"{before or after}"
    return f"{before} into {after}"


def _example(change: Change) -> str:
    """Format a change: `: query, key, value → qkv`."""
    return ": " + " → ".join(_braced(side) for side in (change.before, change.after) if side)


def _braced(names: Sequence[str]) -> str:
    """Write names that differ in one part as one: `attn.{q,k,v}.weight`."""
    parts = [re.split(r"([./])", name) for name in names]
    if len({len(words) for words in parts}) > 1:
        return ", ".join(names)
    alternatives = [list(dict.fromkeys(words)) for words in zip(*parts, strict=True)]
    return "".join(
        words[0] if len(words) == 1 else f"{{{','.join(words)}}}" for words in alternatives
    )
