"""Write an evaluation as JSON and as a report, and its confusion matrix as CSV and PNG."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import OutputError, printable
from vitcli.files import write_whole
from vitcli.images.decode import decode
from vitcli.jobs.apart import check_apart, read_of_models, written_of
from vitcli.records import Failure, FoundImage, ImageRef, Limits, Preprocess, Sample
from vitcli.render.charts import confusion_png, reliability_svg
from vitcli.render.report import ReportPage, Section, Shot, html
from vitcli.sinks.text import error_field
from vitcli.tasks.evaluate.job import EvaluateJob, Evaluation, ModelAnswers
from vitcli.training.metrics import Answers, Confusion, calibration_error, confusion, reliability

THUMBNAIL = Preprocess(size=(192, 192), resize=(192, 192), fit="contain", decode="fast")
MAX_MISTAKES = 24
FILES = ("metrics.json", "report.html", "confusion.csv", "confusion.png")


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """The whole evaluation as JSON."""
    return {
        **evaluation.summary.counts,
        "models": [model_numbers(model, evaluation.paths) for model in evaluation.models],
        "slowest": [
            {"path": printable(path), "seconds": round(seconds, 4)}
            for seconds, path in evaluation.slowest
        ],
        "failures": list(map(failure_record, evaluation.failures)),
    }


def failure_record(failure: Failure) -> dict[str, Any]:
    """The path and the error of an image that failed, as JSON."""
    return {"path": printable(failure.ref.path), "error": error_field(failure)}


def model_numbers(model: ModelAnswers, paths: Sequence[str]) -> dict[str, Any]:
    """The scores of one model as JSON."""
    answers, labels = model.answers, model.labels
    table = confusion(answers, labels)
    bins = reliability(answers) if model.are_shares else []
    per_class = table.per_class()
    return {
        "model": model.name,
        "top1": round(answers.accuracy(), 6),
        "top5": round(answers.accuracy(5), 6) if answers.best.shape[1] >= 5 else None,
        "mean_class_accuracy": round(float(np.mean([c.recall for c in per_class if c.images])), 6),
        "ece": round(calibration_error(bins), 6) if model.are_shares else None,
        "reliability": [{name: round(n, 6) for name, n in asdict(b).items()} for b in bins],
        "classes": [
            {
                "label": c.label,
                "images": c.images,
                "predicted": c.predicted,
                "precision": round(c.precision, 6),
                "recall": round(c.recall, 6),
                "f1": round(c.f1, 6),
            }
            for c in per_class
        ],
        "confusion": {"labels": list(table.labels), "counts": table.counts.tolist()},
        "most_confidently_wrong": [
            {
                "path": printable(paths[place]),
                "label": labels[answers.truth[place]],
                "predicted": name_of(labels, answers.top1[place]),
                "score": round(float(answers.scores[place, 0]), 6),
            }
            for place in answers.mistakes(MAX_MISTAKES)
        ],
    }


def name_of(labels: Sequence[str], number: int) -> str:
    """The label of a class number; "(no answer)" for -1."""
    return labels[number] if number >= 0 else "(no answer)"


def confusion_csv(table: Confusion) -> str:
    """The table as CSV: the first column has the true labels, the first row the answers."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["true \\ answered", *table.labels])
    for label, row in zip(table.labels, table.counts.tolist(), strict=True):
        writer.writerow([label, *row])
    return file.getvalue()


def section(model: ModelAnswers, images: Sequence[FoundImage]) -> Section:
    """The section of a report on one model. The images of the worst mistakes are read again."""
    answers, labels = model.answers, model.labels
    table = confusion(answers, labels)
    worst = [
        Shot(
            printable(images[place].path),
            labels[answers.truth[place]],
            name_of(labels, answers.top1[place]),
            float(answers.scores[place, 0]),
            _thumbnail(images[place]),
        )
        for place in answers.mistakes(MAX_MISTAKES)
    ]
    rows = [(c.label, c.precision, c.recall, c.f1, c.images) for c in table.per_class()]
    charts = (_calibration(answers),) if model.are_shares else ()
    return Section(model.name, table.labels, table.counts, rows, worst, charts)


def _calibration(answers: Answers) -> tuple[str, str]:
    """The caption of the reliability diagram, and the diagram."""
    bins = reliability(answers)
    chart = reliability_svg([(b.low, b.high, b.images, b.accuracy) for b in bins])
    return (
        f"Confidence and accuracy: expected calibration error {calibration_error(bins):.3f}",
        chart,
    )


def _thumbnail(image: FoundImage) -> NDArray[np.uint8] | None:
    decoded = decode(ImageRef(0, image.path, member=image.member), (THUMBNAIL,), Limits())
    return decoded.pixels[0] if isinstance(decoded, Sample) else None


def page(evaluation: Evaluation, data: str) -> ReportPage:
    """The report page of `vit evaluate`."""
    facts = [("data", printable(data)), ("images", f"{evaluation.summary.done:,}")]
    for model in evaluation.models:
        facts.append((model.name, f"top-1 {model.answers.accuracy():.2%}"))
    return ReportPage(
        title=f"Evaluation on {printable(data)}",
        facts=facts,
        sections=[section(model, evaluation.images) for model in evaluation.models],
        slowest=[
            (f"{1000 * seconds:.0f} ms", printable(path)) for seconds, path in evaluation.slowest
        ],
        failures=[(printable(f.ref.path), f"{f.type}: {f.message}") for f in evaluation.failures],
    )


def check_files(folder: Path, job: EvaluateJob) -> None:
    """Raise OutputError if `write_files` would overwrite a file that the evaluation reads."""
    data = (Path(job.data), "the data of this run")
    if job.preds is not None:
        read = iter([(job.preds, "the file of --preds")])
    else:
        read = read_of_models(job.models, job.options)
    check_apart(written_of(folder / name for name in FILES), chain([data], read))


def write_files(folder: Path, evaluation: Evaluation, data: str) -> None:
    """Write metrics.json, report.html, and the last model's confusion matrix as CSV and PNG."""
    last = evaluation.models[-1]
    table = confusion(last.answers, last.labels)
    metrics = json.dumps(numbers(evaluation), indent=2, ensure_ascii=False)
    contents = (
        f"{metrics}\n".encode("utf-8", "replace"),
        html(page(evaluation, data)).encode("utf-8"),
        confusion_csv(table).encode("utf-8", "replace"),
        confusion_png(table.labels, table.counts),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in zip(FILES, contents, strict=True):
            write_whole(folder / name, content)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from None
