"""The types of `vit evaluate`: its job, the answers of each model, and the result."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

from vitcli.checkpoints.load import Model
from vitcli.errors import InputError, UsageError, printable
from vitcli.jobs.job import DEFAULT_MODEL, Inputs, ModelOptions, Reporter, Running, Summary
from vitcli.jobs.listing import list_images
from vitcli.jobs.run import Run
from vitcli.records import Failure, FoundImage
from vitcli.training.example import Example
from vitcli.training.metrics import Answers

TOP = 5  # the number of classes kept for each image


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """One run of `vit evaluate`. Several models are evaluated each alone and averaged. With `knn`,
    this many neighbours vote for the class; with `preds`, rows of `vit classify` are evaluated."""

    data: str
    inputs: Inputs = Inputs()
    models: tuple[str | Model, ...] = (DEFAULT_MODEL,)
    options: ModelOptions = ModelOptions()
    running: Running = Running()
    knn: int | None = None
    preds: Path | None = None

    def __post_init__(self) -> None:
        if self.knn is not None and self.knn < 1:
            raise UsageError(f"--knn {self.knn}", "ask for 1 neighbour or more")
        if self.knn is not None and self.preds is not None:
            raise UsageError("--preds has no embeddings", "leave out --knn")


@dataclass(frozen=True, slots=True)
class ModelAnswers:
    """The answers of one model or of an ensemble. With `are_shares`, the scores of an image are
    probabilities that add up to 1, and calibration is measured."""

    name: str
    labels: tuple[str, ...]
    answers: Answers
    are_shares: bool = True


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result: the answers of each model on `images`, the images that failed, and the slowest
    images to read, as (seconds, path)."""

    summary: Summary
    models: tuple[ModelAnswers, ...]
    images: tuple[FoundImage, ...]
    failures: tuple[Failure, ...]
    slowest: tuple[tuple[float, str], ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(image.path for image in self.images)


def run_on(job: EvaluateJob, examples: Sequence[Example], reporter: Reporter) -> Run:
    """Return a run over the images of the examples, in their order."""
    listing = list_images([example.found for example in examples])
    return Run(job.inputs, job.running, reporter, listing)


def check_any_read(done: Sized, failures: Sequence[Failure]) -> None:
    """Raise InputError if no image could be read."""
    if not len(done):
        first = failures[0]
        raise InputError(
            f"none of {len(failures)} images can be read; "
            f"the first, {printable(first.ref.path)}: {first.message}"
        )
