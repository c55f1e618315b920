"""Workers on devices of this machine: a process for each shard, with one CUDA context."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from vitcli.errors import DeviceError, Interrupted, OutputError
from vitcli.fleet.events import Ended, Event, Failed, Lost, Ready, SharedJob, do_shard
from vitcli.fleet.shards import CAN_RESUME
from vitcli.images.worker_process import warm_up
from vitcli.images.workers import default_workers
from vitcli.interrupts import interruptible
from vitcli.machine import available_cpus
from vitcli.processes import Child, command_of, end_with_parent, start
from vitcli.runs.shard import Shard

COMMAND = command_of("vitcli.fleet.devices:main")
CHUNK = 1 << 16  # bytes


def device_names(asked: Sequence[str]) -> list[str]:
    """Return the devices by their names for --device. `asked` is `all`, or has numbers of CUDA
    devices, or names."""
    if list(asked) != ["all"]:
        return [f"cuda:{name}" if name.isdecimal() else name for name in asked]
    import torch

    if not torch.cuda.is_available():
        raise DeviceError("--devices all: there is no CUDA device here", "name them: cpu,cpu")
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


@contextmanager
def processes(names: Sequence[str], job: SharedJob, stdin: Path | None) -> Iterator[_Processes]:
    """Yield the workers. If a signal interrupts this process, the workers get the same signal, and
    finish the batches in flight. After another error they get SIGTERM."""
    workers = _Processes(names, job, stdin)
    try:
        yield workers
    except BaseException as error:
        workers.end(error.signal_number if isinstance(error, Interrupted) else signal.SIGTERM)
        raise


@dataclass(slots=True)
class _Processes:
    """The workers: a process for each shard, on the device of its slot."""

    names: Sequence[str]
    job: SharedJob
    stdin: Path | None
    _ready: list[int] = field(default_factory=list)
    _running: dict[int, Child] = field(default_factory=dict)  # by slot

    @property
    def slots(self) -> int:
        return len(self.names)

    def count(self, earlier: Mapping[int, Path], outer: int) -> int:
        for number, path in earlier.items():
            if number != self.slots * outer:
                raise OutputError(
                    f"{path} is from a run with another number of devices",
                    "give the same number, or remove the file",
                )
        return self.slots

    def start(self, slot: int) -> None:
        self._ready.append(slot)

    def do(self, slot: int, shard: Shard, attempt: int) -> None:
        device, share = self.names[slot], max(1, available_cpus() // self.slots)
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # as in the `vit` process
        if device == "cpu":
            environment.setdefault("OMP_NUM_THREADS", str(share))  # read when torch is imported
        workers = self.job.running.workers
        workers = default_workers(device, self.slots) if workers is None else workers
        job = replace(self.job, running=replace(self.job.running, device=device, workers=workers))
        child = start(COMMAND, stdin=self.stdin, environment=environment)
        self._running[slot] = child
        with suppress(BrokenPipeError):  # the process is dead, as `poll` will find
            child.pipe.send((job, shard, attempt))

    def release(self, slot: int) -> None: ...

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        events: list[tuple[int, Event]] = [(slot, Ready()) for slot in self._ready]
        self._ready.clear()
        slots = {child.pipe: slot for slot, child in self._running.items()}
        for pipe in slots.keys() & set(wait([*slots], 0 if events else seconds)):
            slot = slots[pipe]
            try:
                event = pipe.recv()
            except (EOFError, OSError):
                event = self._death(slot)
            if isinstance(event, Ended | Failed | Lost):
                self._end(slot)
            events.append((slot, event))
        return events

    def end(self, number: int) -> None:
        """Send the processes this signal, and wait for them."""
        for child in self._running.values():
            child.process.send_signal(number)
        for slot in list(self._running):
            self._end(slot)

    def _death(self, slot: int) -> Lost | Failed:
        """Return the event for a process whose pipe closed before the last event: Failed if the
        process exited, since another attempt would exit in the same way, else Lost."""
        child = self._running[slot]
        why = f"the process on {self.names[slot]} has failed: it {child.fate()}"
        code = child.process.returncode
        child.process.kill()  # it may be alive, but has closed the pipe
        is_error = code is not None and code >= 0
        return Failed(OutputError(why, CAN_RESUME)) if is_error else Lost(why)

    def _end(self, slot: int) -> None:
        """Wait for a process. Discard its events meanwhile, since a full pipe would block it."""
        child = self._running.pop(slot)
        with suppress(OSError):
            while os.read(child.pipe.fileno(), CHUNK):
                continue
        child.process.wait()
        child.close()


def main(pipe: Connection) -> None:
    """Run one shard in this process: read the job from the pipe, and send events."""
    sending = threading.Lock()  # notes come from threads

    def send(event: Event) -> None:
        with sending, suppress(OSError):  # the parent is gone, and this process ends soon
            pipe.send(event)

    try:
        with interruptible():
            job, shard, attempt = pipe.recv()
            end_with_parent(pipe, lambda: os.kill(os.getpid(), signal.SIGTERM))
            if job.running.workers:
                warm_up(imports_torch=job.options.preprocess == "hf-fast")
            send(do_shard(job, shard, attempt, send))
    except Interrupted as interrupted:
        signal.signal(interrupted.signal_number, signal.SIG_DFL)
        os.kill(os.getpid(), interrupted.signal_number)
