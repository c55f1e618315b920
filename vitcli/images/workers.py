"""Decode image refs into samples, in order, in worker processes that may crash.

If a worker of torch's DataLoader dies, the run ends without naming the file: a crash of one decoder
or the out-of-memory killer is enough. Here a thread sends a worker one image at a time, so it knows
which image crashed it. That image is retried once, in a new process; after a second crash, or a
time-out, its row is a Failure. The workers import only Pillow and numpy, so they start in a tenth
of a second and take tens of megabytes.
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
from vitcli.machine import available_cpus
from vitcli.processes import fate
from vitcli.records import ErrorType, Failure, ImageRef, Sample

MOST_WORKERS = 8
MAX_STARTS = 3  # failed starts of a worker before the run ends
MAX_CRASHES = 2  # for one image
MAX_HELD_BYTES = 256 << 20  # of image data in the refs that wait for results
START_SECONDS = 60.0
EXIT_SECONDS = 5.0
POLL_SECONDS = 0.25
MAX_POLL_SECONDS = 0.5  # counted for one poll: a suspended machine must not cause time-outs
IN_PROCESS = (
    "images are decoded in this process, without a time limit: a daemonic process (of a Pool, of "
    "Celery) cannot start others"
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
    """Return one result for each ref, in order; about `ahead()` refs are decoded in advance.

    `workers` is as for WorkerPool. Without `keeps_data`, the refs of the results do not carry image
    data. `note` is also called from other threads, when a worker is replaced.
    """

    def finished(result: Decoded) -> Decoded:
        if not keeps_data and result.ref.held:
            result = replace(result, ref=result.ref.released())
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
            size = ref.held
            pending.append((pool.submit(ref), size))
            held += size
            del ref  # its image data may be large
            most = max(ahead(), 2 * pool.size)
            while pending and (len(pending) >= most or held > MAX_HELD_BYTES):
                first, size = pending.popleft()
                held -= size
                yield finished(first.result())
                del first
        while pending:
            yield finished(pending.popleft()[0].result())


class WorkerPool:
    """A pool of `size` worker processes for a job: a context manager that any thread may use.

    `workers=None` starts one for each processor, at most MOST_WORKERS. With `workers=0` the job
    runs in this process, without protection from crashes and without time-outs.
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
        """Run the job for each task, call `then(index of the task, its result)` as soon as the
        result arrives, and return the values of `then` in the order of the tasks."""

        def done(number: int) -> Result:
            run = self._processes.run if self.size else self._job
            return then(number, run(*tasks[number]))

        numbers = range(len(tasks))
        return list(self._threads.map(done, numbers) if self.size else map(done, numbers))


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    """A worker process and the pool's end of its pipe."""

    process: BaseProcess
    pipe: Connection


class _Processes:
    """The processes of a pool. Each call of `run` takes an idle process, or starts one."""

    def __init__(self, job: ImageJob, note: Callable[[str], None]) -> None:
        self._job = job
        self._note = note
        self._alive: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._stopped = threading.Event()
        # At exit multiprocessing sends its children SIGTERM, which the workers may block.
        atexit.register(self.stop)

    def run(self, ref: ImageRef, *more: Any) -> Decoded:
        """Run the job for an image in a worker. After a crash, try once more in a new worker."""
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
                # A signal to the process group ends the workers, and soon afterwards the run.
                if self._stopped.wait(POLL_SECONDS):
                    raise CancelledError from None
            else:
                self._idle.append(worker)
                return result
        message = f"its decoder {cause}, {MAX_CRASHES} times"
        return Failure(ref, ErrorType.WORKER_CRASH, message)

    def stop(self) -> None:
        """Kill the workers, and start no new ones. Threads that wait for a worker wake up."""
        with worker_process.lock:
            self._stopped.set()
            for worker in self._alive:
                worker.process.kill()

    def close(self) -> None:
        """End the remaining workers. No thread may be in `run`."""
        for worker in list(self._alive):
            self._end(worker)
        atexit.unregister(self.stop)

    def _take(self) -> _Worker:
        """Return an idle worker, or start one and wait until it is ready."""
        with suppress(IndexError):
            return self._idle.pop()
        for _ in range(MAX_STARTS):
            try:
                worker = self._start()
            except (EOFError, OSError) as error:  # out of processes or descriptors
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
        """Kill a worker if it does not exit within `seconds`, and describe how it ended."""
        with worker_process.lock:
            worker.process.join(seconds)
            worker.process.kill()
            worker.process.join(EXIT_SECONDS)
            cause = fate(worker.process.exitcode)
            worker.pipe.close()
            with suppress(ValueError):  # the process has survived SIGKILL
                worker.process.close()
            self._alive.discard(worker)
        return cause


def _answers(pipe: Connection, seconds: float) -> bool:
    """Whether an answer comes in time. The time while this process is suspended does not count."""
    while seconds > 0:
        before = time.monotonic()
        if pipe.poll(min(POLL_SECONDS, seconds)):
            return True
        seconds -= min(time.monotonic() - before, MAX_POLL_SECONDS)
    return False
