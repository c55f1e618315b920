"""The dispatcher: one thread that gives images to the workers, and takes their results.

It knows which image each worker is at. An image whose worker dies is retried once, in a new
process; after a second death, or a time-out, its row is a Failure.
"""

from __future__ import annotations

import atexit
import math
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from vitcli.errors import VitError
from vitcli.images import worker_process
from vitcli.images.job import Decoded, ImageJob, receive
from vitcli.images.pool.shared import Slot, Slots
from vitcli.processes import fate
from vitcli.records import ErrorType, Failure, ImageRef

MAX_STARTS = 3  # failed starts of a worker before the run ends
MAX_CRASHES = 2  # for one image
START_SECONDS = 60.0
EXIT_SECONDS = 5.0
POLL_SECONDS = 0.25
MAX_POLL_SECONDS = 0.5  # counted for one poll: a suspended machine must not cause time-outs
FAST_SECONDS = 0.02  # a worker that is faster gets its next image before it is done
MAX_NEXT_CHARS = 4096  # of that image's path: its message must not fill the pipe


@dataclass(slots=True, eq=False)
class _Task:
    """An image for a worker, and how often it has killed one."""

    ref: ImageRef
    more: tuple[Any, ...]
    future: Future[Decoded]
    slot: Slot | None = None
    crashes: int = 0
    cause: str = ""
    due: float = 0.0

    @property
    def is_small(self) -> bool:
        return not self.ref.held and not self.more and len(self.ref.path) < MAX_NEXT_CHARS


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker process, the pool's end of its pipe, and its tasks; it is at the first of them."""

    process: BaseProcess
    pipe: Connection
    deadline: float
    tasks: deque[_Task] = field(default_factory=deque)
    since: float = 0.0  # when it began its first task
    is_ready: bool = False
    is_fast: bool = False


