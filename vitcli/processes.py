"""The rank of this process under torchrun, and its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:  # for types only: `vit --help` need not import multiprocessing
    from multiprocessing.connection import Connection

EXIT_SECONDS = 5.0  # to wait for a child to exit


@dataclass(frozen=True, slots=True)
class Rank:
    """The rank of this process among the `size` processes of torchrun; without it, 0 of 1."""

    rank: int = 0
    size: int = 1
    local_rank: int | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def rank_of(environment: Mapping[str, str]) -> Rank:
    """Return the rank that torchrun has set in the environment."""

    def number(name: str) -> int | None:
        value = environment.get(name, "")
        return int(value) if value.isdecimal() else None

    rank, size, local_rank = map(number, ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if rank is None or size is None or size < 2:
        rank, size = 0, 1
    return Rank(rank, size, local_rank)


@dataclass(frozen=True, slots=True)
class Child:
    """A child process, the parent's end of the pipe to it, and its stderr."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    stderr: IO[bytes]

    def fate(self) -> str:
        """Wait up to EXIT_SECONDS for the child to exit, and describe how it ended, with the last
        line of its stderr."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_SECONDS)
        self.stderr.seek(0)
        lines = self.stderr.read().decode("utf-8", "replace").strip().splitlines()
        return fate(self.process.poll()) + (f" ({lines[-1]})" if lines else "")

    def close(self) -> None:
        self.pipe.close()
        self.stderr.close()


def command_of(entry: str) -> list[str]:
    """Return the command that calls `entry` ("module:function"). `start` appends the descriptor
    of the pipe, which the function gets as a Connection.

    -P keeps Python from importing modules from the working directory.
    """
    module, _, function = entry.partition(":")
    code = f"import sys; from multiprocessing.connection import Connection; from {module} import "
    code += f"{function}; {function}(Connection(int(sys.argv[-1])))"
    return [sys.executable, "-P", "-c", code]


def start(
    command: Sequence[str],
    *,
    stdin: Path | None = None,
    environment: Mapping[str, str] | None = None,
    own_session: bool = False,
) -> Child:
    """Start a child, with the descriptor of its end of a new pipe appended to `command`.

    With `own_session`, Ctrl-C does not reach the child, and one signal to its process group ends
    the child and the child's own children.
    """
    from multiprocessing import Pipe
    from tempfile import TemporaryFile

    parent_end, child_end = Pipe()
    stderr = TemporaryFile()  # noqa: SIM115  # open until `close`
    try:
        # The parent closes the child's end, so the pipe closes when the child exits.
        with child_end, Path(stdin or os.devnull).open("rb") as file:
            process = subprocess.Popen(
                [*command, str(child_end.fileno())],
                pass_fds=[child_end.fileno()],
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=environment,
                start_new_session=own_session,
            )
    except BaseException:
        parent_end.close()
        stderr.close()
        raise
    return Child(process, parent_end, stderr)


def end_with_parent(
    pipe: Connection | int, end: Callable[[], object] = lambda: os._exit(1)
) -> None:
    """Call `end` when the parent exits or is killed, which closes `pipe` (or makes a sentinel
    ready). The parent must send nothing more on `pipe`."""
    from multiprocessing.connection import wait

    def watch() -> None:
        wait([pipe])
        end()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def fate(exitcode: int | None) -> str:
    """Describe how a process ended: it exited, or a signal killed it. None is the exit code of a
    process that still runs: it stopped answering."""
    if exitcode is None:
        return "stopped answering"
    if exitcode >= 0:
        return f"exited with {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = "?"
    name += ": out of memory?" * (name == "SIGKILL")
    return f"was killed by signal {-exitcode} ({name})"
