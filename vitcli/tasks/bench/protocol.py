"""Start the trial of one candidate in its own process, and receive its events.

A separate process isolates the candidate's memory, engine, threads and crashes. It runs
`vitcli.tasks.bench.worker`.
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
from vitcli.jobs.job import ModelOptions, Note
from vitcli.records import Decode, Limits

COMMAND = processes.command_of("vitcli.tasks.bench.worker:main")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a model."""

    engine: EngineName
    dtype: DtypeName
    quantize: Quantize | None = None

    @property
    def is_exact(self) -> bool:
        return self.dtype == "fp32" and self.quantize is None

    @property
    def precision(self) -> str:
        """The precision of its matrix products."""
        return self.quantize or self.dtype

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
    """The task of one process: time the images of the file `images` in each of `batch_sizes`, or
    read `files` in each of `readings`. `deadline` is on the monotonic clock."""

    checkpoint: Checkpoint
    options: ModelOptions
    candidate: Candidate
    device: str
    images: Path
    batch_sizes: tuple[int, ...]
    deadline: float
    files: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Exporting:
    """The engine has no exported files yet and starts to write them."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The engine's files are written. `Ended` follows, and a new process measures them."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Timed:
    """The timing of a batch size: the median seconds of a batch, and the peak memory so far."""

    batch_size: int
    seconds: float
    peak: int
    device_peak: int | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """The rate of reading files in one way. `peak` includes the workers, None if unknown."""

    reading: Reading
    images_per_second: float
    peak: int | None


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs for some of the images: their numbers (n,) and values (n, D + K)."""

    images: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Skipped:
    """Measurements that the time did not allow."""

    what: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event; `why` is empty if all went well."""

    why: str = ""


Event: TypeAlias = Note | Exporting | Exported | Timed | Read | Outputs | Skipped | Ended


@contextmanager
def started(trial: Trial) -> Iterator[Callable[[float], Event]]:
    """Start a trial in its own process, and kill it at the end. Yield a function that returns the
    next event, or `Ended` if none arrives by the given time of the monotonic clock.

    The process has its own session: Ctrl-C does not reach it, and the processes it starts end with
    it.
    """
    child = processes.start(COMMAND, own_session=True)

    def next_event(until: float) -> Event:
        if not child.pipe.poll(max(0.0, until - time.monotonic())):
            return Ended("it did not finish in time")
        try:
            return cast("Event", child.pipe.recv())
        except (EOFError, OSError):
            return Ended(f"it {child.fate()}")

    try:
        with suppress(BrokenPipeError):  # it has ended: the first event reports that
            child.pipe.send(trial)
        yield next_event
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()
        child.close()
        engines.discard(child.process.pid)
