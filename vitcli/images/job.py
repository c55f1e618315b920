"""The job that a worker process does for each image, and the messages on its pipe."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from vitcli.images.decode import decode
from vitcli.images.pool.shared import SharedFile, Slot, Slots, room_for
from vitcli.processes import end_with_parent
from vitcli.records import Failure, ImageRef, Limits, Preprocess, Sample

Decoded = Sample | Failure


class ImageJob(Protocol):
    """A function of an image ref and further arguments. It is sent once to each worker process."""

    @property
    def limits(self) -> Limits: ...

    @property
    def imports_torch(self) -> bool:
        """Whether its workers have torch, which resizes bytes faster than numpy to its values."""

    def __call__(self, ref: ImageRef, *more: Any) -> Decoded: ...


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """Decode and preprocess an image, and measure how long that takes."""

    plans: tuple[Preprocess, ...]
    limits: Limits = Limits()
    formats: str = "common"

    @property
    def imports_torch(self) -> bool:
        return any(plan.resizes_with_torch for plan in self.plans)

    def __call__(self, ref: ImageRef, *more: Any) -> Decoded:
        started = time.perf_counter()
        decoded = decode(ref, self.plans, self.limits, self.formats)
        if isinstance(decoded, Failure):
            return decoded
        return replace(decoded, seconds=time.perf_counter() - started)


def serve(pipe: Connection, job: ImageJob, file: SharedFile | None) -> None:
    """Run a worker process. For each (slot, ref, more) received, send a Failure; or the fields of a
    Sample, and whether its arrays are in the slot of the file, else the bytes of each array."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides when to stop
    parent = multiprocessing.parent_process()
    if parent is not None:
        end_with_parent(parent.sentinel)
    _be_first_out_of_memory()
    _silence()
    with suppress(EOFError, OSError):  # the main process has ended, or closed the pipe
        pipe.send("ready")
        while True:
            slot, ref, more = pipe.recv()
            result = job(ref, *more)
            if isinstance(result, Failure):
                pipe.send(result)
                continue
            arrays = result.pixels
            kinds = [(array.dtype.str, array.shape) for array in arrays]
            is_in_slot = file is not None and slot is not None and file.fill(slot, arrays)
            pipe.send((kinds, result.size, result.seconds, result.note, is_in_slot))
            for array in () if is_in_slot else arrays:
                pipe.send_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def receive(pipe: Connection, ref: ImageRef, slot: Slot | None, slots: Slots) -> Decoded:
    """Receive one answer of `serve`, and add the ref, which `serve` does not send back. The slot is
    given back, now or when no array uses it. Raises EOFError or OSError if the worker has died, and
    then the slot is still taken."""
    answer = pipe.recv()
    if isinstance(answer, Failure):
        slots.give_back(slot)
        return replace(answer, ref=ref)
    kinds, size, seconds, note, is_in_slot = answer
    if is_in_slot:
        assert slot is not None
        return Sample(ref, tuple(slots.arrays(slot, kinds)), size, seconds, note)
    arrays = [np.frombuffer(pipe.recv_bytes(), dtype).reshape(shape) for dtype, shape in kinds]
    slots.give_back(slot)
    slots.choose_size(room_for(arrays))
    return Sample(ref, tuple(arrays), size, seconds, note)


def _silence() -> None:
    """Discard the output of libraries such as libtiff."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


def _be_first_out_of_memory() -> None:
    """Make this process the first that Linux kills when out of memory. A dead worker costs at most
    one row; a dead main process, which is larger, costs the run. See proc(5)."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