class Dispatcher:
    """Runs a job for images in up to `size` worker processes, which it starts as they are needed.

    `submit` and `stop` may be called from any thread.
    """

    def __init__(self, job: ImageJob, size: int, note: Callable[[str], None]) -> None:
        self._job, self._size, self._note = job, size, note
        self._process = os.getpid()
        self._lock = threading.Lock()  # held to add a task, and to end
        self._unfinished: set[_Task] = set()
        self._todo: deque[_Task] = deque()
        self._crashed: list[_Task] = []  # each waits until it is due
        self._workers: dict[int, _Worker] = {}  # by the descriptor of the pipe
        self._slots = Slots()
        self._failed_starts = 0
        self._clock = 0.0  # seconds, without those in which this process was suspended
        self._stopped = threading.Event()
        self._is_asleep = self._has_news = False
        self._last = 0.0  # when the workers were looked at, by time.monotonic
        self._waking = os.pipe()
        self._poll = selectors.DefaultSelector()
        self._poll.register(self._waking[0], selectors.EVENT_READ)
        self._thread: threading.Thread | None = None
        self._is_over = False
        self._error: BaseException | None = None  # that ended the thread
        # At exit multiprocessing sends its children SIGTERM, which the workers may block.
        atexit.register(self.stop)

    def submit(self, ref: ImageRef, *more: Any) -> Future[Decoded]:
        """Run the job for an image."""
        task = _Task(ref, more, Future())
        with self._lock:
            self._unfinished.add(task)
            if self._is_over:
                self._give_up(self._error)
                return task.future
            self._todo.append(task)
            self._has_news = True
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="decode", daemon=True)
                thread.start()
                self._thread = thread
        if self._is_asleep:
            self._wake()
        return task.future

    def stop(self) -> None:
        """Kill the workers, start no new ones, and cancel what is not done."""
        if self._process != os.getpid():  # a fork, which has no thread and no workers
            return
        with worker_process.lock:
            self._stopped.set()
            for worker in self._workers.values():
                worker.process.kill()
        self._wake()
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop, and end the remaining workers."""
        if self._process != os.getpid():
            return
        self.stop()
        for worker in list(self._workers.values()):
            self._end(worker)
        atexit.unregister(self.stop)
        self._poll.close()
        for descriptor in self._waking:
            os.close(descriptor)
        self._slots.close()

    def _wake(self) -> None:
        self._is_asleep = False
        with suppress(OSError):  # closed already
            os.write(self._waking[1], b"\0")

    def _run(self) -> None:
        try:
            self._last = time.monotonic()
            while not self._stopped.is_set():
                self._has_news = False
                self._retry()
                self._assign()
                for descriptor in self._answering():
                    self._take_answer(self._workers[descriptor])
                for worker in [w for w in self._workers.values() if w.deadline <= self._clock]:
                    self._time_out(worker)
        except BaseException as error:  # a bug, which everyone who waits for a result raises
            self._error = error
        with self._lock:
            self._is_over = True
            self._give_up(self._error)

    def _give_up(self, error: BaseException | None) -> None:
        """Finish all tasks with an error, or cancel them if there is none."""
        while self._unfinished:
            future = self._unfinished.pop().future
            if error is None:
                future.cancel()
            else:
                with suppress(InvalidStateError):  # the caller has cancelled it
                    future.set_exception(error)

    def _finish(self, task: _Task, result: Decoded) -> None:
        self._unfinished.discard(task)
        with suppress(InvalidStateError):  # the caller has cancelled it
            task.future.set_result(result)

    def _answering(self) -> list[int]:
        """Wait until workers answer, and return the descriptors of their pipes."""
        self._is_asleep = True
        found = self._poll.select(0 if self._has_news else POLL_SECONDS)
        self._is_asleep = False
        before, self._last = self._last, time.monotonic()
        self._clock += min(self._last - before, MAX_POLL_SECONDS)
        descriptors = [key.fd for key, _ in found]
        if self._waking[0] in descriptors:
            os.read(self._waking[0], 4096)
            descriptors.remove(self._waking[0])
        return descriptors

    def _assign(self) -> None:
        """Give out images: first to idle workers, then a second one to those that are fast, so that
        they need not wait for this thread."""
        while self._todo and len(self._workers) < self._size:
            starting = sum(not worker.is_ready for worker in self._workers.values())
            if starting >= len(self._todo) or not self._start():
                break
        for most in (1, 2):
            for worker in list(self._workers.values()):
                if not self._todo:
                    return
                if worker.is_ready and len(worker.tasks) < most:
                    is_next = bool(worker.tasks)
                    if not is_next or (worker.is_fast and self._todo[0].is_small):
                        self._send(worker, self._todo.popleft())

    def _send(self, worker: _Worker, task: _Task) -> None:
        if not worker.tasks:
            self._begin(worker)
        worker.tasks.append(task)
        task.slot = self._slots.take()
        with suppress(OSError):  # it has died, as its pipe will say
            worker.pipe.send((task.slot, task.ref, task.more))

    def _begin(self, worker: _Worker) -> None:
        """The worker begins its first task now."""
        worker.since, worker.deadline = self._last, self._clock + self._job.limits.timeout

    def _take_answer(self, worker: _Worker) -> None:
        try:
            if not worker.is_ready:
                worker.pipe.recv()
                worker.is_ready, worker.deadline, self._failed_starts = True, math.inf, 0
                return
            task = worker.tasks[0]  # without one, the pipe has ended
            result = receive(worker.pipe, task.ref, task.slot, self._slots)
        except (EOFError, OSError, IndexError):
            self._bury(worker)
            return
        worker.tasks.popleft()
        worker.is_fast = self._last - worker.since < FAST_SECONDS
        if worker.tasks:
            self._begin(worker)
        else:
            worker.deadline = math.inf
        self._finish(task, result)

    def _bury(self, worker: _Worker) -> None:
        """A worker has died. The image that it was at is tried again after a while: a signal to the
        process group ends the workers, and soon afterwards the run."""
        cause = self._end(worker, EXIT_SECONDS)
        if not worker.is_ready:
            self._count_failed_start(cause)
        elif worker.tasks:
            task = worker.tasks.popleft()
            task.crashes, task.cause, task.due = task.crashes + 1, cause, self._clock + POLL_SECONDS
            self._crashed.append(task)
        self._todo.extendleft(reversed(worker.tasks))

    def _retry(self) -> None:
        """Run images again that have killed their worker; one that has done so twice fails."""
        for task in [task for task in self._crashed if task.due <= self._clock]:
            self._crashed.remove(task)
            if task.crashes < MAX_CRASHES:
                self._todo.appendleft(task)
                self._note(f"an image worker {task.cause}; restarted")
            else:
                message = f"its decoder {task.cause}, {MAX_CRASHES} times"
                self._finish(task, Failure(task.ref, ErrorType.WORKER_CRASH, message))

    def _time_out(self, worker: _Worker) -> None:
        if not worker.is_ready:
            self._count_failed_start(self._end(worker, EXIT_SECONDS))
            return
        self._end(worker)
        task = worker.tasks.popleft()
        self._todo.extendleft(reversed(worker.tasks))
        message = f"decoding took longer than {self._job.limits.timeout:g} s (--image-timeout)"
        self._finish(task, Failure(task.ref, ErrorType.TIMEOUT, message))

    def _start(self) -> bool:
        """Start a worker; return False if that failed too often."""
        try:
            with worker_process.lock:
                if self._stopped.is_set():
                    return False
                started = worker_process.start_worker(self._job, self._slots.file)
                worker = _Worker(*started, self._clock + START_SECONDS)
                self._workers[worker.pipe.fileno()] = worker
        except (EOFError, OSError) as error:  # out of processes or descriptors
            cause = getattr(error, "strerror", None) or "they cannot be forked"
            return self._count_failed_start(f"gave up: {cause}")
        except VitError as error:
            self._fail(error)
            return False
        self._poll.register(worker.pipe, selectors.EVENT_READ)
        return True

    def _count_failed_start(self, cause: str) -> bool:
        """Count a start that failed; after the last, all images fail, and False is returned."""
        self._failed_starts += 1
        if self._failed_starts < MAX_STARTS:
            return True
        self._failed_starts = 0
        self._fail(
            VitError(
                f"the image workers cannot start ({cause})",
                "try -j 0, which decodes in the main process",
            )
        )
        return False

    def _fail(self, error: VitError) -> None:
        """Let everyone who waits for an image that is not in a worker raise this."""
        while self._todo:
            task = self._todo.popleft()
            self._unfinished.discard(task)
            with suppress(InvalidStateError):
                task.future.set_exception(error)

    def _end(self, worker: _Worker, seconds: float = 0.0) -> str:
        """Kill a worker if it does not exit within `seconds`, and describe how it ended."""
        with worker_process.lock:
            worker.process.join(seconds)
            worker.process.kill()
            worker.process.join(EXIT_SECONDS)
            exitcode = worker.process.exitcode
            del self._workers[worker.pipe.fileno()]
            self._poll.unregister(worker.pipe)
            worker.pipe.close()
            with suppress(ValueError):  # the process has survived SIGKILL
                worker.process.close()
        if exitcode is not None:  # it writes to no slot any more
            for task in worker.tasks:
                self._slots.give_back(task.slot)
        return fate(exitcode)
