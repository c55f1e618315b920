"""The messages between a shared run and its workers: a job to them, typed events back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vitcli.errors import VitError
from vitcli.files import PARTIAL
from vitcli.jobs.job import Note, Reporter, Summary
from vitcli.records import Progress, Row, Sink
from vitcli.runs.shard import Shard
from vitcli.sinks.memory import ListSink

if TYPE_CHECKING:
    from vitcli.tasks.classify.classify import ClassifyJob
    from vitcli.tasks.embed import EmbedJob

SharedJob: TypeAlias = "ClassifyJob | EmbedJob"
SECONDS_BETWEEN = 0.5  # between two reports of progress


@dataclass(frozen=True, slots=True)
class Advanced:
    """The progress of a shard."""

    shard: Shard
    progress: Progress


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker can take a shard."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The worker has done its shard. `rows` has the rows if the job has no output."""

    summary: Summary
    progress: Progress
    rows: tuple[Row, ...] = ()
    meta: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """An error that ends the run."""

    error: VitError


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker has died, and can be replaced."""

    why: str


Message: TypeAlias = Note | Advanced
Event: TypeAlias = Message | Ready | Ended | Failed | Lost


def do_shard(
    job: SharedJob, shard: Shard, attempt: int, send: Callable[[Message], None]
) -> Ended | Failed:
    """Run a shard of the job. A later attempt resumes the shard of a lost worker."""
    resumes = False
    if attempt > 1 and isinstance(job.out, Path):
        out = shard.named(job.out)
        resumes = not job.overwrite or out.with_name(out.name + PARTIAL).exists()
    resuming = replace(job.resuming, shard=shard, resume=job.resuming.resume or resumes)
    reporter, sink = _ShardReporter(send, shard), ListSink()
    try:
        job = replace(job, resuming=resuming, overwrite=job.overwrite and not resumes)
        summary = task_of(job)(job, reporter, sink if job.out is None else None)
    except VitError as error:
        return Failed(error)
    return Ended(summary, reporter.latest, tuple(sink.rows), sink.meta)


class _ShardReporter:
    """Sends the notes of a shard, and its progress, but not more often than SECONDS_BETWEEN."""

    def __init__(self, send: Callable[[Message], None], shard: Shard) -> None:
        self.latest = Progress()
        self._send, self._shard = send, shard
        self._last = -SECONDS_BETWEEN

    def note(self, text: str) -> None:
        self._send(Note(text))

    def listing(self, count: Callable[[], int | None]) -> None: ...

    def doing(self, what: str) -> None: ...

    def steps(self, what: str, done: int, total: int) -> None: ...

    def progress(self, progress: Progress) -> None:
        self.latest = progress
        if time.monotonic() - self._last >= SECONDS_BETWEEN:
            self._last = time.monotonic()
            self._send(Advanced(self._shard, progress))


def task_of(job: SharedJob) -> Callable[[Any, Reporter, Sink | None], Summary]:
    """Return the function that runs a job of this type in this process."""
    from vitcli.tasks.classify.classify import ClassifyJob, classify
    from vitcli.tasks.embed import embed

    return classify if isinstance(job, ClassifyJob) else embed
