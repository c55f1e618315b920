"""Run an action in a child that is killed at its n-th change of a file.

A small process forks the child: it takes a fraction of the time that a fork of the process of
pytest takes, which has imported torch and collected all tests.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from vitcli.processes import command_of, start
from vitcli.runs import recording
from vitcli.sinks import files
from vitcli.sinks.files import PartialFile

IsKilled = Callable[[int, Callable[[], object]], bool]
ROOT = Path(__file__).parents[2]
COMMAND = command_of("tests.runs.killing:serve")


class Killer:
    """Kills this process at its n-th change of a file, half of which is done then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left = number
        write, name = PartialFile._write, files.take_name

        def killing_write(file: PartialFile, data: Any) -> None:
            if self.is_time():
                write(file, memoryview(data)[: len(data) // 2])
                self.kill()
            write(file, data)

        def killing_name(partial: Path, real: Path) -> None:
            if self.is_time():
                self.kill()
            name(partial, real)
            if self.is_time():
                self.kill()

        def killing_sync(descriptor: int) -> None:
            """Not that of the disk: a process that is killed loses nothing that it has written."""
            if self.is_time():
                self.kill()

        monkeypatch.setattr(PartialFile, "_write", killing_write)
        monkeypatch.setattr(files, "take_name", killing_name)
        monkeypatch.setattr(recording, "take_name", killing_name)
        monkeypatch.setattr(os, "fsync", killing_sync)

    def is_time(self) -> bool:
        self.left -= 1
        return self.left < 0

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def killing() -> Iterator[IsKilled]:
    """Start the process that forks. What it is given is pickled."""
    child = start(COMMAND, environment={**os.environ, "PYTHONPATH": str(ROOT)})

    def is_killed(number: int, action: Callable[[], object]) -> bool:
        """Run it in a child that is killed at its n-th change; False where it ends before."""
        child.pipe.send((number, action))
        status: int = child.pipe.recv()
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)

    try:
        yield is_killed
    finally:
        child.close()  # the end of the pipe is the end of the process
        child.process.wait()


def serve(pipe: Connection) -> None:
    """Fork for each action, and send how its child ends, until the pipe is closed."""
    import numpy.random  # noqa: F401  # or each fork imports it, for the rows of an array

    while True:
        try:
            number, action = pipe.recv()
        except EOFError:
            return
        if (child := os.fork()) == 0:
            run(number, action)
        pipe.send(os.waitpid(child, 0)[1])


def run(number: int, action: Callable[[], object]) -> None:
    """Run an action, to which a death comes at its n-th change, and end this process."""
    with pytest.MonkeyPatch.context() as patch:
        Killer(patch, number)
        try:
            action()
        except BaseException:
            os._exit(1)
    os._exit(0)
