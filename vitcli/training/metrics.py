"""Score answers against true classes: accuracy, per class, confusion, calibration, neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 15  # in the reliability diagram, as in Guo et al. (arXiv 1706.04599)
TEMPERATURE = 0.07  # for the votes of neighbours, as in DINO's eval_knn.py


@dataclass(frozen=True, slots=True)
class Answers:
    """The best k classes of N images, best first, and the true class of each.

    best (N, k) has class numbers, -1 for no answer; scores (N, k); truth (N,).
    """

    best: NDArray[np.int64]
    scores: NDArray[np.float64]
    truth: NDArray[np.int64]

    @property
    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        return self.best, self.scores, self.truth

    @property
    def top1(self) -> NDArray[np.int64]:
        return self.best[:, 0]

    @property
    def is_right(self) -> NDArray[np.bool_]:
        return np.equal(self.top1, self.truth)

    def accuracy(self, k: int = 1) -> float:
        """The share of images whose class is among the best k."""
        return float((self.best[:, :k] == self.truth[:, None]).any(axis=1).mean())

    def mistakes(self, count: int) -> list[int]:
        """The places of the wrong answers, most confident first."""
        wrong = np.flatnonzero(~self.is_right)
        order = np.argsort(-self.scores[wrong, 0], kind="stable")
        return [int(place) for place in wrong[order][:count]]


@dataclass(frozen=True, slots=True)
class ClassScores:
    """The counts of one class: its images, the answers with it, and the right ones among them."""

    label: str
    images: int
    predicted: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.images if self.images else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.images + self.predicted) if self.right else 0.0

    def numbers(self) -> dict[str, Any]:
        """The counts and the scores as JSON."""
        return {
            "label": self.label,
            "images": self.images,
            "predicted": self.predicted,
            "precision": round(self.precision, 6),
            "recall": round(self.recall, 6),
            "f1": round(self.f1, 6),
        }


@dataclass(frozen=True, slots=True)
class Confusion:
    """The number of images of each class (row) that got each answer (column). Classes that are
    neither the truth nor the answer of an image have no row and no column."""

    labels: tuple[str, ...]
    counts: NDArray[np.int64]

    def per_class(self) -> list[ClassScores]:
        images, predicted = self.counts.sum(axis=1), self.counts.sum(axis=0)
        columns = (images.tolist(), predicted.tolist(), self.counts.diagonal().tolist())
        return [ClassScores(*row) for row in zip(self.labels, *columns, strict=True)]

    def pairs(self, count: int) -> list[tuple[str, str, int]]:
        """The most frequent mistakes, as (true class, wrong answer, count)."""
        off = self.counts - np.diag(self.counts.diagonal())
        order = np.argsort(-off, axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(order, off.shape)
        cells = zip(rows.tolist(), columns.tolist(), off[rows, columns].tolist(), strict=True)
        return [(self.labels[r], self.labels[c], n) for r, c, n in cells if n]


def confusion(answers: Answers, labels: Sequence[str]) -> Confusion:
    """Count the answers for each class."""
    present = np.union1d(answers.truth, answers.top1)
    names = tuple(labels[i] if i >= 0 else "(no answer)" for i in present.tolist())
    rows, columns = (np.searchsorted(present, x) for x in (answers.truth, answers.top1))
    counts = np.zeros((len(present), len(present)), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return Confusion(names, counts)


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers with a confidence in (low, high]: their number, mean confidence and accuracy."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def reliability(answers: Answers, bins: int = BINS) -> list[Bin]:
    """Compare confidence with accuracy in bins of equal width, including empty bins."""
    confidence, right = answers.scores[:, 0], answers.is_right
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    filled = []
    for i in range(bins):
        inside = places == i
        count = int(inside.sum())
        means = (float(x[inside].mean()) if count else 0.0 for x in (confidence, right))
        filled.append(Bin(i / bins, (i + 1) / bins, count, *means))
    return filled


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error: the mean distance between confidence and accuracy."""
    total = sum(b.images for b in bins)
    return sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / max(total, 1)


@torch.inference_mode()
def neighbours(
    queries: Tensor, gallery: Tensor, classes: Tensor, count: int, k: int, *, leave_out: bool
) -> tuple[Tensor, Tensor]:
    """Let the k nearest images of the gallery vote, each with weight exp(cosine / 0.07).

    queries (N, D) and gallery (M, D) have unit length; classes (M,) are below `count`. With
    `leave_out`, the gallery is the queries, and no image votes for itself.
    -> shares of the votes and classes, (N, count) each, the largest share first
    """
    k = min(k, len(gallery) - leave_out)
    one_hot = torch.nn.functional.one_hot(classes, count).float()
    votes = []
    for start in range(0, len(queries), 1024):
        near = queries[start : start + 1024] @ gallery.T
        if leave_out:
            own = torch.arange(len(near))
            near[own, own + start] = -torch.inf
        closeness, places = near.topk(k, dim=1)
        weights = ((closeness - 1) / TEMPERATURE).exp()
        votes.append((weights[..., None] * one_hot[places]).sum(dim=1))
    shares = torch.cat(votes)
    shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-30)
    best, order = shares.sort(dim=1, descending=True, stable=True)
    return best, order
