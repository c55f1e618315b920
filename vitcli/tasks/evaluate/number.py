"""Judge models that answer with a number (regression): mean errors, and R².

The numbers are those of scikit-learn's `mean_absolute_error`, `root_mean_squared_error` and
`r2_score`; several outputs are averaged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.checkpoints.scoring import Numbers
from vitcli.errors import InputError, UsageError, printable, shortened
from vitcli.records import FoundImage
from vitcli.render.report import ClassTable, Section, Shot
from vitcli.tasks.evaluate.job import MAX_LISTED, MAX_MISTAKES, name_bytes, rounded
from vitcli.tasks.evaluate.thumbnails import thumbnail
from vitcli.training.example import Example

COLUMNS = ("MAE", "RMSE", "R²")


@dataclass(frozen=True, slots=True)
class Number:
    """The problem: each output of the model is a number. `truth` (N, K) has the true ones."""

    labels: tuple[str, ...]
    truth: NDArray[np.float64]
    note: str = ""

    @classmethod
    def of(
        cls,
        labels: tuple[str, ...],
        who: str,
        examples: Sequence[Example],
        threshold: float | None,
    ) -> Number:
        """Read the labels of the examples as numbers. Raises InputError for other labels,
        UsageError for a threshold."""
        if threshold is not None:
            raise UsageError(
                f"--threshold is for labels, and {who} answers with a number (regression)",
                "leave out --threshold",
            )
        return cls(labels, np.array([_values(e, len(labels), who) for e in examples]))

    def kept(self, scores: Numbers) -> tuple[NDArray[Any], ...]:
        """(B, K) -> (B, K)"""
        return (scores,)

    def result(
        self, name: str, kept: Sequence[NDArray[Any]], places: Sequence[int]
    ) -> NumberResult:
        [answers] = kept
        truth = self.truth[np.array(places, np.int64)]
        return NumberResult(name, self.labels, truth, answers.astype(np.float64))


def are_numbers(example: Example, count: int) -> bool:
    """Whether the label of an example is as many numbers as the model has outputs."""
    _, values = _read(example, count)
    return len(values) == count and all(map(math.isfinite, values))


def _read(example: Example, count: int) -> tuple[Sequence[str], list[float]]:
    """The labels of an example, of which a cell may hold several, as texts and as numbers; one NaN
    if they are none."""
    names = example.names
    if count > 1 and len(names) == 1:
        names = tuple(re.split(r"[;|,\s]+", names[0].strip("[] ")))
    try:
        return names, [float(name) for name in names]
    except ValueError:
        return names, [math.nan]


def _values(example: Example, count: int, who: str) -> list[float]:
    """The numbers of an example. Raises InputError if they are none, or not `count`."""
    names, values = _read(example, count)
    if not all(map(math.isfinite, values)):
        raise InputError(
            f"{printable(example.path)} is {printable(', '.join(names)[:100])}, "
            f"and {who} answers with a number (regression)",
            "expected a table with the columns path and label, and a number as the label",
        )
    if len(values) != count:
        raise InputError(
            f"{printable(example.path)} is {printable(', '.join(names)[:100])}, "
            f"and {who} answers with {count} numbers",
            "give a number for each output, in their order: a column labels with 1.5;2",
        )
    return values


@dataclass(frozen=True, slots=True)
class NumberResult:
    """The answers (N, K) of one model or of an ensemble, and the true numbers (N, K)."""

    name: str
    labels: tuple[str, ...]
    truth: NDArray[np.float64]
    answers: NDArray[np.float64]

    @property
    def outputs(self) -> list[dict[str, float | None]]:
        """The mean errors and R² of each output. R² is None if all true numbers are equal."""
        off = self.answers - self.truth
        spread = ((self.truth - self.truth.mean(axis=0)) ** 2).sum(axis=0)
        return [
            {
                "mae": float(np.abs(of).mean()),
                "rmse": float(np.sqrt((of**2).mean())),
                "r2": float(1 - (of**2).sum() / total) if total > 0 else None,
            }
            for of, total in zip(off.T, spread, strict=True)
        ]

    @property
    def means(self) -> dict[str, float | None]:
        """The mean of each number over the outputs."""
        outputs = self.outputs
        return {name: _mean([output[name] for output in outputs]) for name in outputs[0]}

    def mistakes(self, count: int) -> list[int]:
        """The images with the largest errors, summed over the outputs."""
        off = np.abs(self.answers - self.truth).sum(axis=1)
        return [int(place) for place in np.argsort(-off, kind="stable")[:count] if off[place] > 0]

    def headline(self) -> dict[str, str]:
        return dict(zip(COLUMNS, map(_shown, self.means.values()), strict=True))

    def numbers(self, paths: Sequence[str]) -> dict[str, Any]:
        return {
            "model": self.name,
            "problem": "number",
            **{name: rounded(value) for name, value in self.means.items()},
            "outputs": [
                {"label": label} | {name: rounded(value) for name, value in output.items()}
                for label, output in zip(self.labels, self.outputs, strict=True)
            ],
            "largest_errors": [
                {
                    "path": printable(paths[place]),
                    "true": self.truth[place].tolist(),
                    "predicted": [round(value, 6) for value in self.answers[place].tolist()],
                }
                for place in self.mistakes(MAX_MISTAKES)
            ],
        }

    def details(self, paths: Sequence[str], room: int | None = None) -> Iterator[str]:
        """Yield the outputs, if there are several, and the largest errors."""
        longest = name_bytes(room, len(COLUMNS) * 11)
        if len(self.labels) > 1:
            names = [printable(shortened(label, longest)) for label in self.labels]
            width = max(6, *map(len, names))
            yield ""
            yield f"{'output':<{width}}  " + "  ".join(f"{name:>9}" for name in COLUMNS)
            for name, output in zip(names, self.outputs, strict=True):
                cells = map(_shown, output.values())
                yield f"{name:<{width}}  " + "  ".join(f"{cell:>9}" for cell in cells)
        if worst := self.mistakes(MAX_LISTED):
            yield ""
            yield "largest errors"
            for place in worst:
                answer, truth = _joined(self.answers[place]), _joined(self.truth[place])
                yield f"  {answer}, true {truth}: {printable(paths[place])}"

    def section(self, images: Sequence[FoundImage]) -> Section:
        rows = [
            (label, *map(_shown, output.values()))
            for label, output in zip(self.labels, self.outputs, strict=True)
        ]
        worst = [
            Shot(
                printable(images[place].path),
                _joined(self.truth[place]),
                _joined(self.answers[place]),
                "",
                thumbnail(images[place]),
            )
            for place in self.mistakes(MAX_MISTAKES)
        ]
        return Section(
            self.name,
            ClassTable(COLUMNS, rows, "Outputs"),
            worst=worst,
            worst_title="Largest errors",
        )

    def files(self, data: str) -> Mapping[str, bytes]:
        return {}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _joined(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
