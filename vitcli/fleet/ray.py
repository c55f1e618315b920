"""`--ray`: the shards of a run on the workers of a Ray cluster, and joined at the end.

Each worker is an actor, which loads the model once and then does shard after shard, each by the
same task as on one machine, into a file system that all nodes see. There are several shards for
each worker, so that a slow one holds up nobody, and a worker asks for the next when it has done
one, so that nothing piles up. Whatever ends a worker, another goes on with its shard.

These are actors and not Ray Data: its unit of work is a block of rows that is computed again from
the beginning and comes back through the object store, while a shard goes on in its middle and stays
in its files; and its reading tasks and its own actors wait for processors that ours hold.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcli.engines import check_engine
from vitcli.errors import (
    DeviceError,
    Interrupted,
    OutputError,
    UsageError,
    VitError,
    check_installed,
)
from vitcli.fleet.actors import ProgressBoard, Worker, task_of
from vitcli.fleet.cluster import connected
from vitcli.fleet.shards import CAN_RESUME, Division, begun, divided, is_complete, total
from vitcli.images.path_list import copy_stdin
from vitcli.images.workers import MOST_WORKERS
from vitcli.jobs.job import NullReporter, Reporter, Summary
from vitcli.jobs.listing import list_inputs
from vitcli.records import Progress
from vitcli.runs.shard import Shard
from vitcli.stores import Url

if TYPE_CHECKING:
    from vitcli.fleet.actors import Job

SHARDS_EACH = 4  # for a worker: the last of them to end keeps the others waiting for a quarter
MOST_SHARDS = 99_999
TRIES = 3  # workers that one shard may take with it
TICK = 0.1  # seconds
ANSWERS_WITHIN = 10.0  # seconds
PATIENCE = 15.0  # seconds without any worker, before that is said


def on_ray(address: str, job: Job, watcher: Reporter | None = None) -> Summary:
    """Run the job on the cluster at `address`; `auto` is the one that is running here, or else the
    processors of this machine.

    Raises DeviceError where Ray or the cluster is not there, OutputError where a shard has taken
    several workers with it, and what the job raises.
    """
    watcher = watcher or NullReporter()
    assert not isinstance(job.out, Url)
    out = divided(job.out, job.resuming, "--ray", "worker")
    if getattr(job, "html", None) is not None:
        raise UsageError("a page is made of all images", "leave out --ray or --html")
    if is_complete(out, job.resuming, overwrite=job.overwrite):
        watcher.note(f"{out} is complete: what is new is done here alone")
        return task_of(job)(job, watcher, None)
    there = _count(out, job)
    stdin = _stdin() if job.inputs.has_stdin else None
    if stdin is None:
        check_engine(job.running.engine)
        watcher.listing(list_inputs(job.inputs, watcher.note).count)
    else:
        watcher.listing(lambda: None)
    with connected(address) as ray:
        needs = _needs(ray.cluster_resources(), job)
        outer = job.resuming.shard.count if job.resuming.shard else 1
        division = Division(
            out=out,
            asked=job.resuming,
            overwrite=job.overwrite,
            count=there or max(1, min(needs.slots * SHARDS_EACH, MOST_SHARDS // outer)),
        )
        return division.join(_Fleet(ray, needs, job, stdin, watcher).run(division.shards))


def check_ray(job: Job) -> None:
    """Raises DeviceError or UsageError for a job that is none for Ray."""
    check_installed("--ray", "ray", extra="ray")
    if job.running.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"Ray says which device is whose, not --device {job.running.device}")
    if isinstance(job.out, Url) and job.resuming.shard is not None:
        raise UsageError("--ray with --shard writes to files", "leave out --shard")


@dataclass(frozen=True, slots=True)
class _Needs:
    """How many workers fit the cluster, and what each of them takes."""

    slots: int
    gpus: int
    workers: int  # processes that decode


def _needs(resources: Mapping[str, float], job: Job) -> _Needs:
    """A worker for each GPU, or else for each processor."""
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    has_gpus = gpus > 0 and job.running.device != "cpu" and job.running.engine == "torch"
    if job.running.device == "cuda" and not has_gpus:
        raise DeviceError("the Ray cluster has no GPU", "leave out --device")
    slots = gpus if has_gpus else cpus
    if slots < 1:
        raise DeviceError("the Ray cluster has no processors", "see `ray status`")
    share = max(1, min(MOST_WORKERS, cpus // slots))
    workers = share if job.running.workers is None else job.running.workers
    return _Needs(slots, int(has_gpus), workers)


def _count(out: Path, job: Job) -> int | None:
    """As many shards as there are of an earlier run, which may have had another cluster.

    Raises OutputError where nothing is said of what shall become of them.
    """
    found = begun(out)
    if not found:
        return None
    asked = job.resuming
    if asked.shard is None and not (asked.resume or job.overwrite):
        raise OutputError(
            f"{found[0]} is of an earlier run", "--resume goes on with it, --overwrite starts again"
        )
    whole = int(found[0].name.removeprefix(".")[len(f"{out.stem}-00001-of-") :][:5])
    return max(1, whole // (asked.shard.count if asked.shard else 1))


class _Fleet:
    """All workers, from their start to their end."""

    def __init__(
        self, ray: Any, needs: _Needs, job: Job, stdin: bytes | None, watcher: Reporter
    ) -> None:
        self._ray, self._needs, self._job, self._watcher = ray, needs, job, watcher
        self._board = (
            ray.remote(ProgressBoard)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
            .remote()
        )
        self._looking = self._board.look.remote()
        workers, unlimited = replace(job.running, workers=needs.workers), type(job.inputs.tolerance)
        inputs = replace(job.inputs, tolerance=unlimited())  # it is for all shards together
        theirs = replace(job, running=workers, inputs=inputs)
        self._order = ray.put((theirs, str(Path.cwd()), stdin))
        self._doing: dict[Any, tuple[Any, Shard | None]] = {}  # by what is waited for
        self._tries: dict[Shard, int] = {}
        self._parts: dict[Shard, _Part] = {}
        self._lost_early = 0

    def run(self, shards: list[Shard]) -> Summary:
        """Have them all done. Raises what ends one of them."""
        started = last = time.monotonic()
        left = deque(shards)
        try:
            for _ in range(min(self._needs.slots, len(shards))):
                self._hire()
            while self._doing:
                ready, _ = self._ray.wait(list(self._doing), timeout=TICK)
                for reference in ready:
                    self._take(reference, left)
                    last = time.monotonic()
                self._look()
                is_idle = all(shard is None for _, shard in self._doing.values())
                if is_idle and time.monotonic() - last > PATIENCE:
                    self._watcher.note(self._what_is_waited_for())
            self._look(ANSWERS_WITHIN)
            self._job.inputs.tolerance.check(self._progress(), is_last=True)
        except Interrupted as interrupted:
            interrupted.after = f"{self._progress().seen:,} images"
            interrupted.can_resume = True
            raise
        finally:
            for worker, _ in self._doing.values():
                self._ray.kill(worker)
            self._ray.kill(self._board)
        return self._summary(time.monotonic() - started)

    def _hire(self) -> None:
        worker = (
            self._ray.remote(Worker)
            .options(num_cpus=1, num_gpus=self._needs.gpus)
            .remote(self._order, self._board)
        )
        self._doing[worker.load.remote()] = worker, None

    def _take(self, reference: Any, left: deque[Shard]) -> None:
        """A worker has loaded its model, done its shard, or is lost."""
        worker, shard = self._doing.pop(reference)
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            self._replace(shard, left, str(error))
            return
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None  # a mistake of ours
        if isinstance(answer, VitError):
            raise answer
        if shard is not None:
            part = self._part(shard)
            part.summary, part.progress = answer
        if left:
            following = left.popleft()
            self._tries[following] = self._tries.get(following, 0) + 1
            done = worker.do.remote(following, self._tries[following])
            self._doing[done] = worker, following
        else:
            self._ray.kill(worker)

    def _replace(self, shard: Shard | None, left: deque[Shard], why: str) -> None:
        if shard is None:
            self._lost_early += 1
            if "No module named 'vitcli'" in why:
                raise DeviceError(
                    "vitcli is not installed on the nodes of the Ray cluster",
                    "install the same version on each, with the same Python",
                )
            if self._lost_early > TRIES * self._needs.slots:
                raise DeviceError("workers of the Ray cluster die before they begin", CAN_RESUME)
        elif self._tries[shard] >= TRIES:
            raise OutputError(
                f"shard {shard} has taken {TRIES} workers of the Ray cluster with it",
                f"is there enough memory? {CAN_RESUME}",
            )
        else:
            self._watcher.note(f"a worker was lost; shard {shard} goes on in another")
            left.appendleft(shard)
        self._hire()

    def _what_is_waited_for(self) -> str:
        """Whoever has taken the processors, it is not a run that hangs."""
        wanted = "a processor" + (" and a GPU" if self._needs.gpus else "")
        there, free = self._ray.cluster_resources(), self._ray.available_resources()
        has = ", ".join(
            f"{free.get(name, 0):g} of {there[name]:g} {name}s free"
            for name in ("CPU", "GPU")
            if name in there
        )
        return f"waiting for {wanted} on the Ray cluster, which has {has or 'none'}"

    def _look(self, patience: float = 0.0) -> None:
        """See what the workers have told, and tell it."""
        if not self._ray.wait([self._looking], timeout=patience)[0]:
            return
        try:
            heard, notes = self._ray.get(self._looking)
        except self._ray.exceptions.RayActorError as error:
            raise DeviceError(
                "the Ray cluster cannot start a process for this run: "
                + " ".join(str(error).split("\n")[-1].split()),
                "if it was started without tokens, RAY_AUTH_MODE=disabled",
            ) from None
        self._looking = self._board.look.remote()
        for shard, progress in heard.items():
            part = self._part(shard)
            if part.earlier is None:
                part.earlier = progress.earlier
            if part.summary is None:
                part.progress = progress
        for text in notes:
            self._watcher.note(text)
        progress = self._progress()
        self._watcher.progress(progress)
        self._job.inputs.tolerance.check(progress)

    def _part(self, shard: Shard) -> _Part:
        return self._parts.setdefault(shard, _Part())

    def _progress(self) -> Progress:
        """The progress of all workers combined, with the first failure of each kind."""
        found = Progress()
        for part in self._parts.values():
            found.done += part.progress.done
            found.failed += part.progress.failed
            found.earlier += part.earlier or 0
            for times, example in part.progress.kinds.values():
                found.count(example, times)
        return found

    def _summary(self, seconds: float) -> Summary:
        found = [part.summary for part in self._parts.values() if part.summary is not None]
        return replace(total(found, seconds), earlier=self._progress().earlier)


@dataclass(slots=True)
class _Part:
    """What is known of a shard; `earlier` is what there was before this run."""

    progress: Progress = field(default_factory=Progress)
    earlier: int | None = None
    summary: Summary | None = None


def _stdin() -> bytes:
    """For the workers, each of which reads the list."""
    copy = io.BytesIO()
    copy_stdin(copy)
    return copy.getvalue()
