"""Turn logits into scores by the problem that the classifier was trained for, as transformers'
image classification pipeline does (`pipelines/image_classification.py`, `postprocess`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from vitcli.engines import EngineName
from vitcli.errors import CheckpointError, UsageError

if TYPE_CHECKING:  # for types only: a run with nothing to do need not import numpy
    import numpy as np
    from numpy.typing import NDArray

Numbers: TypeAlias = "NDArray[np.floating[Any]]"

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


def to_scores(logits: Numbers, function: ScoreFunction, engine: EngineName) -> Numbers:
    """Turn logits into scores: with torch for its own engine, else with numpy, as the other engines
    run without torch. Numpy's steps are rounded to fp32 like torch's, so that equal scores are
    equal in both; the last digit may differ.  (..., K) -> (..., K)"""
    import numpy as np

    if function == "none":
        return logits
    if engine == "torch":
        import torch

        tensor = torch.from_numpy(logits)
        of_torch = tensor.softmax(dim=-1) if function == "softmax" else tensor.sigmoid()
        scores: Numbers = of_torch.numpy()
        return scores
    one = logits.dtype.type(1)
    with np.errstate(over="ignore", invalid="ignore"):  # the rows of such images are failures
        if function == "sigmoid":
            return one / (one + _exp(-logits))
        powers = _exp(logits - logits.max(axis=-1, keepdims=True))
        sums: Numbers = powers.sum(axis=-1, keepdims=True, dtype=np.float64).astype(powers.dtype)
        return powers / sums


def _exp(numbers: Numbers) -> Numbers:
    """The exponential, computed in fp64 and rounded."""
    import numpy as np

    powers: Numbers = np.exp(numbers.astype(np.float64)).astype(numbers.dtype)
    return powers


def averaged(scores: Sequence[Numbers], engine: EngineName) -> Numbers:
    """The mean of the scores of several models.  (B, K) each -> (B, K)"""
    import numpy as np

    if len(scores) == 1:
        return scores[0]
    if engine == "torch":
        import torch

        mean: Numbers = torch.from_numpy(np.stack(scores)).mean(dim=0).numpy()
        return mean
    of_numpy: Numbers = np.mean(scores, axis=0)
    return of_numpy
