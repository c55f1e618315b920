"""What runs on the nodes of a Ray cluster: the workers, and the board on which they write."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, TypeAlias

from vitcli.errors import DeviceError, VitError
from vitcli.files import PARTIAL
from vitcli.jobs.job import Reporter, Summary
from vitcli.records import Progress, Sink
from vitcli.runs.shard import Shard

if TYPE_CHECKING:
    from vitcli.tasks.classify.classify import ClassifyJob
    from vitcli.tasks.embed import EmbedJob

Job: TypeAlias = "ClassifyJob | EmbedJob"

TELL_EVERY = 0.5  # seconds


class ProgressBoard:
    """An actor on which the workers write how far they are."""

    def __init__(self) -> None:
        self._heard: dict[Shard, Progress] = {}
        self._notes: list[str] = []

    def tell(self, shard: Shard, progress: Progress) -> None:
        self._heard[shard] = progress

    def note(self, text: str) -> None:
        self._notes.append(text)

    def look(self) -> tuple[dict[Shard, Progress], list[str]]:
        """What is new."""
        new = self._heard, self._notes
        self._heard, self._notes = {}, []
        return new


class Worker:
    """An actor: the model, and one shard after the other. What ends a job is its answer."""

    def __init__(self, order: tuple[Job, str, bytes | None], board: Any) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the `vit` process
        self._job, self._folder, stdin = order
        self._board = board
        self._stdin = None
        if stdin is not None:
            self._stdin = TemporaryFile()  # noqa: SIM115  # it lives as long as we do
            self._stdin.write(stdin)
            self._stdin.flush()

    def load(self) -> VitError | None:
        """Be ready for shards."""
        try:
            os.chdir(self._folder)
        except OSError as error:
            return DeviceError(
                f"a node of the Ray cluster cannot enter {self._folder}: {error.strerror}",
                "inputs and output have to be in a file system that all nodes share",
            )
        try:
            self._job = _loaded(self._job, self._note)
        except VitError as error:
            return error
        return None

    def do(self, shard: Shard, attempt: int) -> tuple[Summary, Progress] | VitError:
        """Make a shard, or go on with it where another worker was lost with it."""
        job = self._job
        assert isinstance(job.out, Path)
        out = shard.named(job.out)
        goes_on = attempt > 1 and (not job.overwrite or out.with_name(out.name + PARTIAL).exists())
        resuming = replace(job.resuming, shard=shard, resume=job.resuming.resume or goes_on)
        job = replace(job, resuming=resuming, overwrite=job.overwrite and not goes_on)
        if self._stdin is not None:
            self._stdin.seek(0, io.SEEK_SET)
            os.dup2(self._stdin.fileno(), 0)
        teller = _Teller(self._board, shard)
        try:
            return task_of(job)(job, teller, None), teller.latest
        except VitError as error:
            return error

    def _note(self, text: str) -> None:
        self._board.note.remote(text)


class _Teller:
    """The watcher of a shard: it tells the board, but not of every batch."""

    def __init__(self, board: Any, shard: Shard) -> None:
        self.latest = Progress()
        self._board, self._shard = board, shard
        self._told = -TELL_EVERY

    def note(self, text: str) -> None:
        self._board.note.remote(text)

    def listing(self, count: Callable[[], int | None]) -> None: ...

    def progress(self, progress: Progress) -> None:
        self.latest = progress
        if time.monotonic() - self._told >= TELL_EVERY:
            self._told = time.monotonic()
            self._board.tell.remote(self._shard, progress)


def task_of(job: Job) -> Callable[[Any, Reporter | None, Sink | None], Summary]:
    """What runs such a job."""
    from vitcli.tasks.classify.classify import ClassifyJob, classify
    from vitcli.tasks.embed import embed

    return classify if isinstance(job, ClassifyJob) else embed


def _loaded(job: Job, note: Callable[[str], None]) -> Job:
    """The job with its models in memory, so that every shard finds them there."""
    from vitcli.jobs.loading import load_model
    from vitcli.tasks.classify.classify import ClassifyJob

    def loaded(model: Any) -> Any:
        return load_model(model, job.options, note) if isinstance(model, str) else model

    if isinstance(job, ClassifyJob):
        return replace(job, models=tuple(map(loaded, job.models)))
    return replace(job, model=loaded(job.model))
