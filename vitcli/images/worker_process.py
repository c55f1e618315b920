"""The fork servers: processes, each started once, that fork the workers. One imports torch, for
jobs that resize with it; the other does not, and neither imports modules in the working directory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

from vitcli.errors import VitError, printable
from vitcli.images.job import ImageJob, serve
from vitcli.images.pool.shared import SharedFile

START_DESCRIPTORS = 12  # that must be free to start a worker
MAX_FOLDER_CHARS = 70  # a socket's path has at most 107
_ENVIRONMENT = {
    "PYTHONSAFEPATH": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PILLOW_BLOCK_SIZE": "512m",  # torch reads images that are in one block without a copy
}
_END_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

lock = threading.Lock()  # held to start or reap a process: multiprocessing does not lock


_with_torch = forkserver.ForkServer()


def warm_up(*, imports_torch: bool = False) -> None:
    """Start a fork server early, so that it is ready when workers are needed.

    Only `vit` calls this, not the library. The server and the workers then block the signals that
    a terminal or systemd sends to all processes of a program: they end when the main process does.
    """
    _context()  # sets the modules that the servers import
    server = _with_torch if imports_torch else forkserver
    with lock, _clean_start():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _END_SIGNALS)
        try:
            resource_tracker.ensure_running()
            # ensure_running has unblocked some of them.
            signal.pthread_sigmask(signal.SIG_BLOCK, _END_SIGNALS)
            server.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(job: ImageJob, file: SharedFile | None) -> tuple[BaseProcess, Connection]:
    """Fork a worker process, which writes pixels to the file; return it and the pool's end of its
    pipe. The caller holds `lock`.

    Raises OSError if the system has no more processes or descriptors.
    """
    _check_descriptors()
    context = _context()
    pool_end, worker_end = context.Pipe()
    try:
        # Only the worker keeps its end open, so the pipe ends when the worker does.
        with worker_end, _clean_start(), _forked(imports_torch=job.imports_torch):
            process = context.Process(
                target=serve, args=(worker_end, job, file), name="vit-decode", daemon=True
            )
            process.start()
    except BaseException:
        pool_end.close()  # a future keeps the exception, and with it this frame
        raise
    return process, pool_end


def _check_descriptors() -> None:
    """Raise OSError if too few descriptors are free: the fork server would die of that."""
    spare: list[int] = []
    try:
        while len(spare) < START_DESCRIPTORS:
            spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for descriptor in spare:
            os.close(descriptor)


def _context() -> ForkServerContext:
    """Return multiprocessing's forkserver context. Forking this process would be unsafe,
    because torch has threads in it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([serve.__module__])
    _with_torch.set_forkserver_preload([serve.__module__, "torch"])
    _choose_socket_folder()
    return context


def _choose_socket_folder() -> None:
    """Put the fork server's socket into a system folder if TMPDIR is too long for its path.

    Raises VitError if no such folder is writable.
    """
    before = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) <= MAX_FOLDER_CHARS:
        return
    short = [folder for folder in ("/tmp", "/var/tmp", "/dev/shm") if os.access(folder, os.W_OK)]
    if not short:
        raise VitError(
            f"TMPDIR is too long for a socket: {printable(tempfile.gettempdir())}",
            f"set it to a folder of at most {MAX_FOLDER_CHARS} characters, or use -j 0",
        )
    try:
        tempfile.tempdir = short[0]
        util.get_temp_dir()  # created once, and removed at exit
    finally:
        tempfile.tempdir = before


@contextmanager
def _forked(*, imports_torch: bool) -> Iterator[None]:
    """Have multiprocessing, which knows one fork server, fork from the one that imports torch."""
    before = forkserver.connect_to_new_process
    if imports_torch:
        forkserver.connect_to_new_process = _with_torch.connect_to_new_process
    try:
        yield
    finally:
        forkserver.connect_to_new_process = before


@contextmanager
def _clean_start() -> Iterator[None]:
    """Start processes that import neither the caller's script nor modules in the working directory.

    multiprocessing imports `__main__` in its children. The workers do not need it, and a script
    that calls `vitcli.embed` without `if __name__ == "__main__"` would run again in them. Also,
    multiprocessing starts Python with `-c`, which imports from the working directory first, where
    files may be untrusted. Each worker computes on one thread.
    """
    main, before = sys.modules["__main__"], {name: os.environ.get(name) for name in _ENVIRONMENT}
    sys.modules["__main__"] = types.ModuleType("__main__")
    os.environ |= _ENVIRONMENT
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
