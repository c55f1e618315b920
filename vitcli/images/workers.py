"""Image refs into decoded samples, in order, by processes that may die.

torch's DataLoader ends with its worker: one file that crashes its decoder, one that decodes for
ever, or one visit of the out-of-memory killer ends the run and names no file. Here a thread of
ours gives a worker process one image at a time, so it is clear which image did it: a crash is
tried once more in a new process and then costs that image its row, a time-out costs it at once,
and no other image notices. The workers import Pillow and numpy only, so they start in a tenth of
a second and hold tens of megabytes.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import types
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

import numpy as np

from vitcli.errors import VitError, printable
from vitcli.images.decode import decode
from vitcli.processes import available_cpus, end_with_parent, fate
from vitcli.records import ErrorType, Failure, ImageRef, Limits, Preprocess, Sample

TICK = 0.25  # seconds between looks at the clock
LONGEST_TICK = 0.5  # a stopped or sleeping machine must not time anybody out
DYING = 5.0  # seconds for a process to be gone
START_TIMEOUT = 60.0
TRIES_TO_START = 3
DESCRIPTORS = 12  # that the start of a worker takes for a moment
CRASHES_PER_IMAGE = 2
ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

Decoded = Sample | Failure
Result = TypeVar("Result")
MOST_WORKERS = 8
LONGEST_FOLDER = 70  # characters, of the 107 of a socket's path
IN_PROCESS = (
    "images are decoded in this process, without a time limit: a daemonic process (of a Pool, of "
    "Celery) may start no others"
)
MOST_AHEAD = 256 << 20  # bytes of images that travel with their refs

_processes = threading.Lock()  # multiprocessing starts and reaps for one thread at a time


class ImageJob(Protocol):
    """What a worker, to which it is sent once, does with an image and with what else it is given
    for it."""

    @property
    def limits(self) -> Limits: ...

    def __call__(self, ref: ImageRef, *more: Any) -> Decoded: ...


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """What is done to every image of a run."""

    plans: tuple[Preprocess, ...]
    limits: Limits = Limits()
    formats: str = "common"

    def __call__(self, ref: ImageRef, *more: Any) -> Decoded:
        started = time.perf_counter()
        decoded = decode(ref, self.plans, self.limits, self.formats)
        if isinstance(decoded, Failure):
            return decoded
        return replace(decoded, seconds=time.perf_counter() - started)


def iter_decoded(
    refs: Iterable[ImageRef],
    job: ImageJob,
    workers: int,
    ahead: Callable[[], int] = lambda: 64,
    notice: Callable[[str], None] = lambda text: None,
    *,
    keeps_data: bool = True,
) -> Generator[Decoded, None, None]:
    """One result for each ref, in order; about `ahead()` refs are taken before they are wanted.

    With `workers=0` everything happens in this process, without protection from crashes and
    without time-outs. Without `keeps_data` a result has no longer the bytes of its image, where
    its ref had them. `notice` hears, from other threads, of workers that had to be replaced.
    """

    def told(result: Decoded) -> Decoded:
        if not keeps_data and _held(result.ref):
            member = result.ref.member and result.ref.member.released()
            result = replace(result, ref=replace(result.ref, member=member))
        if isinstance(result, Sample) and result.note:
            notice(result.note)
        return result

    workers = _allowed(workers)
    if workers == 0:
        yield from (told(job(ref)) for ref in refs)
        return
    pool = _Pool(job, notice)
    threads = ThreadPoolExecutor(workers, "decode")
    pending: deque[tuple[Future[Decoded], int]] = deque()
    held = 0
    try:
        for ref in refs:
            size = _held(ref)
            pending.append((threads.submit(pool.decode, ref), size))
            held += size
            del ref  # it may be large
            while pending and (len(pending) >= max(ahead(), 2 * workers) or held > MOST_AHEAD):
                first, size = pending.popleft()
                held -= size
                yield told(first.result())
                del first
        while pending:
            yield told(pending.popleft()[0].result())
    finally:
        pool.stop()
        threads.shutdown(cancel_futures=True)
        pool.close()


class WorkerPool:
    """Workers for another job beside decoding: a context, within which `each` may be called often.
    With `workers=0` all is done in this process, `None` takes one for each processor."""

    def __init__(
        self, job: ImageJob, workers: int | None, notice: Callable[[str], None] = lambda text: None
    ) -> None:
        self._job = job
        self._pool = _Pool(job, notice)
        count = min(MOST_WORKERS, available_cpus()) if workers is None else workers
        self._count = _allowed(count)
        self._threads = ThreadPoolExecutor(max(1, self._count), "crew")

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.stop()
        self._threads.shutdown(cancel_futures=True)
        self._pool.close()

    def each(
        self, tasks: Sequence[tuple[ImageRef, Any]], then: Callable[[int, Decoded], Result]
    ) -> list[Result]:
        """What `then` makes of the number of each task and its result, as soon as that is there; in
        the order of the tasks."""

        def done(number: int) -> Result:
            do = self._pool.decode if self._count else self._job
            return then(number, do(*tasks[number]))

        numbers = range(len(tasks))
        return list(self._threads.map(done, numbers) if self._count else map(done, numbers))


def _allowed(workers: int) -> int:
    """None where multiprocessing lets this process start no other."""
    if workers and multiprocessing.current_process().daemon:
        warnings.warn(IN_PROCESS, RuntimeWarning, stacklevel=2)
        return 0
    return workers


def _held(ref: ImageRef) -> int:
    """Return how many bytes of an image travel with its ref."""
    return 0 if ref.member is None else ref.member.held


def warm_up() -> None:
    """Start the process that forks the workers now, so that it is there when they are wanted.

    It is for a program that is all ours: what ends a program by a signal to all of its processes,
    as a terminal or systemd does, is not for that process and the workers. They end when we do.
    """
    _context()
    with _processes, _clean_start():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # it has unblocked some
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    """One process and our end of its pipe."""

    process: BaseProcess
    pipe: Connection


class _Pool:
    """Workers for the threads that call `decode`: each takes one for an image and puts it back."""

    def __init__(self, job: ImageJob, notice: Callable[[str], None]) -> None:
        self._job = job
        self._notice = notice
        self._alive: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._stopped = threading.Event()
        # At exit multiprocessing asks its children to go, which ours may not hear.
        atexit.register(self.stop)

    def decode(self, ref: ImageRef, *more: Any) -> Decoded:
        cause = ""
        for crashes in range(CRASHES_PER_IMAGE):
            if crashes:
                self._notice(f"an image worker {cause}; restarted")
            worker = self._take()
            try:
                worker.pipe.send((ref, *more))
                if not _answers(worker.pipe, self._job.limits.timeout):
                    self._end(worker)
                    limit = f"{self._job.limits.timeout:g} s"
                    message = f"decoding took longer than {limit} (--image-timeout)"
                    return Failure(ref, ErrorType.TIMEOUT, message)
                result = _receive(worker.pipe, ref)
            except (EOFError, OSError):
                cause = self._end(worker, patience=DYING)
                # A signal to the whole process group ends the workers, and then the run.
                if self._stopped.wait(TICK):
                    raise CancelledError from None
            else:
                self._idle.append(worker)
                return result
        message = f"its decoder {cause}, {CRASHES_PER_IMAGE} times"
        return Failure(ref, ErrorType.WORKER_CRASH, message)

    def stop(self) -> None:
        """Kill the workers, which wakes the threads that wait for them, and start no more."""
        with _processes:
            self._stopped.set()
            for worker in self._alive:
                worker.process.kill()

    def close(self) -> None:
        """Clear away what is left, once no thread decodes."""
        for worker in list(self._alive):
            self._end(worker)
        atexit.unregister(self.stop)

    def _take(self) -> _Worker:
        """An idle worker, or a new one that has said that it is ready."""
        with suppress(IndexError):
            return self._idle.pop()
        for _ in range(TRIES_TO_START):
            try:
                worker = self._start()
            except (EOFError, OSError) as error:  # no more processes or descriptors for us
                cause = f"gave up: {getattr(error, 'strerror', None) or 'they cannot be forked'}"
                continue
            with suppress(EOFError, OSError):
                if _answers(worker.pipe, START_TIMEOUT) and worker.pipe.recv():
                    return worker
            cause = self._end(worker, patience=DYING)
        raise VitError(
            f"the image workers cannot start ({cause})",
            "try -j 0, which decodes in the main process",
        )

    def _start(self) -> _Worker:
        with _processes:
            if self._stopped.is_set():
                raise CancelledError
            _check_descriptors()
            ours, theirs = _context().Pipe()
            try:
                with theirs, _clean_start():  # closed here: the worker's death closes the pipe
                    process = _context().Process(
                        target=_work, args=(theirs, self._job), name="vit-decode", daemon=True
                    )
                    process.start()
            except BaseException:
                ours.close()  # a future keeps the exception, and the exception this frame
                raise
            worker = _Worker(process, ours)
            self._alive.add(worker)
        return worker

    def _end(self, worker: _Worker, patience: float = 0.0) -> str:
        """See a worker off, at once or when it has had time to die by itself: what became of it."""
        with _processes:
            worker.process.join(patience)
            worker.process.kill()
            worker.process.join(DYING)
            cause = fate(worker.process.exitcode)
            worker.pipe.close()
            with suppress(ValueError):  # not even SIGKILL has ended it
                worker.process.close()
            self._alive.discard(worker)
        return cause


def _check_descriptors() -> None:
    """Raise OSError while it does no harm: the process that forks would die of a start that we
    cannot go through with."""
    spare: list[int] = []
    try:
        while len(spare) < DESCRIPTORS:
            spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for descriptor in spare:
            os.close(descriptor)


def _answers(pipe: Connection, seconds: float) -> bool:
    """Whether something can be read in time. Hours in which we were stopped count as one tick."""
    while seconds > 0:
        before = time.monotonic()
        if pipe.poll(min(TICK, seconds)):
            return True
        seconds -= min(time.monotonic() - before, LONGEST_TICK)
    return False


def _receive(pipe: Connection, ref: ImageRef) -> Decoded:
    answer = pipe.recv()
    if isinstance(answer, Failure):
        return replace(answer, ref=ref)
    shapes, size, seconds, note = answer
    arrays = (np.frombuffer(pipe.recv_bytes(), np.uint8).reshape(shape) for shape in shapes)
    return Sample(ref, tuple(arrays), size, seconds, note)


def _context() -> ForkServerContext:
    """forkserver: a fresh process forks the workers, so no thread of torch's is forked along."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    _choose_socket_folder()
    return context


