"""The process that forks the workers: it is started once, and imports neither torch nor what lies
in the working directory."""

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

START_DESCRIPTORS = 12  # that the start of a worker takes for a moment
MAX_FOLDER_CHARS = 70  # of the 107 of a socket's path
_END_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

lock = threading.Lock()  # multiprocessing starts and reaps for one thread at a time


def warm_up() -> None:
    """Start the process that forks the workers, so that it is ready when they are needed.

    Only a program that is all ours calls this: that process and the workers ignore the signals
    with which a terminal or systemd ends all processes of a program. They end with the main one.
    """
    _context()  # sets what the server imports
    with lock, _clean_start():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _END_SIGNALS)
        try:
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, _END_SIGNALS)  # it has unblocked some
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(job: ImageJob) -> tuple[BaseProcess, Connection]:
    """Fork a worker process, and return our end of its pipe. The caller holds `lock`.

    Raises OSError where there are no more processes or descriptors.
    """
    _check_descriptors()
    context = _context()
    ours, theirs = context.Pipe()
    try:
        with theirs, _clean_start():  # closed here: the worker's death closes the pipe
            process = context.Process(
                target=serve, args=(theirs, job), name="vit-decode", daemon=True
            )
            process.start()
    except BaseException:
        ours.close()  # a future keeps the exception, and the exception this frame
        raise
    return process, ours


def _check_descriptors() -> None:
    """Raise OSError before a start that would fail: the process that forks would die of it."""
    spare: list[int] = []
    try:
        while len(spare) < START_DESCRIPTORS:
            spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for descriptor in spare:
            os.close(descriptor)


def _context() -> ForkServerContext:
    """Return the forkserver context: the workers are not forked from a process with torch's
    threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([serve.__module__])
    _choose_socket_folder()
    return context


def _choose_socket_folder() -> None:
    """Put the socket of the forkserver into a folder of the system where TMPDIR is too long for
    the path of a socket. Raises VitError if there is no such folder."""
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
        util.get_temp_dir()  # made once, and removed at the end
    finally:
        tempfile.tempdir = before


@contextmanager
def _clean_start() -> Iterator[None]:
    """Start a process that runs neither the caller's script nor what lies in this folder.

    multiprocessing imports `__main__` in its children. The workers do not need it, and a script
    that calls `vitcli.embed` without an `if __name__ == "__main__"` would start itself again. And
    multiprocessing starts Python with `-c`, which looks for modules in the working directory
    first: among images of unknown origin.
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
