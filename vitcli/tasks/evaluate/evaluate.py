"""Evaluate models on labelled images: as classifiers, by neighbours, or by earlier predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitcli.checkpoints.load import Model
from vitcli.errors import printable
from vitcli.images.scan import Omissions
from vitcli.jobs.job import SILENT, Reporter
from vitcli.jobs.listing import scan_of
from vitcli.jobs.precision import settled
from vitcli.tasks.evaluate.classifiers import evaluate_classifiers
from vitcli.tasks.evaluate.job import EvaluateJob, Evaluation
from vitcli.tasks.evaluate.nearest import evaluate_neighbours
from vitcli.tasks.evaluate.predictions import evaluate_predictions
from vitcli.training.data import read_examples
from vitcli.training.example import SPLIT, Example, place_of, trained_on


def evaluate(job: EvaluateJob, reporter: Reporter = SILENT) -> Evaluation:
    """Run the job. Unreadable images are listed, but not part of any score.

    Raises InputError for classes that a model does not have, and for data without labels.
    """
    omissions = Omissions(reporter.note)
    scan = scan_of(job.inputs, omissions)
    outside = job.inputs.allow_outside
    examples = read_examples(job.data, scan, reporter.note, several=True, allow_outside=outside)
    omissions.note_system()
    evaluated = examples
    if {e.split for e in examples} >= {"train", "val"}:
        evaluated = [e for e in examples if e.split == "val"]
        reporter.note(
            f"{len(evaluated):,} images of val are evaluated; the images of train are not"
        )
    if job.preds is not None:
        return evaluate_predictions(job.preds, evaluated, job.threshold, reporter)
    _note_trained(job.models, evaluated, reporter)
    job = replace(job, running=settled(job.running))
    if job.knn is not None:
        return evaluate_neighbours(job, job.knn, examples, evaluated, reporter)
    return evaluate_classifiers(job, evaluated, reporter)


def _note_trained(
    models: Sequence[str | Model], examples: Sequence[Example], reporter: Reporter
) -> None:
    """Note how many of the images are among those that a model was trained on."""
    for model in models:
        spec = Path(model if isinstance(model, str) else model.spec)
        split = _split_of(spec)
        known = trained_on(split) if split is not None else set()
        if known and (seen := sum(place_of(example.path) in known for example in examples)):
            reporter.note(
                f"{seen:,} of {len(examples):,} images are among those that {printable(str(spec))} "
                f"was trained on (see its {SPLIT}): scores on them say little about new images"
            )


def _split_of(spec: Path) -> Path | None:
    """The split table in the folder of a model; None if there is none."""
    try:
        splits = (spec / SPLIT, spec.parent / SPLIT) if spec.exists() else ()
        return next((file for file in splits if file.is_file()), None)
    except (OSError, ValueError):  # not a file name: loading the model reports it
        return None
