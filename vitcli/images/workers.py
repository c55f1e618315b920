"""Image refs into decoded samples, in order, by processes that may die.

torch's DataLoader ends with its worker: one file that crashes its decoder, one that decodes for
ever, or one visit of the out-of-memory killer ends the run and names no file. Here every worker
has its own pipe and answers in the order it was asked, so the first unanswered image is the one
that did it: a crash is tried once more and then costs that image its row, a time-out costs it at
once, and the other images of the worker go to the next one. The workers import Pillow and numpy
only, so they start in a tenth of a second and hold tens of megabytes.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

import numpy as np

from vitcli.errors import VitError
from vitcli.images.decode import decode
from vitcli.records import ErrorType, Failure, ImageRef, Limits, Preprocess, Sample

QUEUED_PER_WORKER = 2  # one being decoded, one waiting: no idle time between two images
TICK = 0.25  # seconds between looks at the clock
LONGEST_TICK = 1.0  # a stopped or sleeping machine must not time anybody out
CRASHES_PER_IMAGE = 2
DEATHS_AT_START = 3

Decoded = Sample | Failure


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """What is done to every image of a run."""

    plans: tuple[Preprocess, ...]
    limits: Limits = Limits()
    formats: str = "common"

    def __call__(self, ref: ImageRef) -> Decoded:
        return decode(ref, self.plans, self.limits, self.formats)


def iter_decoded(
    refs: Iterable[ImageRef],
    job: DecodeJob,
    workers: int,
    ahead: int = 64,
    notice: Callable[[str], None] = lambda text: None,
) -> Generator[Decoded, None, None]:
    """One result for each ref, in order; `ahead` bounds how many wait for the consumer.

    With `workers=0` everything happens in this process, without protection from crashes and
    without time-outs. `notice` hears of workers that had to be replaced.
    """
    if workers == 0:
        yield from map(job, refs)
        return
    pool = _Pool(job, workers, ahead, notice)
    try:
        yield from pool.results(refs)
    finally:
        pool.stop()


def available_cpus() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(slots=True, eq=False)
class _Worker:
    """One process, its end of the pipe, and the refs it has not answered, oldest first."""

    process: BaseProcess
    pipe: Connection
    is_ready: bool = False
    asked: deque[ImageRef] = field(default_factory=deque)
    seconds: float = 0.0  # spent on the first of `asked`


class _Pool:
    """Feeds the workers and restores the order. All state belongs to one supervising thread."""

    def __init__(
        self, job: DecodeJob, workers: int, ahead: int, notice: Callable[[str], None]
    ) -> None:
        self._job = job
        self._size = workers
        self._notice = notice
        self._context = _context()
        self._workers: list[_Worker] = []
        self._again: deque[ImageRef] = deque()  # taken back from a worker that died
        self._crashes: dict[int, int] = {}
        self._deaths_at_start = 0
        self._done: dict[int, Decoded] = {}  # finished, but an earlier one is not
        self._out: queue.Queue[Decoded | BaseException | None] = queue.Queue(maxsize=ahead)
        self._stopped = threading.Event()

    def results(self, refs: Iterable[ImageRef]) -> Iterator[Decoded]:
        thread = threading.Thread(
            target=self._supervise, args=(iter(refs),), name="decode", daemon=True
        )
        thread.start()
        while (item := self._out.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
        thread.join()

    def stop(self) -> None:
        """End the workers at once; the supervising thread follows."""
        self._stopped.set()
        for worker in list(self._workers):
            self._end(worker)

    def _supervise(self, refs: Iterator[ImageRef]) -> None:
        try:
            self._workers += [self._start() for _ in range(self._size)]
            self._run(refs)
            self._put(None)
        except BaseException as error:  # handed to the consumer, who raises it
            if not self._stopped.is_set():
                self._put(error)
        finally:
            for worker in list(self._workers):
                self._end(worker)

    def _run(self, refs: Iterator[ImageRef]) -> None:
        following = None  # the index that goes out next
        is_listed = False
        before = time.monotonic()
        while not self._stopped.is_set():
            while not is_listed and (idle := self._idle()) is not None:
                ref = self._again.popleft() if self._again else next(refs, None)
                if ref is None:
                    is_listed = True
                    break
                following = ref.index if following is None else following
                self._ask(idle, ref)
            while self._again and (idle := self._idle()) is not None:
                self._ask(idle, self._again.popleft())
            if is_listed and not self._again and not any(w.asked for w in self._workers):
                return
            self._receive()
            now = time.monotonic()
            self._charge(min(now - before, LONGEST_TICK))
            before = now
            while following in self._done:
                self._put(self._done.pop(following))
                following += 1

    def _idle(self) -> _Worker | None:
        worker = min(self._workers, key=lambda w: len(w.asked))
        return worker if len(worker.asked) < QUEUED_PER_WORKER else None

    def _ask(self, worker: _Worker, ref: ImageRef) -> None:
        worker.asked.append(ref)
        try:
            worker.pipe.send((ref.index, ref.path))
        except OSError:
            self._bury(worker)

    def _receive(self) -> None:
        pipes = {worker.pipe: worker for worker in self._workers}
        for pipe in wait(list(pipes), TICK):
            worker = pipes[pipe]  # type: ignore[index]  # wait returns what it was given
            try:
                answer = worker.pipe.recv()
                if not worker.is_ready:
                    worker.is_ready = True
                    continue
                if isinstance(answer, Failure):
                    result: Decoded = answer
                else:
                    arrays = tuple(
                        np.frombuffer(worker.pipe.recv_bytes(), np.uint8).reshape(shape)
                        for shape in answer
                    )
                    result = Sample(worker.asked[0], arrays)
            except (EOFError, OSError):
                self._bury(worker)
                continue
            ref = worker.asked.popleft()
            worker.seconds = 0.0
            self._done[ref.index] = replace(result, ref=ref)

    def _charge(self, seconds: float) -> None:
        for worker in self._workers:
            if not (worker.is_ready and worker.asked):
                continue
            worker.seconds += seconds
            if worker.seconds > self._job.limits.timeout:
                ref = worker.asked.popleft()
                limit = f"{self._job.limits.timeout:g} s"
                message = f"decoding took longer than {limit} (--image-timeout)"
                self._done[ref.index] = Failure(ref, ErrorType.TIMEOUT, message)
                self._replace(worker)

    def _bury(self, worker: _Worker) -> None:
        """A worker died by itself: find out why, and whether its image is to blame."""
        worker.process.join(5)
        cause = _cause(worker.process.exitcode)
        if not worker.is_ready:
            self._deaths_at_start += 1
            if self._deaths_at_start >= DEATHS_AT_START:
                raise VitError(
                    f"the image workers cannot start ({cause})",
                    "try -j 0, which decodes in the main process",
                )
        elif worker.asked:
            ref = worker.asked[0]
            crashes = self._crashes.get(ref.index, 0) + 1
            self._crashes[ref.index] = crashes
            if crashes >= CRASHES_PER_IMAGE:
                worker.asked.popleft()
                del self._crashes[ref.index]
                message = f"its decoder {cause}, {crashes} times"
                self._done[ref.index] = Failure(ref, ErrorType.WORKER_CRASH, message)
            else:
                self._notice(f"an image worker {cause}; restarted")
        self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        self._again.extendleft(reversed(worker.asked))
        worker.asked.clear()
        self._end(worker)
        if not self._stopped.is_set():
            self._workers[self._workers.index(worker)] = self._start()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(  # type: ignore[attr-defined]  # every context has it
            target=_work, args=(theirs, self._job), name="vit-decode", daemon=True
        )
        with _without_main():
            process.start()
        theirs.close()  # so that its death closes the pipe
        return _Worker(process, ours)

    def _end(self, worker: _Worker) -> None:
        with suppress(ValueError, OSError):  # already closed
            worker.process.kill()
        worker.pipe.close()

    def _put(self, item: Decoded | BaseException | None) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                return self._out.put(item, timeout=TICK)


def _context() -> BaseContext:
    """forkserver: a fresh process forks the workers, so no thread of torch's is forked along."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextmanager
