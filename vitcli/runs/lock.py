"""Locks, so that only one process at a time writes an output."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vitcli.errors import OutputError, printable
from vitcli.files import PARTIAL, check_own, explained, refuse_link

LOCK = ".lock"


def this_process() -> dict[str, object]:
    """Describe this process to others, as `holder` reads it."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}


class Lock:
    """A lock, held until `release` or the death of this process. Its file names the holder."""

    def __init__(self, path: Path, out: object) -> None:
        """Take the lock. Raises OutputError, which names the holder, if another process has it."""
        self._path = path
        with explained(path):
            self._file = self._locked(out)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(this_process()).encode(), 0)

    def _locked(self, out: object) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        while True:
            refuse_link(self._path)
            file = os.open(self._path, flags, 0o666)
            check_own(file, self._path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                other = holder(os.pread(file, 1000, 0))
                os.close(file)
                hint = "wait for it to end, or write to another file"
                raise OutputError(f"{out} is being written by {other}", hint) from None
            except OSError:  # a file system without locks
                return file
            try:
                if os.path.samestat(os.fstat(file), self._path.stat()):
                    return file
            except FileNotFoundError:
                pass
            os.close(file)  # its last holder has just removed it: try again

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._file)


@contextmanager
def locked(files: Iterable[Path]) -> Iterator[None]:
    """Hold the locks of these files. Raises OutputError if another process holds one."""
    with ExitStack() as locks:
        for file in sorted(set(files)):  # always in the same order: no deadlock
            lock = Lock(file.with_name(file.name + PARTIAL + LOCK), file)
            locks.callback(lock.release)
        yield


def holder(content: bytes) -> str:
    """Describe the holder from its lock file, which another version may have written."""
    try:
        owner = json.loads(content)
        pid, host, since = owner["pid"], owner["host"], owner["since"]
        if type(pid) is not int or type(host) is not str or type(since) not in (int, float):
            return "another process"
        when = time.strftime("%H:%M", time.localtime(since))
        return f"process {pid} on {printable(host[:255])} (since {when})"
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return "another process"
