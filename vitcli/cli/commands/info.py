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
    options: ModelOptions,
    positional: o.ModelArgument = None,
    model: o.ModelSpec = DEFAULT_MODEL,
    as_json: o.Json = False,
) -> None:
    """Show a model's sizes, cost, labels and preprocessing.

    Example:  vit info facebook/dinov2-base --image-size 448
    """
    from vitcli.tasks import info as task

    facts = task.info(task.InfoJob(model=positional or model, options=options))
    if as_json:
        record = {name: value for name, value in asdict(facts).items() if name != "described"}
        show(json.dumps(record, ensure_ascii=False))
    else:
        show("\n".join(line for name, text in _facts(facts) for line in _lines(name, text)))


def _facts(facts: ModelInfo) -> Iterator[tuple[str, str]]:
    """Yield names and values; a value may have several lines."""
    yield "model", facts.model + (f" at {facts.revision}" if facts.revision else "")
    yield "layout", facts.layout + (f", {facts.architecture}" if facts.architecture else "")
    yield from facts.described.items()
    yield "parameters", f"{facts.parameters:,}"
    yield "cost", f"{facts.gflops:.3g} GFLOPs an image (multiply-adds)"
    total = in_bytes(sum(file.bytes for file in facts.files))
    count = f" in {len(facts.files)} files" if len(facts.files) > 1 else ""
    yield "weights", f"{total}{count}, {' and '.join(facts.dtypes)}: {facts.files[0].name}"
    yield "sha256", facts.sha256
    if facts.num_labels:
        names = ", ".join(facts.labels) + (", ..." if facts.num_labels > len(facts.labels) else "")
        yield "labels", f"{facts.num_labels:,}, from {facts.labels_source}\n{names}"
        yield "scores", _scores(facts)
    elif facts.text is not None:
        yield "labels", "none: classes are given in words, with vit classify --classes"
        yield "text tower", "\n".join(f"{name}: {text}" for name, text in facts.text.items())
    else:
        yield "labels", "none: a backbone without a classifier, for vit embed"
    yield "preprocess", "\n".join(_step(step.step, step.source) for step in facts.preprocess)
    for note in facts.notes:
        yield "note", note


def _scores(facts: ModelInfo) -> str:
    """Describe how scores are computed from logits, and which setting decides this."""
    from vitcli.checkpoints.scoring import DESCRIBED

    assert facts.scores is not None
    if facts.problem_type is not None:
        return f"{DESCRIBED[facts.scores]}, by config.json: problem_type {facts.problem_type}"
    return DESCRIBED[facts.scores] + ", the only one" * (facts.scores == "sigmoid")


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