def _without_main() -> Iterator[None]:
    """Start a process that does not run the caller's script again.

    multiprocessing imports `__main__` in its children for what may have been defined there. Our
    workers need nothing of it, and a script that calls `vitcli.embed` without an
    `if __name__ == "__main__"` would start itself over.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _cause(exitcode: int | None) -> str:
    if exitcode is None:
        return "stopped answering"
    if exitcode >= 0:
        return f"exited with {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = "?"
    return f"was killed by signal {-exitcode} ({name})"


def _work(pipe: Connection, job: DecodeJob) -> None:
    """A worker's life: (index, path) in, Failure or shapes and then the bytes of each array out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides when to stop
    _end_with_parent()
    words = _own_stderr()
    with suppress(EOFError, OSError):  # the main process is gone, or wants no more
        pipe.send("ready")
        while True:
            index, path = pipe.recv()
            result = job(ImageRef(index, path))
            said = _take(words)
            if isinstance(result, Failure):
                if said and result.type is ErrorType.DECODE_ERROR:
                    result = replace(result, message=f"{result.message} ({said})")
                pipe.send(result)
            else:
                pipe.send([array.shape for array in result.pixels])
                for array in result.pixels:
                    pipe.send_bytes(np.ascontiguousarray(array).data.cast("B"))


def _own_stderr() -> int:
    """libtiff and others write to descriptor 2 themselves: let it be a file that nobody sees."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # lives as long as the worker
    os.dup2(file.fileno(), 2)
    return 2


def _take(words: int) -> str:
    """The first line that a C library wrote since the last image."""
    if not os.fstat(words).st_size:
        return ""
    os.lseek(words, 0, os.SEEK_SET)
    text = os.read(words, 500)
    os.lseek(words, 0, os.SEEK_SET)
    os.ftruncate(words, 0)
    return text.decode(errors="replace").split("\n")[0].strip()


def _end_with_parent() -> None:
    """A main process that is killed outright must not leave a worker busy with a long image."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        watch = threading.Thread(
            target=lambda: (wait([parent.sentinel]), os._exit(1)), name="parent-watch", daemon=True
        )
        watch.start()


def warm_up() -> None:
    """Start the process that forks the workers now, so that it is there when they are wanted."""
    if _context().get_start_method() == "forkserver":
        with _without_main():
            forkserver.ensure_running()
