"""`vit evaluate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.screen.exit import end, show, start_workers
from vitcli.errors import OutputError, UsageError, printable, shortened

if TYPE_CHECKING:
    from vitcli.tasks.evaluate.job import Evaluation, ModelAnswers

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="A folder, zip or tars with one folder per class; tars with a .cls file (the class) "
        "next to each image; or a .csv, .tsv or .jsonl with the columns path and label.",
    ),
]
ModelSpecs = Annotated[
    list[str],
    typer.Option(
        "-m",
        "--model",
        help=f"{o.MODEL_HELP} Repeat -m to compare several models and their average.",
        envvar="VIT_MODEL",
        metavar="MODEL",
    ),
]
Knn = Annotated[
    int | None,
    typer.Option(
        "--knn",
        help="Evaluate embeddings: label an image by its N nearest neighbours.",
        min=1,
        metavar="N",
    ),
]
Preds = Annotated[
    Path | None,
    typer.Option(
        "--preds",
        help="Evaluate the output of vit classify -o FILE.jsonl, without running a model.",
        metavar="FILE",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        help="Folder for metrics.json, report.html, confusion.csv and confusion.png.",
        metavar="DIR",
    ),
]
MAX_NAME = 60  # bytes of a label
MAX_CLASSES = 40  # in the table
MAX_EXAMPLES = 5  # of unreadable images, of confused pairs, of mistakes


@g.with_data
def evaluate(
    common: g.WithData,
    data: Data,
    model: ModelSpecs = o.DEFAULT_MODELS,
    knn: Knn = None,
    preds: Preds = None,
    as_json: o.Json = False,
    out: Out = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Measure accuracy and confusion on labelled images.

    If DATA has train and val, val is used. Images that cannot be read are not counted; if there
    are any, the exit code is 3.

    Examples:

    vit evaluate flowers/ -m run/ -m google/vit-base-patch16-224

    vit evaluate flowers/ -m facebook/dinov2-base --knn 20

    vit evaluate flowers/ --preds preds.jsonl --json
    """
    if out is not None and out.exists() and not overwrite:
        raise OutputError(f"{out} exists", "--overwrite replaces its files")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"{out} is not a folder")
    with common.screen as screen:
        if preds is None:
            start_workers(common.running)
        from vitcli.tasks.evaluate import evaluate as task
        from vitcli.tasks.evaluate.job import EvaluateJob
        from vitcli.tasks.evaluate.scores import check_files, numbers, write_files

        job = EvaluateJob(
            data=data,
            inputs=common.inputs,
            models=tuple(model),
            options=common.model,
            running=common.running,
            knn=knn,
            preds=preds,
        )
        if out is not None and out.is_dir():
            check_files(out, job)
        evaluation = task.evaluate(job, screen)
        if out is not None:
            write_files(out, evaluation, data)
    if as_json:
        show(json.dumps(numbers(evaluation), ensure_ascii=False))
    else:
        show("\n".join(_lines(evaluation)))
    end(screen, evaluation.summary, out)


def _lines(evaluation: Evaluation) -> Iterator[str]:
    width = max(5, *(len(model.name) for model in evaluation.models))
    yield f"{'model':<{width}}  {'top-1':>7}  {'top-5':>7}  {'by class':>8}  {'ECE':>6}"
    from vitcli.tasks.evaluate.scores import model_numbers

    for model in evaluation.models:
        values = model_numbers(model, evaluation.paths)
        top5 = f"{values['top5']:.2%}" if values["top5"] is not None else "-"
        ece = f"{values['ece']:.3f}" if values["ece"] is not None else "-"
        yield (
            f"{printable(model.name):<{width}}  {values['top1']:>7.2%}  {top5:>7}  "
            f"{values['mean_class_accuracy']:>8.2%}  {ece:>6}"
        )
    for model in evaluation.models[-1:]:
        yield from _details(model, evaluation)
    for failure in evaluation.failures[:MAX_EXAMPLES]:
        yield f"not read: {printable(failure.ref.path)}: {printable(failure.message)}"


def _details(model: ModelAnswers, evaluation: Evaluation) -> Iterator[str]:
    """Yield the classes (the worst, if there are many), confused pairs and confident mistakes."""
    from vitcli.tasks.evaluate.scores import name_of
    from vitcli.training.metrics import confusion

    table = confusion(model.answers, model.labels)
    classes = [c for c in table.per_class() if c.images]
    shown = (
        sorted(classes, key=lambda c: c.f1)[:MAX_CLASSES] if len(classes) > MAX_CLASSES else classes
    )
    shown = [replace(c, label=shortened(c.label, MAX_NAME)) for c in shown]
    width = max(5, *(len(c.label) for c in shown))
    more = f", the worst {MAX_CLASSES} of {len(classes)}" if len(classes) > MAX_CLASSES else ""
    yield ""
    yield f"{'class':<{width}}  {'precision':>9}  {'recall':>7}  {'F1':>7}  {'images':>6}{more}"
    for c in shown:
        yield (
            f"{printable(c.label):<{width}}  {c.precision:>9.1%}  {c.recall:>7.1%}  {c.f1:>7.1%}"
            f"  {c.images:>6,}"
        )
    if pairs := table.pairs(MAX_EXAMPLES):
        yield ""
        yield "most often confused"
        for truth, answer, times in pairs:
            names = (printable(shortened(name, MAX_NAME)) for name in (truth, answer))
            yield f"  {' taken for '.join(names)}: {times:,}"
    if worst := model.answers.mistakes(MAX_EXAMPLES):
        yield ""
        yield "most confidently wrong"
        for index in worst:
            answer = name_of(model.labels, int(model.answers.top1[index]))
            answer = shortened(answer, MAX_NAME)
            yield (
                f"  {model.answers.scores[index, 0]:.3f} {printable(answer)}: "
                f"{printable(evaluation.paths[index])}"
            )
    if evaluation.slowest:
        yield ""
        yield "slowest to read"
        for seconds, path in evaluation.slowest[:3]:
            yield f"  {1000 * seconds:.0f} ms {printable(path)}"
