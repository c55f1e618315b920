"""Image refs into decoded samples, in order, by processes that may die.

If a worker of torch's DataLoader dies, the run ends and no file is named: one file that crashes its
decoder is enough, or one visit of the out-of-memory killer. Here a thread gives a worker process
one image at a time, so it is clear which image did it. After a crash the image is tried once more,
in a new process; a second crash, or a time-out, costs that image its row and no other. The workers
import Pillow and numpy only, so they start in a tenth of a second and take tens of megabytes.
"""

from __future__ import annotations

import atexit
import multiprocessing
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from vitcli.errors import VitError
from vitcli.images import worker_process
from vitcli.images.job import Decoded, ImageJob, receive
from vitcli.processes import available_cpus, fate
from vitcli.records import ErrorType, Failure, ImageRef, Sample

MOST_WORKERS = 8
MAX_STARTS = 3  # of a worker that does not get ready
MAX_CRASHES = 2  # for one image
MAX_HELD_BYTES = 256 << 20  # of images that travel with their refs
START_SECONDS = 60.0
EXIT_SECONDS = 5.0
POLL_SECONDS = 0.25
MAX_POLL_SECONDS = 0.5  # a machine that sleeps must not cause time-outs
IN_PROCESS = (
    "images are decoded in this process, without a time limit: a daemonic process (of a Pool, of "
    "Celery) may start no others"
)

Result = TypeVar("Result")


def iter_decoded(
    refs: Iterable[ImageRef],
    job: ImageJob,
    workers: int | None,
    ahead: Callable[[], int] = lambda: 64,
    note: Callable[[str], None] = lambda text: None,
    *,
    keeps_data: bool = True,
) -> Generator[Decoded, None, None]:
    """Return one result for each ref, in order; about `ahead()` refs are read in advance.

    `workers` is as for WorkerPool. Without `keeps_data`, results do not hold the bytes that
    travelled with their refs. `note` is called from other threads, when a worker was replaced.
    """

    def finished(result: Decoded) -> Decoded:
        if not keeps_data and _held(result.ref):
            member = result.ref.member and result.ref.member.released()
            result = replace(result, ref=replace(result.ref, member=member))
        if isinstance(result, Sample) and result.note:
            note(result.note)
        return result

    with WorkerPool(job, workers, note) as pool:
        if not pool.size:
            yield from (finished(job(ref)) for ref in refs)
            return
        pending: deque[tuple[Future[Decoded], int]] = deque()
        held = 0
        for ref in refs:
            size = _held(ref)
            pending.append((pool.submit(ref), size))
            held += size
            del ref  # it may be large
            most = max(ahead(), 2 * pool.size)
            while pending and (len(pending) >= most or held > MAX_HELD_BYTES):
                first, size = pending.popleft()
                held -= size
                yield finished(first.result())
                del first
        while pending:
            yield finished(pending.popleft()[0].result())


def _held(ref: ImageRef) -> int:
    """Return how many bytes of an image travel with its ref."""
    return 0 if ref.member is None else ref.member.held


