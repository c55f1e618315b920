"""Evaluate the JSONL rows of `vit classify`, without running a model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitcli.errors import InputError, printable
from vitcli.jobs.job import Reporter, Summary
from vitcli.records import ErrorType, Failure, ImageRef
from vitcli.tasks.evaluate.job import Evaluation, ModelAnswers, check_any_read
from vitcli.training.classes import class_names, match_answers
from vitcli.training.example import Example
from vitcli.training.metrics import Answers

MAX_CLASSES = 1 << 17
ROUNDING = 1e-3  # the largest error of a sum of scores that are rounded to six decimals


def evaluate_predictions(
    preds: Path, examples: Sequence[Example], reporter: Reporter
) -> Evaluation:
    """Evaluate the rows in `preds` whose paths are those of the examples. Raises InputError if a
    line is not a row of `vit classify`."""
    started = time.monotonic()
    rows = _read_rows(preds)
    label_of = {
        p["index"]: str(p["label"]) for row in rows.values() for p in row.get("predictions", ())
    }
    if not label_of:
        raise InputError(f"{printable(str(preds))} has no predictions")
    answered = [label_of.get(index, f"LABEL_{index}") for index in range(max(label_of) + 1)]
    numbers, labels = match_answers(class_names(examples), answered)
    width = max(1, *(len(row.get("predictions", ())) for row in rows.values()))
    best = np.full((len(examples), width), -1, np.int64)
    scores = np.zeros((len(examples), width))
    failures, done = [], []
    for place, example in enumerate(examples):
        row = rows.get(Path(example.path).resolve())
        ref = ImageRef(place, example.path)
        if row is None:
            failures.append(Failure(ref, ErrorType.NOT_FOUND, f"no row in {preds}"))
        elif "error" in row:
            error = row["error"]
            failures.append(Failure(ref, ErrorType(error["type"]), str(error["message"])))
        else:
            for rank, prediction in enumerate(row["predictions"]):
                best[place, rank] = prediction["index"]
                scores[place, rank] = prediction["score"]
            done.append(place)
    check_any_read(done, failures)
    truth = np.array([numbers[examples[place].label] for place in done], np.int64)
    are_shares = bool((scores >= 0).all() and (scores.sum(axis=1) < 1 + ROUNDING).all())
    if not are_shares:
        reporter.note(f"{preds}: the scores are not probabilities, so calibration is left out")
    answers = Answers(best[done], scores[done], truth)
    return Evaluation(
        summary=Summary(len(done), len(failures), time.monotonic() - started),
        models=(ModelAnswers(str(preds), labels, answers, are_shares),),
        images=tuple(examples[place].found for place in done),
        failures=tuple(failures),
    )


def _read_rows(file: Path) -> dict[Path, dict[str, Any]]:
    """Read the rows, by absolute path. Relative paths start at the working directory."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {printable(str(file))}: {why}") from None
    rows: dict[Path, dict[str, Any]] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            row = json.loads(line)
            _check_row(row)
            rows[Path(row["path"]).resolve()] = row
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, RuntimeError):
            raise InputError(
                f"{printable(str(file))}, line {number} is not a row of vit classify",
                "--preds reads the JSONL that vit classify -o preds.jsonl writes",
            ) from None
    return rows


def _check_row(row: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError for a row that vit classify does not write."""
    if "error" in row:
        ErrorType(row["error"]["type"])
        str(row["error"]["message"])
        return
    for prediction in row["predictions"]:
        if not math.isfinite(float(prediction["score"])):
            raise ValueError("the score is not finite")
        str(prediction["label"])
        if type(prediction["index"]) is not int or not 0 <= prediction["index"] < MAX_CLASSES:
            raise ValueError("the index is not the number of a class")
