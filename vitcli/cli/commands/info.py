"""`vit info`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.screen.exit import show
from vitcli.errors import in_bytes, printable
from vitcli.jobs.job import DEFAULT_MODEL, ModelOptions

if TYPE_CHECKING:
    from vitcli.tasks.info import ModelInfo

WIDTH = 80
NAME = 14  # the column of names
STEP = 34  # the column of steps, beside where each came from


@g.with_model
def info(
    options: ModelOptions, model: o.ModelArgument = DEFAULT_MODEL, as_json: o.Json = False
) -> None:
    """Show a model's sizes, cost, labels and preprocessing.

    Example:  vit info facebook/dinov2-base --image-size 448
    """
    from vitcli.tasks import info as task

    found = task.info(task.InfoJob(model=model, options=options))
    if as_json:
        record = {name: value for name, value in asdict(found).items() if name != "described"}
        show(json.dumps(record, ensure_ascii=False))
    else:
        show("\n".join(line for name, text in _facts(found) for line in _lines(name, text)))


def _facts(found: ModelInfo) -> Iterator[tuple[str, str]]:
    """Names and what stands beside them; a line break is kept."""
    yield "model", found.model + (f" at {found.revision}" if found.revision else "")
    yield "layout", found.layout + (f", {found.architecture}" if found.architecture else "")
    yield from found.described.items()
    yield "parameters", f"{found.parameters:,}"
    yield "cost", f"{found.gflops:.3g} GFLOPs an image (multiply-adds)"
    total = in_bytes(sum(file.bytes for file in found.files))
    count = f" in {len(found.files)} files" if len(found.files) > 1 else ""
    yield "weights", f"{total}{count}, {' and '.join(found.dtypes)}: {found.files[0].name}"
    yield "sha256", found.sha256
    if found.num_labels:
        names = ", ".join(found.labels) + (", ..." if found.num_labels > len(found.labels) else "")
        yield "labels", f"{found.num_labels:,}, from {found.labels_source}\n{names}"
        yield "scores", _scores(found)
    else:
        yield "labels", "none: a backbone without a classifier, for vit embed"
    yield "preprocess", "\n".join(_step(step.step, step.source) for step in found.preprocess)
    for note in found.notes:
        yield "note", note


def _scores(found: ModelInfo) -> str:
    """How scores are made of logits, and who says so."""
    from vitcli.checkpoints.scoring import DESCRIBED

    assert found.scores is not None
    if found.problem_type is not None:
        return f"{DESCRIBED[found.scores]}, by config.json: problem_type {found.problem_type}"
    return DESCRIBED[found.scores] + ", the only one" * (found.scores == "sigmoid")


def _step(step: str, source: str) -> str:
    if len(step) >= STEP:
        return f"{step}\n{' ' * STEP}{source}"
    return f"{step:<{STEP}}{source}"


def _lines(name: str, text: str) -> Iterator[str]:
    """`name` once, the text beside it in lines of up to WIDTH; long words stay whole."""
    for part in map(printable, text.split("\n")):
        column = STEP if part[STEP - 2 : STEP] == "  " else 0
        yield from textwrap.wrap(
            part,
            WIDTH,
            initial_indent=f"{name:<{NAME}}",
            subsequent_indent=" " * (NAME + column),
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        name = ""
