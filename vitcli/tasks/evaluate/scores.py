"""Write an evaluation as JSON and as a report, with the files of its kind."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

from vitcli.errors import OutputError, printable
from vitcli.files import write_whole
from vitcli.jobs.apart import check_apart, read_of_models, written_of
from vitcli.records import Failure
from vitcli.render.report import ReportPage, html
from vitcli.schemas import SCHEMA
from vitcli.sinks.text import error_field
from vitcli.tasks.evaluate.job import EvaluateJob, Evaluation

FILES = ("metrics.json", "report.html", "confusion.csv", "confusion.png", "classes.csv")


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """The whole evaluation as JSON."""
    return {
        **evaluation.summary.counts,
        "models": [model.numbers(evaluation.paths) for model in evaluation.models],
        "slowest": [
            {"path": printable(path), "seconds": round(seconds, 4)}
            for seconds, path in evaluation.slowest
        ],
        "failures": list(map(failure_record, evaluation.failures)),
    }


def failure_record(failure: Failure) -> dict[str, Any]:
    """The path and the error of an image that failed, as JSON."""
    return {"path": printable(failure.ref.path), "error": error_field(failure)}


def page(evaluation: Evaluation, data: str) -> ReportPage:
    """The report page of `vit evaluate`."""
    names = [model.name for model in evaluation.models]
    facts = [("data", printable(data)), ("images", f"{evaluation.summary.done:,}")]
    for model in evaluation.models:
        name, value = next(iter(model.headline().items()))
        facts.append((model.name, f"{name} {value}"))
    return ReportPage(
        title=f"Evaluation on {printable(data)}",
        about=f"{'models' if len(names) > 1 else 'model'} {', '.join(map(printable, names))}",
        facts=facts,
        sections=[model.section(evaluation.images) for model in evaluation.models],
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


def write_files(folder: Path, evaluation: Evaluation, data: str, config: str | None = None) -> None:
    """Write metrics.json, report.html, and the tables and pictures of the last model. Those that
    only an earlier evaluation has are removed. `config` is a config file that repeats the run."""
    repeat = {} if config is None else {"config": config}
    whole = {"schema": SCHEMA, **numbers(evaluation), **repeat}
    metrics = json.dumps(whole, indent=2, ensure_ascii=False)
    contents = {
        "metrics.json": f"{metrics}\n".encode("utf-8", "replace"),
        "report.html": html(page(evaluation, data)).encode("utf-8"),
        **evaluation.models[-1].files(printable(data)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if name in contents:
                write_whole(folder / name, contents[name])
            else:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from None
