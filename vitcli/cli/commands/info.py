"""`vit info`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options.declare import Group, Option, variables_of
from vitcli.cli.screen.exit import show
from vitcli.cli.screen.facts import STEP_WIDTH, facts_as_text
from vitcli.errors import UsageError, in_bytes
from vitcli.jobs.job import DEFAULT_MODEL, ModelOptions

if TYPE_CHECKING:
    from vitcli.tasks.info import ModelInfo


ENV = "--env"
OF_ENV = ("env", "as_json", "config", "show_config")  # the parameters that --env goes with
Env = Annotated[
    bool,
    Option(
        ENV,
        group=Group.OUTPUT,
        brief=True,
        help="Describe this installation and this machine, for a bug report.",
    ),
]


@g.with_model
def info(
    options: ModelOptions,
    context: typer.Context,
    positional: o.ModelArgument = None,
    model: o.ModelSpec = DEFAULT_MODEL,
    env: Env = False,
    as_json: o.Json = False,
) -> None:
    """Show a model's sizes, cost, labels and preprocessing.

    Or, with --env, what is installed and what this machine is: versions, processors, memory,
    devices, engines, folders and variables. Passwords and tokens are not shown.

    Example:  vit info facebook/dinov2-base --image-size 448
    """
    if env:
        _show_environment(context, as_json=as_json)
        return
    from vitcli.tasks import info as task

    facts = task.info(task.InfoJob(model=positional or model, options=options))
    if as_json:
        record = {name: value for name, value in asdict(facts).items() if name != "described"}
        show(json.dumps(record, ensure_ascii=False))
    else:
        show(facts_as_text(_facts(facts)))


def _show_environment(context: typer.Context, *, as_json: bool) -> None:
    """Print the facts of `vit info --env`. Raises UsageError for options of a model."""
    for parameter in context.command.params:
        name = parameter.name
        source = context.get_parameter_source(str(name))
        if name not in OF_ENV and source is not None and source.name == "COMMANDLINE":
            is_model = name in ("positional", "model")
            what = context.params[name] if is_model else max(parameter.opts, key=len)
            raise UsageError(f"{ENV} describes this machine: {what} has no effect", "leave it out")
    from vitcli.cli.screen.environment import facts_of
    from vitcli.tasks.environment import environment

    found = environment({*variables_of(context.find_root().command)})
    show(
        json.dumps(asdict(found), ensure_ascii=False) if as_json else facts_as_text(facts_of(found))
    )


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