class WorkerPool:
    """`size` worker processes for a job: a context, within which any thread may use them.

    `workers=None` takes one for each processor, at most MOST_WORKERS. With `workers=0` the job runs
    in this process, without protection from crashes and without time-outs.
    """

    def __init__(
        self, job: ImageJob, workers: int | None, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.size = min(MOST_WORKERS, available_cpus()) if workers is None else workers
        if self.size and multiprocessing.current_process().daemon:
            warnings.warn(IN_PROCESS, RuntimeWarning, stacklevel=2)
            self.size = 0
        self._job = job
        self._processes = _Processes(job, note)
        self._threads = ThreadPoolExecutor(max(1, self.size), "decode")

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self._processes.stop()
        self._threads.shutdown(cancel_futures=True)
        self._processes.close()

    def submit(self, ref: ImageRef) -> Future[Decoded]:
        """Start the job for an image in a worker."""
        return self._threads.submit(self._processes.run, ref)

    def each(
        self, tasks: Sequence[tuple[ImageRef, Any]], then: Callable[[int, Decoded], Result]
    ) -> list[Result]:
        """Run the job for each task, and return `then(index of the task, its result)` of each, in
        order; `then` is called as soon as the result is there."""

        def done(number: int) -> Result:
            run = self._processes.run if self.size else self._job
            return then(number, run(*tasks[number]))

        numbers = range(len(tasks))
        return list(self._threads.map(done, numbers) if self.size else map(done, numbers))


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    """One process and our end of its pipe."""

    process: BaseProcess
    pipe: Connection


class _Processes:
    """The processes of a pool. A thread that calls `run` takes an idle one, or starts one."""

    def __init__(self, job: ImageJob, note: Callable[[str], None]) -> None:
        self._job = job
        self._note = note
        self._alive: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._stopped = threading.Event()
        # At exit multiprocessing terminates its children, but ours may ignore the signal.
        atexit.register(self.stop)

    def run(self, ref: ImageRef, *more: Any) -> Decoded:
        """Run the job for an image in a worker, twice if it crashes."""
        cause = ""
        for crashes in range(MAX_CRASHES):
            if crashes:
                self._note(f"an image worker {cause}; restarted")
            worker = self._take()
            try:
                worker.pipe.send((ref, *more))
                if not _answers(worker.pipe, self._job.limits.timeout):
                    self._end(worker)
                    limit = f"{self._job.limits.timeout:g} s"
                    message = f"decoding took longer than {limit} (--image-timeout)"
                    return Failure(ref, ErrorType.TIMEOUT, message)
                result = receive(worker.pipe, ref)
            except (EOFError, OSError):
                cause = self._end(worker, EXIT_SECONDS)
                # A signal to the whole process group ends the workers, and then the run.
                if self._stopped.wait(POLL_SECONDS):
                    raise CancelledError from None
            else:
                self._idle.append(worker)
                return result
        message = f"its decoder {cause}, {MAX_CRASHES} times"
        return Failure(ref, ErrorType.WORKER_CRASH, message)

    def stop(self) -> None:
        """Kill the workers, which wakes the threads that wait for them, and start no more."""
        with worker_process.lock:
            self._stopped.set()
            for worker in self._alive:
                worker.process.kill()

    def close(self) -> None:
        """Release what is left, when no thread is in `run`."""
        for worker in list(self._alive):
            self._end(worker)
        atexit.unregister(self.stop)

    def _take(self) -> _Worker:
        """Return an idle worker, or a new one that has said that it is ready."""
        with suppress(IndexError):
            return self._idle.pop()
        for _ in range(MAX_STARTS):
            try:
                worker = self._start()
            except (EOFError, OSError) as error:  # no more processes or descriptors for us
                cause = f"gave up: {getattr(error, 'strerror', None) or 'they cannot be forked'}"
                continue
            with suppress(EOFError, OSError):
                if _answers(worker.pipe, START_SECONDS) and worker.pipe.recv():
                    return worker
            cause = self._end(worker, EXIT_SECONDS)
        raise VitError(
            f"the image workers cannot start ({cause})",
            "try -j 0, which decodes in the main process",
        )

    def _start(self) -> _Worker:
        with worker_process.lock:
            if self._stopped.is_set():
                raise CancelledError
            worker = _Worker(*worker_process.start_worker(self._job))
            self._alive.add(worker)
        return worker

    def _end(self, worker: _Worker, seconds: float = 0.0) -> str:
        """End a worker, which has some seconds to exit by itself, and return its fate."""
        with worker_process.lock:
            worker.process.join(seconds)
            worker.process.kill()
            worker.process.join(EXIT_SECONDS)
            cause = fate(worker.process.exitcode)
            worker.pipe.close()
            with suppress(ValueError):  # not even SIGKILL has ended it
                worker.process.close()
            self._alive.discard(worker)
        return cause


def _answers(pipe: Connection, seconds: float) -> bool:
    """Whether an answer comes in time, not counting the time in which this process was stopped."""
    while seconds > 0:
        before = time.monotonic()
        if pipe.poll(min(POLL_SECONDS, seconds)):
            return True
        seconds -= min(time.monotonic() - before, MAX_POLL_SECONDS)
    return False
