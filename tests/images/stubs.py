"""Decode jobs that do what the name of the file says. Workers import them from here by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from vitcli.records import ErrorType, Failure, ImageRef, Limits, Sample


@dataclass(frozen=True)
class Stub:
    """`good`, `bad`, `sleep 0.1`, `hang`, `spin`, `abort`, `kill`, `exit`, `raise`, `speak`.

    `once FILE` kills its process where FILE is missing, and leaves one.
    """

    limits: Limits = Limits()

    def __call__(self, ref: ImageRef) -> Sample | Failure:
        verb, _, rest = ref.path.partition(" ")
        match verb:
            case "bad":
                return Failure(ref, ErrorType.DECODE_ERROR, "bad")
            case "sleep":
                time.sleep(float(rest))
            case "hang":
                time.sleep(1000)
            case "spin":
                while True:
                    pass
            case "abort":
                os.abort()
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "raise":
                raise RuntimeError("a bug")
            case "speak":
                os.write(1, b"words")
                os.write(2, b"words")
            case "once":
                if not Path(rest).exists():
                    Path(rest).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
        return Sample(ref, (np.full((2, 2, 3), ref.index % 256, np.uint8),))


def ends_at_once(pipe: Connection, job: Stub) -> None:
    """A worker that never gets ready."""
    sys.exit(9)
