"""Judge models that give an image several labels: average precision and F1.

The numbers are those of scikit-learn's `average_precision_score` and `f1_score`. A class without
images has no average precision, and one without images and answers no F1: the means leave them out
(`zero_division=nan`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.checkpoints.scoring import Numbers
from vitcli.errors import printable, shortened
from vitcli.records import FoundImage
from vitcli.render.report import ClassTable, Section, Shot
from vitcli.tasks.evaluate.job import (
    MAX_CLASSES,
    MAX_LISTED,
    MAX_MISTAKES,
    THRESHOLD,
    name_bytes,
    rounded,
)
from vitcli.tasks.evaluate.thumbnails import thumbnail
from vitcli.training.classes import match_several
from vitcli.training.example import Example
from vitcli.training.metrics import ClassScores

COLUMNS = ("AP", "precision", "recall", "F1", "images")


@dataclass(frozen=True, slots=True)
class SeveralLabels:
    """The problem: an image has every label whose score reaches the threshold. `truth` (N, K) says
    which labels the examples have."""

    labels: tuple[str, ...]
    truth: NDArray[np.bool_]
    threshold: float
    note: str = ""

    @classmethod
    def of(
        cls,
        labels: tuple[str, ...],
        who: str,
        examples: Sequence[Example],
        threshold: float | None,
    ) -> SeveralLabels:
        """Match the labels of the examples with those of a model. Raises InputError for labels that
        it does not have."""
        truth = np.zeros((len(examples), len(labels)), np.bool_)
        named = [example.names for example in examples]
        for row, numbers in zip(truth, match_several(named, labels, who), strict=True):
            row[numbers] = True
        return cls(labels, truth, THRESHOLD if threshold is None else threshold)

    def kept(self, scores: Numbers) -> tuple[NDArray[Any], ...]:
        """(B, K) -> (B, K)"""
        return (scores,)

    def result(
        self, name: str, kept: Sequence[NDArray[Any]], places: Sequence[int]
    ) -> SeveralLabelsResult:
        [scores] = kept
        truth = self.truth[np.array(places, np.int64)]
        return SeveralLabelsResult(name, self.labels, truth, scores, self.threshold)


@dataclass(frozen=True)
class SeveralLabelsResult:
    """The scores (N, K) of one model or of an ensemble, and the true labels (N, K)."""

    name: str
    labels: tuple[str, ...]
    truth: NDArray[np.bool_]
    scores: NDArray[np.floating[Any]]
    threshold: float

    @cached_property
    def answered(self) -> NDArray[np.bool_]:
        return np.asarray(self.scores >= self.threshold)

    @cached_property
    def classes(self) -> list[tuple[ClassScores, float | None]]:
        """The counts of each class, and its average precision; None for a class without images."""
        counts = (self.truth, self.answered, self.truth & self.answered)
        columns = (part.sum(axis=0).tolist() for part in counts)
        precisions = map(average_precision, self.truth.T, self.scores.T)
        rows = zip(self.labels, *columns, strict=True)
        return [(ClassScores(*row), ap) for row, ap in zip(rows, precisions, strict=True)]

    @cached_property
    def means(self) -> dict[str, float | None]:
        """The numbers of all classes together, by their names in JSON."""
        classes = [c for c, _ in self.classes]
        right, both = (
            sum(c.right for c in classes),
            sum(c.images + c.predicted for c in classes),
        )
        return {
            "map": _mean([ap for _, ap in self.classes if ap is not None]),
            "map_micro": average_precision(self.truth.ravel(), self.scores.ravel()),
            "f1_macro": _mean([c.f1 for c in classes if c.images or c.predicted]),
            "f1_micro": 2 * right / both if both else None,
            "exact_match": float((self.truth == self.answered).all(axis=1).mean()),
        }

    def mistakes(self, count: int) -> list[tuple[int, int]]:
        """The (image, class) pairs with wrong answers whose scores are farthest from the
        threshold."""
        distance = np.where(self.truth != self.answered, abs(self.scores - self.threshold), -1.0)
        order = np.argsort(-distance, axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(order, distance.shape)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return [pair for pair in pairs if distance[pair] >= 0]

    def headline(self) -> dict[str, str]:
        names = ("mAP", "micro mAP", "F1", "micro F1", "exact")
        return {
            name: "-" if value is None else f"{value:.2%}"
            for name, value in zip(names, self.means.values(), strict=True)
        }

    def numbers(self, paths: Sequence[str]) -> dict[str, Any]:
        return {
            "model": self.name,
            "problem": "several labels",
            "threshold": self.threshold,
            **{name: rounded(value) for name, value in self.means.items()},
            "classes": [c.numbers() | {"ap": rounded(ap)} for c, ap in self.classes],
            "most_confidently_wrong": [
                {
                    "path": printable(paths[place]),
                    "labels": self._names(place),
                    "predicted": self.labels[number],
                    "score": round(float(self.scores[place, number]), 6),
                }
                for place, number in self.mistakes(MAX_MISTAKES)
            ],
        }

    def details(self, paths: Sequence[str], room: int | None = None) -> Iterator[str]:
        """Yield the classes (the worst, if there are many) and mistakes."""
        longest = name_bytes(room, len(COLUMNS) * 11)
        shown = [(c, ap) for c, ap in self.classes if ap is not None]
        more = ""
        if len(shown) > MAX_CLASSES:
            more = f", the worst {MAX_CLASSES} of {len(shown)}"
            shown = sorted(shown, key=lambda pair: pair[1])[:MAX_CLASSES]
        names = [printable(shortened(c.label, longest)) for c, _ in shown]
        width = max([5, *map(len, names)])
        yield ""
        yield f"{'label':<{width}}  " + "  ".join(f"{name:>9}" for name in COLUMNS) + more
        for name, (c, ap) in zip(names, shown, strict=True):
            yield f"{name:<{width}}  " + "  ".join(f"{cell:>9}" for cell in _cells(c, ap))
        if without := len(self.classes) - sum(ap is not None for _, ap in self.classes):
            yield f"{without:,} of {len(self.classes):,} labels have no image: mAP leaves them out"
        if worst := self.mistakes(MAX_LISTED):
            yield ""
            yield f"farthest on the wrong side of {self.threshold:g}"
            for place, number in worst:
                label = printable(shortened(self.labels[number], longest))
                answer = label if self.answered[place, number] else f"not {label}"
                yield f"  {self.scores[place, number]:.3f} {answer}: {printable(paths[place])}"

    def section(self, images: Sequence[FoundImage]) -> Section:
        worst = [
            Shot(
                printable(images[place].path),
                ", ".join(self._names(place)) or "without a label",
                self.labels[number],
                f"{self.scores[place, number]:.1%}",
                thumbnail(images[place]),
            )
            for place, number in self.mistakes(MAX_MISTAKES)
        ]
        return Section(
            self.name,
            ClassTable(COLUMNS, [(c.label, *_cells(c, ap)) for c, ap in self.classes]),
            worst=worst,
            worst_title=f"Farthest on the wrong side of {self.threshold:g}",
        )

    def files(self, data: str) -> Mapping[str, bytes]:
        rows = [c.numbers() | {"ap": rounded(ap)} for c, ap in self.classes]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return {"classes.csv": text.getvalue().encode("utf-8", "replace")}

    def _names(self, place: int) -> list[str]:
        """The true labels of an image."""
        return [self.labels[number] for number in np.flatnonzero(self.truth[place])]


def average_precision(truth: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float | None:
    """The mean of the precision at each score, weighted by the gain in recall; None if nothing is
    true.  (N,) twice"""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of equal scores
    hits = np.cumsum(truth[order])[last]
    if not hits[-1]:
        return None
    gains = np.diff(hits, prepend=0) / hits[-1]
    return float((gains * hits / (last + 1)).sum())


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _cells(c: ClassScores, ap: float | None) -> tuple[str, ...]:
    """The cells of COLUMNS."""
    first = "-" if ap is None else f"{ap:.1%}"
    return first, f"{c.precision:.1%}", f"{c.recall:.1%}", f"{c.f1:.1%}", f"{c.images:,}"
