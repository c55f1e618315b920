"""Judge models that give an image one label: accuracy, confusion and calibration."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.scoring import Numbers, ScoreFunction
from vitcli.errors import InputError, UsageError, printable, shortened
from vitcli.jobs.predictions import top_k
from vitcli.records import FoundImage
from vitcli.render.charts import reliability_chart
from vitcli.render.confusion import confusion_png
from vitcli.render.report import ClassTable, Section, Shot
from vitcli.tasks.evaluate.job import (
    MAX_CLASSES,
    MAX_LISTED,
    MAX_MISTAKES,
    TOP,
    name_bytes,
)
from vitcli.tasks.evaluate.thumbnails import thumbnail
from vitcli.training.classes import class_names, match_classes, match_one_class
from vitcli.training.example import Example
from vitcli.training.metrics import Answers, Confusion, calibration_error, confusion, reliability


def check_one_label(examples: Sequence[Example], who: str) -> None:
    """Raise InputError for an image that has several labels or none; `who` gives it one."""
    for example in examples:
        if len(example.names) != 1:
            raise InputError(
                f"{printable(example.path)} has {len(example.names)} labels, "
                f"and {who} gives an image one",
                "--scores sigmoid evaluates the labels of a head each alone",
            )


def check_no_threshold(threshold: float | None) -> None:
    """Raise UsageError for a threshold, which has no effect on the best label."""
    if threshold is not None:
        raise UsageError(
            "--threshold is for several labels an image, and here the best label is the answer",
            "leave out --threshold",
        )


@dataclass(frozen=True, slots=True)
class OneLabel:
    """The problem: the label with the highest score is the answer."""

    labels: tuple[str, ...]
    truth: Sequence[int]
    are_shares: bool = True
    note: str = ""

    @classmethod
    def of(
        cls,
        model: Model,
        function: ScoreFunction,
        examples: Sequence[Example],
        threshold: float | None,
    ) -> OneLabel:
        """Match the classes of the examples with those of the model. Raises InputError for classes
        that the model does not have, UsageError for a threshold."""
        check_one_label(examples, model.spec)
        check_no_threshold(threshold)
        names = class_names(examples)
        if model.config.num_classes == 1:
            labels: tuple[str, ...]
            labels, numbers = match_one_class(names, model.labels[0], model.spec)
        else:
            labels, numbers = model.labels, match_classes(names, model.labels, model.spec)
        are_shares = function == "softmax" or model.config.num_classes == 1
        note = (
            f"{model.spec} scores each label independently: the highest score is the answer, and "
            "calibration is left out; a table with a column labels, or with a column of 0 and 1 "
            "for each label, evaluates several labels"
        )
        if function == "none":
            note = "the scores rank the labels and are no shares of 1: calibration is left out"
        truth = [numbers[example.label] for example in examples]
        return cls(labels, truth, are_shares, "" if are_shares else note)

    def kept(self, scores: Numbers) -> tuple[NDArray[Any], ...]:
        """The best TOP scores and their classes.  (B, K) -> (B, TOP) twice"""
        if scores.shape[-1] == 1:
            scores = np.concatenate([scores, 1 - scores], axis=-1)
        return top_k(scores, TOP)

    def result(
        self, name: str, kept: Sequence[NDArray[Any]], places: Sequence[int]
    ) -> OneLabelResult:
        scores, best = kept
        truth = np.array([self.truth[place] for place in places], np.int64)
        answers = Answers(best.astype(np.int64), scores.astype(np.float64), truth)
        return OneLabelResult(name, self.labels, answers, self.are_shares)


@dataclass(frozen=True, slots=True)
class OneLabelResult:
    """The answers of one model or of an ensemble. With `are_shares`, the scores of an image are
    probabilities that add up to 1, and calibration is measured."""

    name: str
    labels: tuple[str, ...]
    answers: Answers
    are_shares: bool = True

    @property
    def confusion(self) -> Confusion:
        return confusion(self.answers, self.labels)

    def headline(self) -> dict[str, str]:
        values = self.numbers(())
        top5, ece = values["top5"], values["ece"]
        return {
            "top-1": f"{values['top1']:.2%}",
            "top-5": f"{top5:.2%}" if top5 is not None else "-",
            "by class": f"{values['mean_class_accuracy']:.2%}",
            "ECE": f"{ece:.3f}" if ece is not None else "-",
        }

    def numbers(self, paths: Sequence[str]) -> dict[str, Any]:
        answers, labels, table = self.answers, self.labels, self.confusion
        bins = reliability(answers) if self.are_shares else []
        per_class = table.per_class()
        recalls = [c.recall for c in per_class if c.images]
        return {
            "model": self.name,
            "problem": "one label",
            "top1": round(answers.accuracy(), 6),
            "top5": round(answers.accuracy(5), 6) if answers.best.shape[1] >= 5 else None,
            "mean_class_accuracy": round(float(np.mean(recalls)), 6),
            "ece": round(calibration_error(bins), 6) if self.are_shares else None,
            "reliability": [{name: round(n, 6) for name, n in asdict(b).items()} for b in bins],
            "classes": [c.numbers() for c in per_class],
            "confusion": {"labels": list(table.labels), "counts": table.counts.tolist()},
            "most_confidently_wrong": [
                {
                    "path": printable(paths[place]),
                    "label": labels[answers.truth[place]],
                    "predicted": name_of(labels, answers.top1[place]),
                    "score": round(float(answers.scores[place, 0]), 6),
                }
                for place in answers.mistakes(MAX_MISTAKES if paths else 0)
            ],
        }

    def details(self, paths: Sequence[str], room: int | None = None) -> Iterator[str]:
        """Yield the classes (the worst, if there are many), confused pairs and mistakes."""
        longest = name_bytes(room, 37)
        table = self.confusion
        classes = [c for c in table.per_class() if c.images]
        is_cut = len(classes) > MAX_CLASSES
        shown = sorted(classes, key=lambda c: c.f1)[:MAX_CLASSES] if is_cut else classes
        shown = [replace(c, label=shortened(c.label, longest)) for c in shown]
        width = max(5, *(len(c.label) for c in shown))
        more = f", the worst {MAX_CLASSES} of {len(classes)}" if is_cut else ""
        yield ""
        yield f"{'class':<{width}}  {'precision':>9}  {'recall':>7}  {'F1':>7}  {'images':>6}{more}"
        for c in shown:
            yield (
                f"{printable(c.label):<{width}}  {c.precision:>9.1%}  {c.recall:>7.1%}"
                f"  {c.f1:>7.1%}  {c.images:>6,}"
            )
        if pairs := table.pairs(MAX_LISTED):
            yield ""
            yield "most often confused"
            for truth, answer, times in pairs:
                names = (printable(shortened(name, longest)) for name in (truth, answer))
                yield f"  {' taken for '.join(names)}: {times:,}"
        if worst := self.answers.mistakes(MAX_LISTED):
            yield ""
            yield "most confidently wrong"
            for index in worst:
                answer = shortened(name_of(self.labels, int(self.answers.top1[index])), longest)
                score = self.answers.scores[index, 0]
                yield f"  {score:.3f} {printable(answer)}: {printable(paths[index])}"

    def _score(self, place: int) -> str:
        score = float(self.answers.scores[place, 0])
        return f"{score:.1%}" if 0 <= score <= 1 else f"{score:.3f}"

    def section(self, images: Sequence[FoundImage]) -> Section:
        answers, labels, table = self.answers, self.labels, self.confusion
        worst = [
            Shot(
                printable(images[place].path),
                labels[answers.truth[place]],
                name_of(labels, answers.top1[place]),
                self._score(place),
                thumbnail(images[place]),
            )
            for place in answers.mistakes(MAX_MISTAKES)
        ]
        return Section(
            self.name,
            labels=table.labels,
            counts=table.counts,
            classes=ClassTable(
                ("precision", "recall", "F1", "images"),
                [
                    (
                        c.label,
                        f"{c.precision:.1%}",
                        f"{c.recall:.1%}",
                        f"{c.f1:.1%}",
                        f"{c.images:,}",
                    )
                    for c in table.per_class()
                ],
            ),
            worst=worst,
            charts=(_calibration(answers),) if self.are_shares else (),
        )

    def files(self, data: str) -> Mapping[str, bytes]:
        table = self.confusion
        title = f"{printable(self.name)} on {data}"
        return {
            "confusion.csv": _confusion_csv(table).encode("utf-8", "replace"),
            "confusion.png": confusion_png(table.labels, table.counts, title),
        }


def name_of(labels: Sequence[str], number: int) -> str:
    """The label of a class number; "(no answer)" for -1."""
    return labels[number] if number >= 0 else "(no answer)"


def _confusion_csv(table: Confusion) -> str:
    """The table as CSV: the first column has the true labels, the first row the answers."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["true \\ answered", *table.labels])
    for label, row in zip(table.labels, table.counts.tolist(), strict=True):
        writer.writerow([label, *row])
    return file.getvalue()


def _calibration(answers: Answers) -> tuple[str, str]:
    """The caption of the reliability diagram, and the diagram."""
    bins = reliability(answers)
    chart = reliability_chart([(b.low, b.high, b.images, b.accuracy) for b in bins])
    return (
        f"Confidence and accuracy: expected calibration error {calibration_error(bins):.3f}",
        chart,
    )
