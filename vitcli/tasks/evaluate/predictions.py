"""Evaluate the JSONL rows of `vit classify`, without running a model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import InputError, printable
from vitcli.files import instead_of
from vitcli.jobs.job import Reporter, Summary
from vitcli.records import ErrorType, Failure, ImageRef
from vitcli.tasks.evaluate.job import Evaluation, Problem, Result, check_any_read
from vitcli.tasks.evaluate.number import Number
from vitcli.tasks.evaluate.one_label import (
    OneLabel,
    OneLabelResult,
    check_no_threshold,
    check_one_label,
)
from vitcli.tasks.evaluate.several_labels import SeveralLabels
from vitcli.training.classes import (
    are_flags,
    class_names,
    is_list,
    match_answers,
    match_one_class,
)
from vitcli.training.example import Example
from vitcli.training.metrics import Answers

MAX_CLASSES = 1 << 17
MADE_BY = "give the output of vit classify -o preds.jsonl"
ROUNDING = 1e-3  # the largest error of a sum of scores that are rounded to six decimals


def evaluate_predictions(
    preds: Path, examples: Sequence[Example], threshold: float | None, reporter: Reporter
) -> Evaluation:
    """Evaluate the rows in `preds` whose paths are those of the examples. Raises InputError if a
    line is not a row of `vit classify`, and if rows lack labels that the numbers need."""
    started = time.monotonic()
    rows = _read_rows(preds)
    label_of = {
        p["index"]: str(p["label"]) for row in rows.values() for p in row.get("predictions", ())
    }
    if not label_of:
        raise InputError(f"{printable(str(preds))} has no predictions", MADE_BY)
    answered = tuple(label_of.get(index, f"LABEL_{index}") for index in range(max(label_of) + 1))
    failures: list[Failure] = []
    found: dict[int, list[dict[str, Any]]] = {}  # the predictions of each example
    for place, example in enumerate(examples):
        row = rows.get(Path(example.path).resolve())
        ref = ImageRef(place, example.path)
        if row is None:
            failures.append(Failure(ref, ErrorType.NOT_FOUND, f"no row in {preds}"))
        elif "error" in row:
            error = row["error"]
            failures.append(Failure(ref, ErrorType(error["type"]), str(error["message"])))
        else:
            found[place] = row["predictions"]
    if not found and not any("error" in row for row in rows.values()):
        raise InputError(
            f"{printable(str(preds))} has no row of these images, such as "
            f"{printable(examples[0].path)}",
            "classify them first: vit classify DATA -m MODEL -o preds.jsonl",
        )
    check_any_read(found, failures)
    result = _result(str(preds), answered, examples, found, threshold)
    if isinstance(result, OneLabelResult) and not result.are_shares:
        reporter.note(f"{preds}: the scores are not probabilities, so calibration is left out")
    return Evaluation(
        summary=Summary(len(found), len(failures), time.monotonic() - started),
        models=(result,),
        images=tuple(examples[place].found for place in found),
        failures=tuple(failures),
    )


def _result(
    name: str,
    labels: tuple[str, ...],
    examples: Sequence[Example],
    found: Mapping[int, Sequence[Mapping[str, Any]]],
    threshold: float | None,
) -> Result:
    """Judge the predictions of the examples by the problem that the data pose."""
    problem = _problem(name, labels, examples, found, threshold)
    if problem is not None:
        all_scores = _all_scores(name, labels, examples, found)
        return problem.result(name, problem.kept(all_scores), list(found))
    check_one_label(examples, name)
    check_no_threshold(threshold)
    numbers, labels = match_answers(class_names(examples), labels)
    width = max(1, *(len(row) for row in found.values()))
    best = np.full((len(found), width), -1, np.int64)
    scores = np.zeros((len(found), width))
    for number, row in enumerate(found.values()):
        for rank, prediction in enumerate(row):
            best[number, rank] = prediction["index"]
            scores[number, rank] = prediction["score"]
    truth = np.array([numbers[examples[place].label] for place in found], np.int64)
    are_shares = bool((scores >= 0).all() and (scores.sum(axis=1) < 1 + ROUNDING).all())
    return OneLabelResult(name, labels, Answers(best, scores, truth), are_shares)


def _problem(
    name: str,
    labels: tuple[str, ...],
    examples: Sequence[Example],
    found: Mapping[int, Sequence[Mapping[str, Any]]],
    threshold: float | None,
) -> Problem | None:
    """Several labels, if an image has more or fewer than one; a number, or a single output judged
    at one half, if all rows hold the same single label. None if the best label is the answer."""
    if any(
        e.labels is not None
        and (len(e.labels) != 1 or (is_list(e.labels[0]) and e.labels[0] not in labels))
        for e in examples
    ):
        return SeveralLabels.of(labels, name, examples, threshold)
    names = class_names(examples)
    if len(labels) > 1 or any(len(row) != 1 for row in found.values()):
        return None
    if labels[0] not in names and not are_flags(names) and all(map(_is_number, names)):
        return Number.of(labels, name, examples, threshold)
    if len(names) > 2 or not all(0 <= row[0]["score"] <= 1 for row in found.values()):
        return None
    check_no_threshold(threshold)
    both, numbers = match_one_class(names, labels[0], name)
    return OneLabel(both, [numbers[example.label] for example in examples])


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def _all_scores(
    name: str,
    labels: Sequence[str],
    examples: Sequence[Example],
    found: Mapping[int, Sequence[Mapping[str, Any]]],
) -> NDArray[np.float64]:
    """The scores (N, K) of all labels. Raises InputError for an image that lacks some."""
    scores = np.zeros((len(found), len(labels)))
    for number, (place, row) in enumerate(found.items()):
        of_label = {prediction["index"]: prediction["score"] for prediction in row}
        if len(of_label) < len(labels):
            raise InputError(
                f"{printable(name)} has {len(of_label)} of {len(labels)} labels for "
                f"{printable(examples[place].path)}, and several labels need the scores of all",
                f"run vit classify -k {len(labels)} without --threshold",
            )
        scores[number, list(of_label)] = list(of_label.values())
    return scores


def _read_rows(file: Path) -> dict[Path, dict[str, Any]]:
    """Read the rows, by absolute path. Relative paths start at the working directory."""
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        raise InputError(
            f"no such file: {printable(str(file))} (--preds)", instead_of(file)
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {printable(str(file))}: {why}", MADE_BY) from None
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
