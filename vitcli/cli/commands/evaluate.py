"""`vit evaluate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vitcli.cli.config.current import current
from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options.declare import Argument, Group, Option
from vitcli.cli.screen.exit import end, line_width, show, start_workers
from vitcli.errors import OutputError, UsageError, printable, shortened

if TYPE_CHECKING:
    from vitcli.tasks.evaluate.job import Evaluation

Data = Annotated[
    str,
    Argument(
        "DATA",
        group=Group.INPUTS,
        brief="A folder with a folder per class, or a table.",
        help="A folder, zip or tars with one folder per class; tars with a .cls file (the class) "
        "next to each image; or a .csv, .tsv or .jsonl with the columns path and label (or labels: "
        "several, such as cat;dog; or a column of 0 and 1 for each).",
    ),
]
ModelSpecs = Annotated[
    list[str],
    Option(
        "-m",
        "--model",
        group=Group.MODEL,
        brief="Hub id, folder, weight file, or demo; repeat to compare.",
        help=f"{o.MODEL_HELP} Repeat -m to compare several models and their average.",
        env="VIT_MODEL",
        metavar="MODEL",
    ),
]
ScoresOpt = Annotated[
    Literal["prob", "softmax", "sigmoid", "logit", "cosine"],
    Option(
        "--scores",
        group=Group.MODEL,
        help="prob is what the model's head is trained for (vit info tells): softmax for one label "
        "an image, sigmoid for several, logit for a number. The others override it; cosine is for "
        "--classes.",
    ),
]
Threshold = Annotated[
    float | None,
    Option(
        "--threshold",
        group=Group.MODEL,
        brief="Lowest score, with several labels an image.",
        help="With several labels an image: the lowest score of a label that it gets.",
        show_default="0.5",
        metavar="SCORE",
    ),
]
Knn = Annotated[
    int | None,
    Option(
        "--knn",
        group=Group.MODEL,
        brief="Label images by their N nearest neighbours.",
        help="Evaluate embeddings: label an image by its N nearest neighbours.",
        min=1,
        metavar="N",
    ),
]
Preds = Annotated[
    Path | None,
    Option(
        "--preds",
        group=Group.INPUTS,
        brief="Evaluate this output of vit classify.",
        help="Evaluate the output of vit classify -o FILE.jsonl, without running a model.",
        metavar="FILE",
    ),
]
Out = Annotated[
    Path | None,
    Option(
        "-o",
        "--out",
        group=Group.OUTPUT,
        brief="Folder for metrics.json, report.html and others.",
        help="Folder for metrics.json, report.html, and confusion.csv and confusion.png, or for "
        "several labels an image classes.csv.",
        metavar="DIR",
    ),
]
MAX_FAILURES = 5
MIN_WIDTH = 7  # characters of a column
MIN_NAME = 20  # of a model's name


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
    vit evaluate pets/ -m google/siglip2-base-patch16-224 --classes "cat, dog"
    vit evaluate scenes.csv -m my-multi-label-model --threshold 0.3
    vit evaluate flowers/ --preds preds.jsonl --json
    """
    if out is not None and out.exists() and not overwrite:
        hint = "--overwrite replaces its files" if out.is_dir() else "name a folder with --out"
        raise OutputError(f"{out} exists", hint)
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"{out} is not a folder", "name a folder with --out")
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
        show("\n".join(_lines(evaluation, line_width())))
    end(screen, evaluation.summary, out)


def _lines(evaluation: Evaluation, room: int | None) -> Iterator[str]:
    """The lines. On a terminal with `room` characters a line, names are shortened, so that the
    tables fit."""
    headlines = [model.headline() for model in evaluation.models]
    sizes = {title: max(MIN_WIDTH, len(title)) for title in headlines[0]}
    names = [printable(model.name) for model in evaluation.models]
    if room is not None:
        left = max(MIN_NAME, room - sum(size + 2 for size in sizes.values()))
        names = [shortened(name, left) for name in names]
    width = max(5, *map(len, names))
    yield "  ".join([f"{'model':<{width}}", *(f"{title:>{n}}" for title, n in sizes.items())])
    for name, headline in zip(names, headlines, strict=True):
        cells = (f"{headline[title]:>{n}}" for title, n in sizes.items())
        yield "  ".join([f"{name:<{width}}", *cells])
    yield from evaluation.models[-1].details(evaluation.paths, room)
    if evaluation.slowest:
        yield ""
        yield "slowest to read"
        for seconds, path in evaluation.slowest[:3]:
            yield f"  {1000 * seconds:.0f} ms {printable(path)}"
    for failure in evaluation.failures[:MAX_FAILURES]:
        yield f"not read: {printable(failure.ref.path)}: {printable(failure.message)}"
