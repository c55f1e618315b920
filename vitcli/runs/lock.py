"""One process at a time writes an output."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from vitcli.errors import OutputError
from vitcli.sinks.files import explained

LOCK = ".lock"


class Lock:
    """Held from the start until `release`, or until this process has died. The file says who."""

    def __init__(self, path: Path, out: Path | str) -> None:
        """Raises OutputError, which names the holder, where it is held."""
        self._path = path
        with explained(path):
            self._file = self._locked(out)
            me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(me).encode(), 0)

    def _locked(self, out: Path | str) -> int:
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                other = holder(os.pread(file, 1000, 0))
                os.close(file)
                hint = "wait for it to end, or write to another file"
                raise OutputError(f"{out} is being written by {other}", hint) from None
            except OSError:  # a file system without locks: nobody can be told
                return file
            try:
                if os.path.samestat(os.fstat(file), self._path.stat()):
                    return file
            except FileNotFoundError:
                pass
            os.close(file)  # the holder has just removed it

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def holder(said: bytes) -> str:
    """Who says so of itself."""
    try:
        me = json.loads(said)
        since = time.strftime("%H:%M", time.localtime(me["since"]))
        return f"process {me['pid']} on {me['host']} (since {since})"
    except (ValueError, KeyError, TypeError):
        return "another process"
