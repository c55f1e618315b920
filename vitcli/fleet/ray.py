"""A Ray cluster: each worker is an actor, which loads the model once.

There are several shards for each worker, so that the wait for the last one is short. All nodes
share one file system.

Ray Data does not fit. Its unit of work is a block of rows, which is computed again from its
beginning after a failure, and returns through the object store. A shard is resumed where it
stopped, and stays in its files. The reading tasks and actors of Ray Data would also wait for the
processors that the workers here occupy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitcli.errors import DeviceError, UsageError, check_installed
from vitcli.fleet.actors import Board, Worker
from vitcli.fleet.cluster import connected
from vitcli.fleet.coordinate import TICK, TRIES
from vitcli.fleet.events import Event, Failed, Lost, Message, SharedJob
from vitcli.fleet.shards import CAN_RESUME
from vitcli.images.workers import MOST_WORKERS
from vitcli.jobs.job import Note
from vitcli.runs.shard import Shard
from vitcli.stores import Url

SHARDS_EACH = 4  # per worker: at the end, the others wait for a quarter of its work at most
MOST_SHARDS = 99_999
SECONDS_TO_ANSWER = 10.0
SECONDS_TO_DIE = 1.0
SECONDS_TO_START = 15.0  # before a note says why there is no worker


def check_ray(job: SharedJob) -> None:
    """Raise VitError for a job that cannot run on Ray."""
    check_installed("--ray", "ray", extra="ray")
    if job.running.device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {job.running.device} cannot be chosen: Ray assigns the devices",
            "leave out --device",
        )
    if isinstance(job.out, Url) and job.resuming.shard is not None:
        raise UsageError("--ray with --shard writes files, not to a store", "leave out --shard")


@contextmanager
def actors(address: str, job: SharedJob, stdin: Path | None) -> Iterator[_Actors]:
    """Yield the workers on the cluster at an address: one for each GPU, or for each processor."""
    with connected(address) as ray:
        workers = _Actors(ray, job, None if stdin is None else stdin.read_bytes())
        try:
            yield workers
        finally:
            workers.end()


class _Actors:
    """The workers, each with a GPU or else a processor, and the board with their messages."""

    def __init__(self, ray: Any, job: SharedJob, stdin: bytes | None) -> None:
        self._ray, running, total = ray, job.running, ray.cluster_resources()
        cpus, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
        self._has_gpu = gpus > 0 and running.device != "cpu" and running.engine == "torch"
        if running.device == "cuda" and not self._has_gpu:
            raise DeviceError("the Ray cluster has no GPU", "leave out --device")
        self.slots = gpus if self._has_gpu else cpus
        if self.slots < 1:
            raise DeviceError("the Ray cluster has no processors", "see `ray status`")
        if running.workers is None:
            share = max(1, cpus // self.slots)
            share = share if self._has_gpu else min(MOST_WORKERS, share)
            job = replace(job, running=replace(running, workers=share))
        self._order = ray.put((job, str(Path.cwd()), stdin))
        self._board = (
            ray.remote(Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        )
        self._reading = self._board.read.remote()
        self._workers: dict[int, Any] = {}  # by slot
        self._doing: dict[Any, int] = {}  # the slot, by the call that is awaited
        self._starting: set[Any] = set()
        self._lost_early = 0
        self._last_answer = time.monotonic()
        # If processors are free, a late worker is only slow to start, as on a busy machine.
        self._patience = SECONDS_TO_START * (4 if self._has_room() else 1)

    def count(self, earlier: Mapping[int, Path], outer: int) -> int:
        for number in earlier:  # the same number as before, even if the cluster has changed
            return max(1, number // outer)
        return max(1, min(self.slots * SHARDS_EACH, MOST_SHARDS // outer))

    def start(self, slot: int) -> None:
        worker = (
            self._ray.remote(Worker)
            .options(num_cpus=1, num_gpus=int(self._has_gpu))
            .remote(self._order, self._board)
        )
        self._workers[slot] = worker
        starting = worker.load.remote()
        self._doing[starting] = slot
        self._starting.add(starting)

    def do(self, slot: int, shard: Shard, attempt: int) -> None:
        self._doing[self._workers[slot].do.remote(shard, attempt)] = slot

    def release(self, slot: int) -> None:
        self._ray.kill(self._workers.pop(slot))

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        ready, _ = self._ray.wait(list(self._doing), timeout=seconds)
        answers = [(self._doing.pop(reference), self._answer(reference)) for reference in ready]
        messages, now = self._read(0.0), time.monotonic()
        if answers:
            self._last_answer = now
            messages += self._read(SECONDS_TO_ANSWER)  # sent before these answers
        elif now - self._last_answer > self._patience and self._starting.issuperset(self._doing):
            messages.append(Note(self._describe_wait()))
        return [*((0, event) for event in messages), *answers]

    def end(self) -> None:
        """Kill the actors. First wait for the last answer of the board, since Ray prints an error
        for a call of a dead actor."""
        for worker in self._workers.values():
            self._ray.kill(worker)
        self._ray.wait([self._reading], timeout=SECONDS_TO_DIE)
        self._ray.kill(self._board)

    def _answer(self, reference: Any) -> Event:
        """Return the event that a call of a worker returned, or Lost if the worker died."""
        is_early = reference in self._starting
        self._starting.discard(reference)
        try:
            return self._ray.get(reference)  # type: ignore[no-any-return]
        except self._ray.exceptions.RayActorError as error:
            if "No module named 'vitcli'" in str(error):
                return Failed(
                    DeviceError(
                        "vitcli is not installed on the nodes of the Ray cluster",
                        "install the same version on each, with the same Python",
                    )
                )
            self._lost_early += is_early
            if self._lost_early > TRIES * self.slots:
                why = "workers of the Ray cluster die before they begin"
                return Failed(DeviceError(why, CAN_RESUME))
            return Lost("a worker of the Ray cluster was lost")
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None  # a bug in vitcli

    def _read(self, seconds: float) -> list[Message]:
        """Return the new messages on the board."""
        if not self._ray.wait([self._reading], timeout=seconds)[0]:
            return []
        try:
            messages: list[Message] = self._ray.get(self._reading)
        except self._ray.exceptions.RayActorError as error:
            raise DeviceError(
                "the Ray cluster cannot start a process for this run: "
                + " ".join(str(error).split("\n")[-1].split()),
                "if it was started without tokens, set RAY_AUTH_MODE=disabled",
            ) from None
        self._reading = self._board.read.remote()
        return messages

    def _has_room(self) -> bool:
        """Whether the cluster has room for a worker. The resources of an earlier run may take a
        moment to become free."""
        needed = ("CPU", "GPU") if self._has_gpu else ("CPU",)
        end = time.monotonic() + SECONDS_TO_START / 10
        while True:
            free = self._ray.available_resources()
            if all(free.get(name, 0) >= 1 for name in needed):
                return True
            if time.monotonic() > end:
                return False
            time.sleep(TICK)

    def _describe_wait(self) -> str:
        """Describe the resources that the workers wait for: the run must not seem to hang."""
        wanted = "a processor" + (" and a GPU" if self._has_gpu else "")
        total, free = self._ray.cluster_resources(), self._ray.available_resources()
        has = ", ".join(
            f"{free.get(name, 0):g} of {total[name]:g} {name}s free"
            for name in ("CPU", "GPU")
            if name in total
        )
        return f"waiting for {wanted} on the Ray cluster, which has {has or 'none'}"
