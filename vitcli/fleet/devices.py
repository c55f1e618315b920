"""The devices of this machine: each shard in an interpreter of its own, with one CUDA context."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO

from vitcli.errors import DeviceError, Interrupted, OutputError
from vitcli.fleet.events import Answer, Ended, Failed, Job, Lost, Ready, Told, do_shard
from vitcli.fleet.shards import CAN_RESUME, shards_of
from vitcli.images.worker_process import warm_up
from vitcli.images.workers import MOST_WORKERS
from vitcli.interrupts import interruptible
from vitcli.processes import Child, available_cpus, command_of, end_with_parent, fate, start
from vitcli.runs.shard import Shard

COMMAND = command_of("vitcli.fleet.devices:main")
SECONDS_TO_DIE = 5.0
TICK = 0.05  # seconds
CHUNK = 1 << 16  # bytes


@dataclass(frozen=True, slots=True)
class Devices:
    """One worker for each device."""

    names: Sequence[str]
    option = "--devices"
    unit = "device"

    def check(self, job: Job) -> None: ...

    def staged_shards(self, job: Job) -> list[Shard]:
        return shards_of(job.resuming.shard, len(self.names)) if job.resuming.shard else []

    def alone(self, job: Job) -> Job:
        return replace(job, running=replace(job.running, device=self.names[0]))

    @contextmanager
    def open(self, job: Job, stdin: Path | None) -> Iterator[_Processes]:
        """Yield the workers. A signal that interrupts this process is theirs too; they finish what
        is in flight."""
        workers = _Processes(job, self.names, stdin)
        try:
            yield workers
        except BaseException as error:
            number = error.signal_number if isinstance(error, Interrupted) else signal.SIGTERM
            workers.end(number)
            raise
        workers.end()


def device_names(asked: Sequence[str]) -> list[str]:
    """Return the names as --device has them: of `all`, of CUDA's numbers, of names."""
    if list(asked) != ["all"]:
        return [f"cuda:{name}" if name.isdecimal() else name for name in asked]
    import torch

    if not torch.cuda.is_available():
        raise DeviceError("--devices all: there is no CUDA device here", "name them: cpu,cpu")
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


@dataclass(slots=True)
class _Process:
    """A process, its device, and the last line on its stderr: words of a library."""

    child: Child
    device: str
    words: str = ""

    @property
    def stderr(self) -> int:
        assert self.child.process.stderr is not None
        return self.child.process.stderr.fileno()

    def read_words(self) -> bool:
        """Read what is on stderr; return whether there was something."""
        with suppress(BlockingIOError):
            if data := os.read(self.stderr, CHUNK):
                lines = data.decode("utf-8", "replace").strip().splitlines()
                self.words = lines[-1].strip() if lines else self.words
                return True
        return False

    def why(self) -> Lost | Failed:
        """Return how it died, without an answer: killed by a signal, or with an error of ours."""
        process = self.child.process
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_DIE)
        while self.read_words():
            pass
        words = f" ({self.words})" if self.words else ""
        why = f"the process on {self.device} has failed: it {fate(process.returncode)}{words}"
        if process.returncode is not None and process.returncode >= 0:
            return Failed(OutputError(why, CAN_RESUME))
        return Lost(why)


@dataclass(slots=True)
class _Processes:
    """The workers: a process for each shard, with the device of its slot."""

    job: Job
    names: Sequence[str]
    stdin: Path | None
    _ready: list[int] = field(default_factory=list)
    _running: dict[int, _Process] = field(default_factory=dict)  # by slot

    @property
    def slots(self) -> int:
        return len(self.names)

    def count(self, earlier: Mapping[int, Path], outer: int) -> int:
        if other := [path for whole, path in earlier.items() if whole != self.slots * outer]:
            raise OutputError(
                f"{other[0]} is of a run with another number of devices",
                "give as many as then, or remove it",
            )
        return self.slots

    def start(self, slot: int) -> None:
        self._ready.append(slot)

    def do(self, slot: int, shard: Shard, attempt: int) -> None:
        device, share = self.names[slot], max(1, available_cpus() // self.slots)
        environment = {**os.environ}
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the `vit` process
        if device == "cpu":
            environment.setdefault("OMP_NUM_THREADS", str(share))  # read when torch is imported
        workers = self.job.running.workers
        workers = min(MOST_WORKERS, share) if workers is None else workers
        job = replace(self.job, running=replace(self.job.running, device=device, workers=workers))
        with ExitStack() as opened:
            stdin: int | IO[bytes] = subprocess.DEVNULL
            if self.stdin is not None:
                stdin = opened.enter_context(self.stdin.open("rb"))
            child = start(COMMAND, stdin=stdin, stderr=subprocess.PIPE, environment=environment)
        process = self._running[slot] = _Process(child, device)
        os.set_blocking(process.stderr, False)
        with suppress(BrokenPipeError):  # dead already: `poll` finds it
            child.pipe.send((job, shard, attempt))

    def release(self, slot: int) -> None: ...

    def poll(self, seconds: float) -> tuple[list[Told], list[tuple[int, Answer]]]:
        told: list[Told] = []
        answers: list[tuple[int, Answer]] = [(slot, Ready()) for slot in self._ready]
        self._ready.clear()
        ends = [(process.child.pipe, process.stderr) for process in self._running.values()]
        there = wait(list(chain.from_iterable(ends)), 0 if answers else seconds)
        for slot, process in list(self._running.items()):
            if process.stderr in there:
                process.read_words()
            if process.child.pipe in there:
                try:
                    event = process.child.pipe.recv()
                except (EOFError, OSError):
                    event = process.why()
                if isinstance(event, Ended | Failed | Lost):
                    answers.append((slot, event))
                    self._end(slot)
                else:
                    told.append(event)
        return told, answers

    def flush(self) -> list[Told]:
        return []

    def end(self, number: int | None = None) -> None:
        """Wait for the processes to end, which they do soon after this signal."""
        for process in self._running.values():
            if number is not None and process.child.process.poll() is None:
                process.child.process.send_signal(number)
        for slot in list(self._running):
            self._end(slot)

    def _end(self, slot: int) -> None:
        """Wait for a process. What it still says is nobody's any more, but it must not wait."""
        process = self._running.pop(slot)
        child, ends = process.child, {process.child.pipe.fileno(), process.stderr}
        while child.process.poll() is None:
            for end in ends & set(wait([*ends], TICK)):
                with suppress(OSError):
                    if not os.read(end, CHUNK):
                        ends.remove(end)
        child.pipe.close()
        if child.process.stderr is not None:
            child.process.stderr.close()


def main(pipe: Connection) -> None:
    """Do one shard, in a process of its own: the job in, events out."""
    sending = threading.Lock()  # notes come from threads

    def send(event: Told | Answer) -> None:
        with sending, suppress(OSError):  # the parent is gone, and we end soon
            pipe.send(event)

    try:
        with interruptible():
            job, shard, attempt = pipe.recv()
            end_with_parent(pipe, lambda: os.kill(os.getpid(), signal.SIGTERM))
            if job.running.workers:
                warm_up()
            send(do_shard(job, shard, attempt, send))
    except Interrupted as interrupted:
        signal.signal(interrupted.signal_number, signal.SIG_DFL)
        os.kill(os.getpid(), interrupted.signal_number)
