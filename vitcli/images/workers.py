"""Decode image refs into samples, in order, in worker processes that may crash.

If a worker of torch's DataLoader dies, the run ends without naming the file: a crash of one decoder
or the out-of-memory killer is enough. Here a dispatcher knows which image crashed its worker. The
workers import only Pillow and numpy, so they start in a tenth of a second and take tens of
megabytes.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from vitcli.images.job import Decoded, ImageJob
from vitcli.images.pool.dispatcher import Dispatcher
from vitcli.machine import available_cpus
from vitcli.records import ImageRef, Sample

MOST_WORKERS = 8
MAX_HELD_BYTES = 256 << 20  # of image data in the refs that wait for results
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


def default_workers(device: str = "cpu", shares: int = 1) -> int:
    """The number of workers of a process that has one of `shares` equal shares of this machine. On
    a CPU, the network needs processors as well; a GPU takes the images of all of them."""
    cpus = max(1, available_cpus() // shares)
    return min(MOST_WORKERS, cpus) if device == "cpu" else cpus


class WorkerPool:
    """A pool of `size` worker processes for a job: a context manager that any thread may use.

    `workers=None` starts `default_workers()`. With `workers=0` the job
    runs in this process, without protection from crashes and without time-outs.
    """

    def __init__(
        self, job: ImageJob, workers: int | None, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.size = default_workers() if workers is None else workers
        if self.size and multiprocessing.current_process().daemon:
            warnings.warn(IN_PROCESS, RuntimeWarning, stacklevel=2)
            self.size = 0
        self._job = job
        self._dispatcher = Dispatcher(job, self.size, note)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self._dispatcher.close()

    def submit(self, ref: ImageRef) -> Future[Decoded]:
        """Start the job for an image in a worker. Without workers, run it."""
        if not self.size:
            done: Future[Decoded] = Future()
            done.set_result(self._job(ref))
            return done
        return self._dispatcher.submit(ref)

    def each(
        self, tasks: Sequence[tuple[ImageRef, Any]], then: Callable[[int, Decoded], Result]
    ) -> list[Result]:
        """Run the job for each task, call `then(index of the task, its result)` as soon as the
        result arrives, and return the values of `then` in the order of the tasks."""

        if not self.size:
            return [then(number, self._job(ref, more)) for number, (ref, more) in enumerate(tasks)]

        def done(number: int) -> Result:  # each thread has one result, not all of them
            return then(number, self._dispatcher.submit(*tasks[number]).result())

        with ThreadPoolExecutor(self.size, "decode") as threads:
            return list(threads.map(done, range(len(tasks))))
