"""One candidate of a bench, measured in a process of its own: its memory, its engine, its threads
and its crashes concern nobody else.

Here are the words that go through the pipe, and our end of it; `vitcli.tasks.bench.worker` is the
other.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from vitcli import processes
from vitcli.checkpoints import engines
from vitcli.checkpoints.resolve import Checkpoint
from vitcli.engines import DtypeName, EngineName, Quantize
from vitcli.jobs.job import ModelOptions
from vitcli.records import Decode, Limits

Pixels: TypeAlias = NDArray[np.uint8]

COMMAND = processes.command_of("vitcli.tasks.bench.worker:main")
DYING = 5.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a model."""

    engine: EngineName
    dtype: DtypeName
    quantize: Quantize | None = None

    @property
    def is_exact(self) -> bool:
        return self.dtype == "fp32" and self.quantize is None

    def __str__(self) -> str:
        if self.quantize is None:
            return f"{self.engine} {self.dtype}"
        rest = "" if self.dtype == "fp32" else f" {self.dtype}"
        return f"{self.engine} {self.quantize}{rest}"


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read files."""

    decode: Decode
    workers: int

    def __str__(self) -> str:
        return f"--decode {self.decode} -j {self.workers}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one process has to measure: ready pictures in `batch_sizes`, and then files, if there
    are `readings`, in batches of the last of these. `deadline` is on the monotonic clock."""

    checkpoint: Checkpoint
    options: ModelOptions
    candidate: Candidate
    device: str
    pictures: Path
    batch_sizes: tuple[int, ...]
    deadline: float
    files: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a user should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Exporting:
    """The engine has no files yet, and making them takes its time."""


@dataclass(frozen=True, slots=True)
class Exported:
    """They are made. `Ended` follows: a process that has not done that is to be measured."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Timed:
    """Ready pictures. `seconds` is the median for one batch, `peak` in bytes up to now."""

    batch_size: int
    seconds: float
    peak: int
    device_peak: int | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Files. `peak` holds the workers too, where the system tells."""

    reading: Reading
    images_per_second: float
    peak: int | None


@dataclass(frozen=True, slots=True)
class Outputs:
    """What came out for some of the pictures.  (n,) numbers of pictures, (n, D + K)"""

    pictures: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Skipped:
    """What there was no time for."""

    what: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event; `why` where it did not end well."""

    why: str = ""


Event: TypeAlias = Note | Exporting | Exported | Timed | Read | Outputs | Skipped | Ended


@contextmanager
def started(trial: Trial) -> Iterator[Callable[[float], Event]]:
    """Yield a function that returns the next event of a trial in a process of its own, and `Ended`
    if none comes until a time on the monotonic clock. At the end the process is killed.

    It has a session of its own: a Ctrl-C is ours, and what it has started ends with it.
    """
    child = processes.start(COMMAND, has_session=True)

    def next_event(until: float) -> Event:
        if not child.pipe.poll(max(0.0, until - time.monotonic())):
            return Ended("it did not come to an end in its time")
        try:
            return cast("Event", child.pipe.recv())
        except (EOFError, OSError):
            return Ended(f"it {child.fate()}")

    try:
        with suppress(BrokenPipeError):  # dead already: the first event says so
            child.pipe.send(trial)
        yield next_event
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()
        child.close()
        engines.discard(child.process.pid)
