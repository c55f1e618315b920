"""The types of `vit evaluate`: its job, what a model is judged by, and the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.scoring import Numbers, Scores
from vitcli.errors import InputError, UsageError, printable
from vitcli.jobs.job import DEFAULT_MODEL, Inputs, ModelOptions, Reporter, Running, Summary
from vitcli.jobs.listing import list_images
from vitcli.jobs.run import Run
from vitcli.jobs.words import Words
from vitcli.records import ErrorType, Failure, FoundImage
from vitcli.render.report import Section
from vitcli.training.example import Example

TOP = 5  # the number of classes kept for each image
THRESHOLD = 0.5  # of the scores of several labels, unless the user wants another
MAX_MISTAKES = 24  # in the files
MAX_LISTED = 5  # mistakes on the terminal
MAX_CLASSES = 40  # on the terminal
MIN_NAME, MAX_NAME = 12, 60  # bytes of a label in the printed tables


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """One run of `vit evaluate`. Several models are evaluated each alone and averaged. With `knn`,
    this many neighbours vote for the class; with `preds`, rows of `vit classify` are evaluated.
    `threshold` decides which of several labels an image gets, `words` are classes to score instead
    of the models' own."""

    data: str
    inputs: Inputs = Inputs()
    models: tuple[str | Model, ...] = (DEFAULT_MODEL,)
    options: ModelOptions = ModelOptions()
    running: Running = Running()
    scores: Scores = "prob"
    threshold: float | None = None
    words: Words | None = None
    knn: int | None = None
    preds: Path | None = None

    def __post_init__(self) -> None:
        if self.knn is not None and self.knn < 1:
            raise UsageError(f"--knn {self.knn} is too small", "ask for 1 neighbour or more")
        if self.knn is not None and self.preds is not None:
            raise UsageError("--preds has no embeddings", "leave out --knn")
        if self.words is not None and (self.knn is not None or self.preds is not None):
            option = "--knn" if self.preds is None else "--preds"
            raise UsageError(f"--classes has no effect with {option}", f"leave out {option}")
        if self.scores != "prob" and self.preds is not None:
            raise UsageError("--preds has its scores already", "leave out --scores")
        if self.scores in ("logit", "cosine") and len(self.models) > 1:
            raise UsageError(
                "several models are averaged as probabilities", f"leave out --scores {self.scores}"
            )
        if self.knn is not None and (self.scores != "prob" or self.threshold is not None):
            option = "--scores" if self.scores != "prob" else "--threshold"
            raise UsageError("--knn lets neighbours vote, not the head", f"leave out {option}")


class Result(Protocol):
    """The scores of the answers of one model, or of an ensemble."""

    @property
    def name(self) -> str: ...

    def headline(self) -> dict[str, str]:
        """The most important numbers, ready for printing."""

    def numbers(self, paths: Sequence[str]) -> dict[str, Any]:
        """All numbers as JSON, for the images at `paths`."""

    def details(self, paths: Sequence[str], room: int | None = None) -> Iterator[str]:
        """Yield the lines below the headline, on a terminal with `room` characters a line."""

    def section(self, images: Sequence[FoundImage]) -> Section:
        """The section of the report. The images of the worst mistakes are read again."""

    def files(self, data: str) -> Mapping[str, bytes]:
        """The tables and pictures that only this kind of result has."""


class Problem(Protocol):
    """The question about each image (one label, several, or a number) with the true answers."""

    @property
    def note(self) -> str:
        """A note for the user, or ""."""

    def kept(self, scores: Numbers) -> tuple[NDArray[Any], ...]:
        """The part of a batch's scores that the result needs.  (B, K) -> arrays of B rows"""

    def result(self, name: str, kept: Sequence[NDArray[Any]], places: Sequence[int]) -> Result:
        """The result of a model; `places` are those of the images among the examples."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of each model on `images`, the images that failed, and the slowest images to read,
    as (seconds, path)."""

    summary: Summary
    models: tuple[Result, ...]
    images: tuple[FoundImage, ...]
    failures: tuple[Failure, ...]
    slowest: tuple[tuple[float, str], ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(image.path for image in self.images)


def name_bytes(room: int | None, others: int) -> int:
    """The bytes of a label in a table whose other columns have `others` characters: what a terminal
    with `room` characters a line leaves, or MAX_NAME."""
    return MAX_NAME if room is None else max(MIN_NAME, room - others)


def rounded(value: float | None) -> float | None:
    """A number of a result, as files have it; None stays."""
    return None if value is None else round(value, 6)


def run_on(job: EvaluateJob, examples: Sequence[Example], reporter: Reporter) -> Run:
    """Return a run over the images of the examples, in their order."""
    listing = list_images([example.found for example in examples])
    return Run(job.inputs, job.running, reporter, listing)


def check_any_read(done: Sized, failures: Sequence[Failure]) -> None:
    """Raise InputError if no image could be read."""
    if not len(done):
        first = failures[0]
        is_absent = first.type is ErrorType.NOT_FOUND
        raise InputError(
            f"none of {len(failures)} images can be read; "
            f"the first, {printable(first.ref.path)}: {first.message}",
            "are the paths right? those of a table start at its folder" if is_absent else None,
        )
