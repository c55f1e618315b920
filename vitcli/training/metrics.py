"""Answers and the truth into numbers: accuracy, each class, confusion, calibration, neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 15  # of the reliability diagram, as Guo et al. (arXiv 1706.04599)
TEMPERATURE = 0.07  # of the neighbours' votes, as DINO's eval_knn.py


@dataclass(frozen=True, slots=True)
class Answers:
    """The best classes of N images, best first, and the true one.

    best (N, k) class numbers, -1 where there is none; scores (N, k); truth (N,).
    """

    best: NDArray[np.int64]
    scores: NDArray[np.float64]
    truth: NDArray[np.int64]

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
        """Places of wrong answers, the most confident first."""
        wrong = np.flatnonzero(~self.is_right)
        order = np.argsort(-self.scores[wrong, 0], kind="stable")
        return [int(place) for place in wrong[order][:count]]


@dataclass(frozen=True, slots=True)
class ClassScores:
    """How one class fares: of `images` of it, and of those taken for it."""

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


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often each class (row) was taken for each (column): only classes that occur."""

    labels: tuple[str, ...]
    counts: NDArray[np.int64]

    def per_class(self) -> list[ClassScores]:
        images, predicted = self.counts.sum(axis=1), self.counts.sum(axis=0)
        columns = (images.tolist(), predicted.tolist(), self.counts.diagonal().tolist())
        return [ClassScores(*row) for row in zip(self.labels, *columns, strict=True)]

    def pairs(self, count: int) -> list[tuple[str, str, int]]:
        """(class, taken for, times), the most frequent first."""
        off = self.counts - np.diag(self.counts.diagonal())
        order = np.argsort(-off, axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(order, off.shape)
        found = zip(rows.tolist(), columns.tolist(), off[rows, columns].tolist(), strict=True)
        return [(self.labels[r], self.labels[c], n) for r, c, n in found if n]


def confusion(answers: Answers, labels: Sequence[str]) -> Confusion:
    """Over the classes that are true or answered somewhere."""
    present = np.union1d(answers.truth, answers.top1)
    names = tuple(labels[i] if i >= 0 else "(no answer)" for i in present.tolist())
    rows, columns = (np.searchsorted(present, x) for x in (answers.truth, answers.top1))
    counts = np.zeros((len(present), len(present)), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return Confusion(names, counts)


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose confidence is in (low, high]: how many, how sure, how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(answers: Answers, bins: int = BINS) -> list[Bin]:
    """Confidence against accuracy, in bins of equal width; empty ones too."""
    sure, right = answers.scores[:, 0], answers.is_right
    places = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for i in range(bins):
        inside = places == i
        count = int(inside.sum())
        means = (float(x[inside].mean()) if count else 0.0 for x in (sure, right))
        found.append(Bin(i / bins, (i + 1) / bins, count, *means))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error: the mean distance of confidence and accuracy."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / max(total, 1)


@torch.inference_mode()
def neighbours(
    queries: Tensor, gallery: Tensor, classes: Tensor, count: int, k: int, *, leave_out: bool
) -> tuple[Tensor, Tensor]:
    """The classes that the k nearest vote for, a vote weighing exp(cosine / 0.07).

    queries (N, D) and gallery (M, D) of unit length, classes (M,) below `count`. `leave_out`:
    both are the same images, and none votes for itself.  -> shares and classes (N, count), sorted
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
