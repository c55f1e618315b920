"""Measure how fast a run computes images or texts, apart from its start-up.

The start-up is the time before the computing: imports, loading the model, starting the workers. In
a run that is long enough to tell, the first batch belongs to it, too, since it warms up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

MIN_STEADY = 1.0  # seconds from the first batch to the last, for a rate without the first


@dataclass(frozen=True, slots=True)
class Rate:
    """The seconds of the start-up, and how many things a second were computed after it."""

    start_up: float
    per_second: float


@dataclass(slots=True)
class Pace:
    """When a run began to compute, and when it had computed the first batch and the latest one.
    A run may compute one thing after another, such as texts and images: the last one counts."""

    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)
    _unit: str = ""
    _begun: float | None = None
    _first: tuple[float, int] | None = None
    _latest: tuple[float, int] = (0.0, 0)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def seconds(self) -> float:
        """The seconds since the start."""
        return self.clock() - self.started

    def wait(self) -> None:
        """Note that the run prepares something now."""
        self._unit, self._begun, self._first, self._latest = "", None, None, (0.0, 0)

    def begin(self, unit: str) -> None:
        """Note that everything is ready to compute these. Only the first call counts."""
        if unit != self._unit:
            self._unit, self._begun, self._first, self._latest = unit, self.clock(), None, (0.0, 0)

    def advance(self, unit: str, done: int) -> None:
        """Note that `done` of these have been computed in this run."""
        self.begin(unit)
        if done > self._latest[1]:
            self._latest = self.clock(), done
            self._first = self._first or self._latest

    def rate(self, unit: str) -> Rate | None:
        """Return the rate after the first batch; for less than MIN_STEADY seconds after it, the
        rate of all batches. None if nothing was computed, or if its start is not known."""
        if unit != self._unit or self._begun is None or self._first is None:
            return None
        (first, at_first), (latest, done) = self._first, self._latest
        is_steady = latest - first >= MIN_STEADY
        since, before = (first, at_first) if is_steady else (self._begun, 0)
        if latest <= since:
            return None
        return Rate(since - self.started, (done - before) / (latest - since))
