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
NAME_WIDTH = 14
STEP_WIDTH = 34  # of a preprocessing step; its source follows


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
    """Yield names and values; a value may have several lines."""
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
    """How scores are computed from logits, and which setting decides it."""
    from vitcli.checkpoints.scoring import DESCRIBED

    assert found.scores is not None
    if found.problem_type is not None:
        return f"{DESCRIBED[found.scores]}, by config.json: problem_type {found.problem_type}"
    return DESCRIBED[found.scores] + ", the only one" * (found.scores == "sigmoid")


def _step(step: str, source: str) -> str:
    if len(step) >= STEP_WIDTH:
        return f"{step}\n{' ' * STEP_WIDTH}{source}"
    return f"{step:<{STEP_WIDTH}}{source}"


def _lines(name: str, text: str) -> Iterator[str]:
    """Yield the name and the text next to it, in lines of up to WIDTH; long words stay whole."""
    for part in map(printable, text.split("\n")):
        column = STEP_WIDTH if part[STEP_WIDTH - 2 : STEP_WIDTH] == "  " else 0
        yield from textwrap.wrap(
            part,
            WIDTH,
            initial_indent=f"{name:<{NAME_WIDTH}}",
            subsequent_indent=" " * (NAME_WIDTH + column),
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        name = ""
