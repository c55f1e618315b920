"""The options of a job that a row depends on besides its image and the weights."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Protocol

from vitcli.jobs.job import ModelOptions, Running

NOT_IN_ROWS = frozenset(
    {
        *("inputs", "model", "models", "options", "running", "out", "overwrite", "resuming"),
        *("offline", "device", "workers", "echo", "show"),
        *("format", "html"),  # part of the Format
    }
)


class Job(Protocol):
    """A job that writes rows: a dataclass with these and its own fields."""

    @property
    def options(self) -> ModelOptions: ...

    @property
    def running(self) -> Running: ...


def row_options(job: Job) -> dict[str, object]:
    """The values of all options except those in NOT_IN_ROWS, so that a new option counts."""
    return {f.name: getattr(noun, f.name) for noun, f in _fields(job)}


def row_defaults(job: Job) -> dict[str, object]:
    """The default values of these options."""
    return {f.name: f.default for _, f in _fields(job) if f.default is not MISSING}


def _fields(job: Job) -> list[tuple[object, Field[object]]]:
    nouns = (job.options, job.running, job)
    pairs = [(noun, f) for noun in nouns for f in fields(noun)]  # type: ignore[arg-type]
    return [(noun, f) for noun, f in pairs if f.name not in NOT_IN_ROWS]
