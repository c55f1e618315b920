"""`vit evaluate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitcli.cli.config.current import current
from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.screen.exit import end, show, start_workers
from vitcli.errors import OutputError, UsageError, printable

if TYPE_CHECKING:
    from vitcli.tasks.evaluate.job import Evaluation

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="A folder, zip or tars with one folder per class; tars with a .cls file (the class) "
        "next to each image; or a .csv, .tsv or .jsonl with the columns path and label (or labels: "
        "several, such as cat;dog; or a column of 0 and 1 for each).",
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
ScoresOpt = Annotated[
    Literal["prob", "softmax", "sigmoid", "logit", "cosine"],
    typer.Option(
        "--scores",
        help="prob is what the model's head is trained for (vit info tells): softmax for one label "
        "an image, sigmoid for several, logit for a number. The others override it; cosine is for "
        "--classes.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="With several labels an image: the lowest score of a label that it gets.",
        show_default="0.5",
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
        help="Folder for metrics.json, report.html, and confusion.csv and confusion.png, or for "
        "several labels an image classes.csv.",
        metavar="DIR",
    ),
]
MAX_FAILURES = 5
MIN_WIDTH = 7  # characters of a column


@g.with_data
def evaluate(
    common: g.WithData,
    data: Data,
    model: ModelSpecs = o.DEFAULT_MODELS,
    scores: ScoresOpt = "prob",
    threshold: Threshold = None,
    knn: Knn = None,
    preds: Preds = None,
    as_json: o.Json = False,
    out: Out = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Measure accuracy and confusion on labelled images.

    Models that score each label alone are measured by average precision and F1 if the data give an
    image several labels, regressions by the errors of their numbers.

    If DATA has train and val, val is used. Images that cannot be read are not counted; if there
    are any, the exit code is 3.

    Examples:

    vit evaluate flowers/ -m run/ -m google/vit-base-patch16-224

    vit evaluate flowers/ -m facebook/dinov2-base --knn 20

    vit evaluate pets/ -m google/siglip2-base-patch16-224 --classes "cat, dog, hamster"

    vit evaluate scenes.csv -m my-multi-label-model --threshold 0.3

    vit evaluate flowers/ --preds preds.jsonl --json
    """
    if out is not None and out.exists() and not overwrite:
        raise OutputError(f"{out} exists", "--overwrite replaces its files")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"{out} is not a folder")
    with common.screen as screen:
        if preds is None:
            start_workers(common.running, common.model)
        from vitcli.tasks.evaluate import evaluate as task
        from vitcli.tasks.evaluate.job import EvaluateJob
        from vitcli.tasks.evaluate.scores import check_files, numbers, write_files

        job = EvaluateJob(
            data=data,
            inputs=common.inputs,
            models=tuple(model),
            options=common.model,
            running=common.running,
            scores=scores,
            threshold=threshold,
            words=common.words,
            knn=knn,
            preds=preds,
        )
        if out is not None and out.is_dir():
            check_files(out, job)
        evaluation = task.evaluate(job, screen)
        if out is not None:
            write_files(out, evaluation, data, current().text)
    if as_json:
        show(json.dumps(numbers(evaluation), ensure_ascii=False))
    else:
        show("\n".join(_lines(evaluation)))
    end(screen, evaluation.summary, out)


def _lines(evaluation: Evaluation) -> Iterator[str]:
    names = [printable(model.name) for model in evaluation.models]
    headlines = [model.headline() for model in evaluation.models]
    width = max(5, *map(len, names))
    sizes = {title: max(MIN_WIDTH, len(title)) for title in headlines[0]}
    yield "  ".join([f"{'model':<{width}}", *(f"{title:>{n}}" for title, n in sizes.items())])
    for name, headline in zip(names, headlines, strict=True):
        cells = (f"{headline[title]:>{n}}" for title, n in sizes.items())
        yield "  ".join([f"{name:<{width}}", *cells])
    yield from evaluation.models[-1].details(evaluation.paths)
    if evaluation.slowest:
        yield ""
        yield "slowest to read"
        for seconds, path in evaluation.slowest[:3]:
            yield f"  {1000 * seconds:.0f} ms {printable(path)}"
    for failure in evaluation.failures[:MAX_FAILURES]:
        yield f"not read: {printable(failure.ref.path)}: {printable(failure.message)}"