def _choose_socket_folder() -> None:
    """A socket is called by its path, which has room for few bytes: where TMPDIR is long, that of
    the forkserver is in a folder of the system. Raises VitError where there is none."""
    before = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) <= LONGEST_FOLDER:
        return
    short = [folder for folder in ("/tmp", "/var/tmp", "/dev/shm") if os.access(folder, os.W_OK)]
    if not short:
        raise VitError(
            f"TMPDIR is too long for a socket: {printable(tempfile.gettempdir())}",
            f"set it to a folder of at most {LONGEST_FOLDER} characters, or use -j 0",
        )
    try:
        tempfile.tempdir = short[0]
        util.get_temp_dir()  # made once, and removed at the end
    finally:
        tempfile.tempdir = before


@contextmanager
def _clean_start() -> Iterator[None]:
    """Start a process that runs neither the caller's script nor what lies in this folder.

    multiprocessing imports `__main__` in its children for what may have been defined there. Our
    workers need nothing of it, and a script that calls `vitcli.embed` without an
    `if __name__ == "__main__"` would start itself over. And it starts Python with `-c`, which
    looks for modules in the working directory first: among pictures from who knows where.
    """
    main, safe_path = sys.modules["__main__"], os.environ.get("PYTHONSAFEPATH")
    sys.modules["__main__"] = types.ModuleType("__main__")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if safe_path is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = safe_path


def _work(pipe: Connection, job: ImageJob) -> None:
    """A worker's life: (ref, ...) in; out a Failure, or the shapes of the arrays with what
    else is known of the picture, and then the bytes of each array."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides when to stop
    parent = multiprocessing.parent_process()
    if parent is not None:  # killed outright, it must not leave us busy with a long image
        end_with_parent(parent.sentinel)
    _go_first_when_memory_runs_out()
    _silence()
    with suppress(EOFError, OSError):  # the main process is gone, or wants no more
        pipe.send("ready")
        while True:
            result = job(*pipe.recv())
            if isinstance(result, Failure):
                pipe.send(result)
            else:
                shapes = [array.shape for array in result.pixels]
                pipe.send((shapes, result.size, result.seconds, result.note))
                for array in result.pixels:
                    pipe.send_bytes(np.ascontiguousarray(array).reshape(-1).data)


def _silence() -> None:
    """libtiff and others write to descriptor 2 themselves. Nobody sees what a worker prints."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


def _go_first_when_memory_runs_out() -> None:
    """The kernel takes the largest process, which is the main one with its model; a worker's death
    costs a row at most (Linux, proc(5))."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
