"""Decode jobs that do what the name of the file says. Workers import them from here by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from vitcli.images.job import Decoded, DecodeJob
from vitcli.records import ErrorType, Failure, ImageRef, Limits, Sample


@dataclass(frozen=True)
class Stub:
    """`good`, `bad`, `sleep 0.1`, `hang`, `spin`, `abort`, `kill`, `exit`, `raise`, `speak`.

    `once FILE` kills its process where FILE is missing, and leaves one.
    """

    limits: Limits = Limits()
    imports_torch: bool = False

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


class Numbered(Stub):
    """Takes a number with each image."""

    def __call__(self, ref: ImageRef, *more: Any) -> Sample | Failure:
        return super().__call__(ref)


class HasTorch(DecodeJob):
    """Adds to the arrays of an image whether its process has torch."""

    def __call__(self, ref: ImageRef, *more: Any) -> Decoded:
        sample = super().__call__(ref, *more)
        assert isinstance(sample, Sample)
        has_torch = np.array([["torch" in sys.modules]], np.uint8)
        return replace(sample, pixels=(*sample.pixels, has_torch))


def ends_at_once(pipe: Connection, job: Stub, file: object) -> None:
    """A worker that never gets ready."""
    sys.exit(9)
