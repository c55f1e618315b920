"""The process of a trial: one candidate of a bench, timed on ready pictures and on files.

`vitcli.tasks.bench.protocol` is the other end of its pipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count, cycle
from multiprocessing.connection import Connection
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from vitcli.checkpoints import engines
from vitcli.checkpoints.load import Model
from vitcli.errors import VitError
from vitcli.images.loader import iter_batches
from vitcli.images.workers import DecodeJob
from vitcli.jobs.loading import load_model
from vitcli.models.engine import Engine, Judged, TorchEngine
from vitcli.models.prepare import prepare
from vitcli.processes import end_with_parent
from vitcli.records import Batch, ImageRef
from vitcli.tasks.bench.memory import family_peak, peak_memory
from vitcli.tasks.bench.protocol import (
    Ended,
    Event,
    Exported,
    Exporting,
    Note,
    Outputs,
    Pixels,
    Read,
    Skipped,
    Timed,
    Trial,
)

Found: TypeAlias = dict[int, NDArray[np.float32]]
"""What came out for each picture that was taken: (D + K,)"""

LONGEST = 2.0  # seconds for one batch size
RUNS, SHORTEST = 10, 0.25  # so many runs in so many seconds are enough for a median
LONGEST_PASS, SHORTEST_PASS = 5.0, 1.5  # the same for reading files
WARM = 3  # batches that are read ahead of the first


def main(pipe: Connection) -> None:
    """The process: a Trial in, events out."""
    trial: Trial = pipe.recv()
    end_with_parent(pipe)  # nothing more is sent through it
    try:
        _run(trial, pipe.send)
    except VitError as error:
        pipe.send(Ended(error.message))
    else:
        pipe.send(Ended())


def _run(trial: Trial, send: Callable[[Event], None]) -> None:
    model = load_model(trial.checkpoint, trial.options)
    engine = _engine(trial, model, send)
    if engine is None:
        return
    pictures: Pixels = np.load(trial.pictures)
    if trial.readings:
        _read(trial, engine, model, pictures, send)
        return
    outputs: Found = {}
    size = _time(trial, engine, pictures, outputs, send)
    _complete(engine, pictures, outputs, size, trial.deadline)
    send(_outputs(outputs))


def _engine(trial: Trial, model: Model, send: Callable[[Event], None]) -> Engine | None:
    """None where it had to be exported first."""
    name, dtype, quantize = (
        trial.candidate.engine,
        trial.candidate.dtype,
        trial.candidate.quantize,
    )
    if name == "torch":
        prepared = prepare(
            model.network,
            model.preprocess,
            trial.device,
            dtype,
            quantize=quantize,
            note=lambda text: send(Note(text)),
        )
        return TorchEngine(prepared, Judged())
    began, heard = time.monotonic(), list[str]()

    def note(text: str) -> None:
        heard.append(text)
        send(Exporting())

    folder = engines.exported(model, Judged(), name, quantize, note)
    if heard:
        send(Exported(time.monotonic() - began))
        return None
    return engines.open_exported(folder, name, dtype)


def _time(
    trial: Trial,
    engine: Engine,
    pictures: Pixels,
    outputs: Found,
    send: Callable[[Event], None],
) -> int:
    """Every batch size, smallest first, so that the peak of memory is that of the last one: the
    first run of each is not counted. The largest that was timed."""
    per_image, largest = 0.0, trial.batch_sizes[0]
    for place, size in enumerate(trial.batch_sizes):
        left = trial.deadline - time.monotonic()
        if place and (size - 1 + size) * per_image > left:
            send(Skipped(_batches(trial.batch_sizes[place:])))
            break
        share = min(LONGEST, left / (len(trial.batch_sizes) - place))
        try:
            times = list(_times(engine, pictures, size, share, outputs))
        except (MemoryError, RuntimeError) as error:
            if not place:
                raise DeviceFault(error) from None
            send(Note(f"{trial.candidate}, batch {size}: {_first_line(error)}"))
            break
        median = float(np.median(times))
        per_image, largest = median / size, size
        send(Timed(size, median, peak_memory(), _device_peak(trial.device)))
    return largest


class DeviceFault(VitError):
    """An engine that fails at its work."""

    def __init__(self, error: Exception) -> None:
        super().__init__(_first_line(error))


def _times(
    engine: Engine,
    pictures: Pixels,
    size: int,
    seconds: float,
    outputs: Found,
) -> Iterator[float]:
    """Seconds of each run but the first, two runs or more, as many as fit."""
    began = time.monotonic()
    for number in count():  # the first is not counted
        places = np.arange(number * size, (number + 1) * size) % len(pictures)
        batch = pictures[places]
        started = time.perf_counter()
        found = engine(batch)
        took = time.perf_counter() - started
        outputs.update(zip(places.tolist(), found.numpy(), strict=True))
        if number:
            yield took
            spent = time.monotonic() - began
            if spent + took > seconds or (number >= RUNS and spent > SHORTEST):
                return


def _complete(engine: Engine, pictures: Pixels, outputs: Found, size: int, deadline: float) -> None:
    """The pictures that timing did not come to, while there is time."""
    missing = [number for number in range(len(pictures)) if number not in outputs]
    for start in range(0, len(missing), size):
        if time.monotonic() > deadline:
            return
        places = missing[start : start + size]
        outputs.update(zip(places, engine(pictures[places]).numpy(), strict=True))


def _outputs(found: Found) -> Outputs:
    numbers = sorted(found)
    return Outputs(np.array(numbers, dtype=np.int64), np.stack([found[n] for n in numbers]))


def _read(
    trial: Trial, engine: Engine, model: Model, pictures: Pixels, send: Callable[[Event], None]
) -> None:
    """Files over and over again, as `vit classify` reads them, one way after the other; and what
    comes of `pictures`, which were read fast."""
    [size], per_batch = trial.batch_sizes, 0.0
    is_judged = False
    for place, reading in enumerate(trial.readings):
        left = trial.deadline - time.monotonic()
        if left < 2 * per_batch or (place and left <= 0):
            for later in trial.readings[place:]:
                send(Skipped(str(later)))
            return
        share = left / (len(trial.readings) - place)
        if reading.decode == "fast" and not is_judged:
            outputs: Found = {}
            _complete(engine, pictures, outputs, size, time.monotonic() + share / 2)
            send(_outputs(outputs))
            is_judged = True
        plan = replace(model.preprocess, decode=reading.decode)
        refs = (ImageRef(number, path) for number, path in enumerate(cycle(trial.files)))
        job = DecodeJob((plan,), trial.limits)
        batches = iter_batches(
            refs, job, lambda: size, reading.workers, lambda text: send(Note(text))
        )
        with closing(batches):
            rate, per_batch = _pump(engine, batches, min(LONGEST_PASS, share))
            peak = family_peak() if reading.workers else peak_memory()
        send(Read(reading, rate, peak))


def _pump(engine: Engine, batches: Iterable[Batch], seconds: float) -> tuple[float, float]:
    """(images a second, seconds for a batch) once the run is under way: what was read ahead of the
    first batch is not counted."""
    began, started, first, images = time.monotonic(), 0.0, 0, 0
    for number, batch in enumerate(batches, start=1):
        if batch.refs:
            engine(batch.pixels[0])
        images += len(batch.refs) + len(batch.failures)
        now = time.monotonic()
        if not started:
            if number == WARM or now - began > seconds / 3:
                started, first = now, images
        elif (spent := now - began) > seconds or (number > RUNS + WARM and spent > SHORTEST_PASS):
            return (images - first) / (now - started), (now - began) / number
    raise AssertionError("files do not end")


def _device_peak(device: str) -> int | None:
    """The peak memory of a GPU in bytes, as far as torch reports it."""
    is_cuda = device.startswith("cuda")
    return torch.cuda.max_memory_allocated(device) if is_cuda else None


def _batches(sizes: tuple[int, ...]) -> str:
    return f"batch {', '.join(map(str, sizes))}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
