"""Choose the threshold of `near` from the distribution of scores.

Each image has a best score s with another; most have no twin, and their best scores say how alike
different images are in this space. On the scale z = -log10(1 - s) these spread about evenly, for
wide spaces as for narrow ones. Their middle and spread are estimated from the low quantiles, where
twins do not disturb, as for a normal distribution; scores beyond the bound are left out, and the
rest is estimated again, until nothing changes (sigma clipping). The threshold is the score that
fewer than one of the N images would reach by chance, and at least LOWEST: below it, images are
alike rather than the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LOWEST = 0.9
USUAL = 0.97  # for too few images
FEWEST = 20  # images whose best scores tell a distribution
QUANTILES = (0.05, 0.25)
SMALLEST_SPREAD = 0.1  # of z: a chance cluster of few images is narrower
LEAST_SIGMAS = 3.0
CLOSEST = 1e-7  # 1 - s of the most alike images, for z
MAX_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold for cosines, and how it was chosen, as a sentence."""

    value: float
    how: str


def chosen(best: NDArray[np.float64], same: NDArray[np.bool_]) -> Threshold:
    """Choose a threshold.  (N,), (N,)

    best: the best score of each image with one whose vector differs, NaN without one. same:
    whether another has the same vector: such images are twins, and their other scores count.
    """
    scores = best[np.isfinite(best)]
    if len(scores) < FEWEST:
        few = f"{len(scores)} images that differ are too few to tell their usual scores"
        return Threshold(USUAL, f"threshold {USUAL:g}: {few}; --threshold overrides it")
    z = np.sort(-np.log10(np.maximum(1 - scores, CLOSEST)))
    bound, count = math.inf, len(z)
    for _ in range(MAX_ROUNDS):
        middle, spread = _normal(z[:count])
        sigmas = max(LEAST_SIGMAS, NormalDist().inv_cdf(1 - 1 / count))
        bound = middle + sigmas * spread
        left = max(FEWEST, int(np.searchsorted(z, bound)))
        if left >= count:
            break
        count = left
    value = _rounded(bound)
    usual = 1 - 10 ** -float(np.median(z[:count]))
    if value < LOWEST:
        why = f"the best scores of different images end below {value:.3g}, and twins begin there"
        return Threshold(LOWEST, f"threshold {LOWEST:g}, the lowest that is chosen: {why}")
    why = f"the best score of an image is usually about {usual:.3g}, and by the spread of these"
    chance = f"fewer than one of {count:,} different images would reach {value:g} by chance"
    return Threshold(value, f"threshold {value:g}: {why} {chance}")


def _normal(z: NDArray[np.float64]) -> tuple[float, float]:
    """The mean and the standard deviation of a normal distribution with the low quantiles of z."""
    low, high = QUANTILES
    at_low, at_high = np.quantile(z, QUANTILES)
    places = NormalDist().inv_cdf(low), NormalDist().inv_cdf(high)
    spread = max(SMALLEST_SPREAD, float(at_high - at_low) / (places[1] - places[0]))
    return float(at_high) - places[1] * spread, spread


def _rounded(z: float) -> float:
    """The score of z, with two digits of its distance from 1, rounded up."""
    distance = max(10.0**-z, CLOSEST)
    step = 10.0 ** (math.floor(math.log10(distance)) - 1)
    value: float = round(1 - math.floor(distance / step + 1e-9) * step, 9)
    return value


def learnt(scores: NDArray[np.float64], pairs: list[tuple[str, str]]) -> Threshold:
    """The threshold at which all known twins are found: the lowest of their scores."""
    place = int(np.argmin(scores))
    value = math.floor(float(scores[place]) * 1e6) / 1e6
    first, second = pairs[place]
    return Threshold(
        value,
        f"threshold {value:g}: the least alike of {len(pairs):,} known pairs of twins are "
        f"{first} and {second}",
    )
