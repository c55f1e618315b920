"""The output of a job, and the options that its rows depend on besides image and weights."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import ClassVar, Protocol

from vitcli.jobs.job import ModelOptions, Running
from vitcli.runs.output import Output
from vitcli.runs.shard import Resuming
from vitcli.sinks.format import Format

NOT_IN_ROWS = frozenset(
    {
        *("inputs", "model", "models", "options", "running", "out", "overwrite", "resuming"),
        "config",
        *("offline", "device", "workers", "echo", "show"),
        *("format", "html"),  # part of the Format
    }
)


class Job(Protocol):
    """A job that writes rows: a dataclass with these and its own fields."""

    command: ClassVar[str]

    @property
    def options(self) -> ModelOptions: ...

    @property
    def running(self) -> Running: ...

    @property
    def overwrite(self) -> bool: ...

    @property
    def resuming(self) -> Resuming: ...

    @property
    def config(self) -> str | None:
        """A config file that repeats the run, for the meta."""


def output_of(job: Job, out: Path | None, format: Format) -> Output:
    """The output of a job. Its rows depend on all options of the job except those in NOT_IN_ROWS,
    so that a new option counts."""
    nouns = (job.options, job.running, job)
    pairs = [(noun, f) for noun in nouns for f in _fields(noun)]
    return Output(
        out=out,
        command=job.command,
        format=format,
        options={f.name: getattr(noun, f.name) for noun, f in pairs},
        defaults={f.name: f.default for _, f in pairs if f.default is not MISSING},
        overwrite=job.overwrite,
        resuming=job.resuming,
        config=job.config,
    )


def _fields(noun: object) -> list[Field[object]]:
    return [f for f in fields(noun) if f.name not in NOT_IN_ROWS]  # type: ignore[arg-type]
