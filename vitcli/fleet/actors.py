"""The actors on the nodes of a Ray cluster: the workers, and the board with their messages."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from tempfile import TemporaryFile
from typing import Any

from vitcli.errors import DeviceError, VitError
from vitcli.fleet.events import Ended, Failed, Message, Ready, SharedJob, do_shard
from vitcli.jobs.job import Note
from vitcli.runs.shard import Shard


class Board:
    """An actor that keeps the messages of the workers until they are read."""

    def __init__(self) -> None:
        self._unread: list[Message] = []

    def add(self, message: Message) -> None:
        self._unread.append(message)

    def read(self) -> list[Message]:
        """Return the messages since the last call."""
        new, self._unread = self._unread, []
        return new


class Worker:
    """An actor that loads the model once, and then runs one shard after another."""

    def __init__(self, order: tuple[SharedJob, str, bytes | None], board: Any) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the `vit` process
        self._job, self._folder, stdin = order
        self._board = board
        self._stdin = None
        if stdin is not None:
            self._stdin = TemporaryFile()  # noqa: SIM115  # open until the actor ends
            self._stdin.write(stdin)
            self._stdin.flush()

    def load(self) -> Ready | Failed:
        """Enter the folder of the run, and load the models of the job."""
        try:
            os.chdir(self._folder)
        except OSError as error:
            return Failed(
                DeviceError(
                    f"a node of the Ray cluster cannot enter {self._folder}: {error.strerror}",
                    "inputs and output have to be in a file system that all nodes share",
                )
            )
        try:
            self._job = _loaded(self._job, lambda text: self._send(Note(text)))
        except VitError as error:
            return Failed(error)
        return Ready()

    def do(self, shard: Shard, attempt: int) -> Ended | Failed:
        """Run a shard with the loaded models."""
        if self._stdin is not None:
            self._stdin.seek(0, io.SEEK_SET)
            os.dup2(self._stdin.fileno(), 0)
        return do_shard(self._job, shard, attempt, self._send)

    def _send(self, message: Message) -> None:
        self._board.add.remote(message)


def _loaded(job: SharedJob, note: Callable[[str], None]) -> SharedJob:
    """Return the job with its models loaded."""
    from vitcli.jobs.loading import load_model
    from vitcli.tasks.classify.classify import ClassifyJob

    def loaded(model: Any) -> Any:
        return load_model(model, job.options, note)

    if isinstance(job, ClassifyJob):
        return replace(job, models=tuple(map(loaded, job.models)))
    return replace(job, model=loaded(job.model))
