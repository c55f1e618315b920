"""Turn logits into scores by the problem that the classifier was trained for, as transformers'
image classification pipeline does (`pipelines/image_classification.py`, `postprocess`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from vitcli.errors import CheckpointError, UsageError

if TYPE_CHECKING:  # a run with nothing to do does not import torch
    from torch import Tensor

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
ScoreFunction = Literal["softmax", "sigmoid", "none"]
Scores = Literal["prob", "softmax", "sigmoid", "logit", "cosine"]

DESCRIBED: dict[ScoreFunction, str] = {
    "softmax": "softmax over the labels",
    "sigmoid": "sigmoid of each label alone",
    "none": "the output itself, a number",
}


def read_problem_type(config: Mapping[str, Any]) -> ProblemType | None:
    """Read the problem that the classifier was trained for. Raises CheckpointError for a value that
    transformers does not know."""
    problem = config.get("problem_type")
    if problem is None or problem in get_args(ProblemType):
        return problem
    raise CheckpointError(
        f"config.json: problem_type is {problem!r}", f"known are {', '.join(get_args(ProblemType))}"
    )


def score_function(problem_type: ProblemType | None, num_classes: int) -> ScoreFunction:
    """Choose the function that turns the logits of a classifier into scores."""
    if problem_type == "regression":
        return "none"
    if problem_type == "multi_label_classification" or num_classes == 1:
        return "sigmoid"
    return "softmax"


def chosen_function(scores: Scores, own: ScoreFunction) -> ScoreFunction:
    """Return the function of `--scores` for a head with the function `own`. Raises UsageError for
    cosine, which only the classes of a joint space have."""
    match scores:
        case "prob":
            return own
        case "logit":
            return "none"
        case "cosine":
            raise UsageError(
                "--scores cosine is for classes in words, and this model has a trained classifier",
                "name the classes with --classes, or use --scores logit",
            )
    return scores


def to_scores(logits: Tensor, function: ScoreFunction) -> Tensor:
    """(B, K) -> (B, K)"""
    match function:
        case "softmax":
            return logits.softmax(dim=-1)
        case "sigmoid":
            return logits.sigmoid()
        case "none":
            return logits
