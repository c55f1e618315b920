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
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

from vitcli.errors import DeviceError, Interrupted, OutputError, UsageError, VitError
from vitcli.images.workers import MOST_WORKERS
from vitcli.records import Progress
from vitcli.runs.asked import Shard
from vitcli.sinks.files import PARTIAL
from vitcli.tasks.job import Nobody, Summary, Watcher
from vitcli.tasks.run import Run
from vitcli.tasks.shards import CAN_RESUME, Division, begun, divided, is_complete, total
from vitcli.tasks.staging import staged

if TYPE_CHECKING:
    from vitcli.tasks.classify import ClassifyJob
    from vitcli.tasks.embed import EmbedJob

    Job = ClassifyJob | EmbedJob

SHARDS_EACH = 4  # for a worker: the last of them to end keeps the others waiting for a quarter
MOST_SHARDS = 99_999
TRIES = 3  # workers that one shard may take with it
TICK = 0.1  # seconds
ANSWERS_WITHIN = 10.0  # seconds
TELL_EVERY = 0.5  # seconds
REACHED_WITHIN = 10.0  # seconds
TRIES_TO_REACH = "8"  # of a second each, by Ray
PATIENCE = 15.0  # seconds without any worker, before that is said
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing goes over the network but the work
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning
}


def on_ray(address: str, job: Job, watcher: Watcher | None = None) -> Summary:
    """Run the job on the cluster at `address`; `auto` is the one that is running here, or else the
    processors of this machine.

    Raises DeviceError where Ray or the cluster is not there, OutputError where a shard has taken
    several workers with it, and what the job raises.
    """
    watcher = watcher or Nobody()
    if find_spec("ray") is None:
        raise DeviceError("--ray needs ray: pip install 'vitcli[ray]'")
    if job.running.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"Ray says which device is whose, not --device {job.running.device}")
    if isinstance(job.out, str):
        if job.resuming.shard is not None:
            raise UsageError("--ray with --shard writes to files", "leave out --shard")
        asked, overwrite = job.resuming, job.overwrite
        with staged(job.out, (), asked, overwrite=overwrite, note=watcher.note) as file:
            return on_ray(address, replace(job, out=file), watcher)
    out = divided(job.out, job.resuming, "--ray", "worker")
    if getattr(job, "html", None) is not None:
        raise UsageError("a page is made of all images", "leave out --ray or --html")
    if is_complete(out, job.resuming, overwrite=job.overwrite):
        watcher.note(f"{out} is complete: what is new is done here alone")
        return task_of(job)(job, watcher)
    there = _count(out, job)
    stdin = _stdin() if "-" in (*job.inputs.paths, job.inputs.files_from) else None
    if stdin is None:
        run = Run(job.inputs, job.running, watcher)
        run.list_inputs()
        watcher.listing(run.count)
    else:
        watcher.listing(lambda: None)
    with _cluster(address) as ray:
        needs = _needs(ray.cluster_resources(), job)
        outer = job.resuming.shard.count if job.resuming.shard else 1
        division = Division(
            out=out,
            asked=job.resuming,
            overwrite=job.overwrite,
            count=there or max(1, min(needs.slots * SHARDS_EACH, MOST_SHARDS // outer)),
        )
        return division.join(_Fleet(ray, needs, job, stdin, watcher).run(division.shards))


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


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected and silent. A cluster that was started for us ends with us."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if address not in ("auto", "local"):  # one that is started for us may take longer
        _reach(address)
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", TRIES_TO_REACH)
    import ray

    if ray.is_initialized():
        with _unprinted():
            yield ray
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            _connect(ray, address)
        except _TokenWanted:
            _take_token(ray)
            _connect(ray, address)
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise _unreachable(address, " ".join(str(error).split())) from None
    finally:
        with suppress(ValueError):  # not in the main thread
            for number, handler in before.items():
                signal.signal(number, handler)
    try:
        with _unprinted():
            yield ray
    finally:
        ray.shutdown()


class _TokenWanted(OSError):
    """The cluster wants to be shown a token, and has not been."""


def _connect(ray: Any, address: str) -> None:
    with _muted() as said:
        try:
            ray.init(
                address=None if address == "auto" else address,
                include_dashboard=None if address != "auto" else False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        except OSError as error:
            said.seek(0)
            if b"Unauthenticated" in said.read():
                raise _TokenWanted("it takes no one without its token") from error
            raise


def _take_token(ray: Any) -> None:
    """`ray start` asks for a token as soon as there is one on its machine. Who connects to an
    address shows his only where RAY_AUTH_MODE says so, which Ray reads once."""
    if "RAY_AUTH_MODE" in os.environ:
        raise _TokenWanted("it does not know the token of this process")
    os.environ["RAY_AUTH_MODE"] = "token"
    ray._raylet.Config.initialize("")


def _reach(address: str) -> None:
    """Raises DeviceError where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACHED_WITHIN).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, getattr(error, "strerror", "") or str(error)) from None


def _unreachable(address: str, why: str) -> DeviceError:
    return DeviceError(
        f"no Ray cluster at {address}: {why}",
        "`ray start --head` starts one; the token of one that wants it is taken from"
        " RAY_AUTH_TOKEN or ~/.ray/auth_token",
    )


@contextmanager
def _muted() -> Iterator[IO[bytes]]:
    """What Ray's library in C++ writes to descriptor 2 while it connects."""
    sys.stderr.flush()
    saved = os.dup(2)
    with TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextmanager
def _unprinted() -> Iterator[None]:
    """Ray prints to standard output what it thinks of a worker that is lost."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


class _Fleet:
    """All workers, from their start to their end."""

    def __init__(
        self, ray: Any, needs: _Needs, job: Job, stdin: bytes | None, watcher: Watcher
    ) -> None:
        self._ray, self._needs, self._job, self._watcher = ray, needs, job, watcher
        self._board = (
            ray.remote(_Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
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
            self._ray.remote(_Worker)
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
        """Of all together, with the first failure of each kind."""
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


class _Board:
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


class _Worker:
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
            return task_of(job)(job, teller), teller.latest
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


def task_of(job: Job) -> Callable[[Any, Watcher | None], Summary]:
    """What runs such a job."""
    from vitcli.tasks.classify import ClassifyJob, classify
    from vitcli.tasks.embed import embed

    return classify if isinstance(job, ClassifyJob) else embed


def _loaded(job: Job, note: Callable[[str], None]) -> Job:
    """The job with its models in memory, so that every shard finds them there."""
    from vitcli.tasks.classify import ClassifyJob
    from vitcli.tasks.run import load_model

    def loaded(model: Any) -> Any:
        return load_model(model, job.options, note) if isinstance(model, str) else model

    if isinstance(job, ClassifyJob):
        return replace(job, models=tuple(map(loaded, job.models)))
    return replace(job, model=loaded(job.model))


def _stdin() -> bytes:
    """A list that comes through a pipe can be read once, and each worker reads it."""
    if sys.stdin is None:
        return b""
    with open(0, "rb", closefd=False) as stdin:
        return stdin.read()
