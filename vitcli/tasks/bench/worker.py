"""Time one candidate on ready images or on files, in the process of its trial.

`vitcli.tasks.bench.protocol` starts the process and receives its events.
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
from vitcli.images.job import DecodeJob
from vitcli.images.loader import iter_batches
from vitcli.jobs.job import Note, Running
from vitcli.jobs.loading import load_model, prepare_model
from vitcli.models.engine import Engine, Judged
from vitcli.models.prepare import TorchEngine
from vitcli.processes import end_with_parent
from vitcli.records import Batch, ImageRef, PixelArray
from vitcli.tasks.bench.memory import family_peak, peak_memory
from vitcli.tasks.bench.protocol import (
    Ended,
    Event,
    Exported,
    Exporting,
    Outputs,
    Read,
    Skipped,
    Timed,
    Trial,
)

OutputsByImage: TypeAlias = dict[int, NDArray[np.float32]]  # (D + K,) each
Send: TypeAlias = Callable[[Event], None]

MAX_SECONDS = 2.0  # for one batch size
MIN_RUNS, MIN_SECONDS = 10, 0.25  # enough for a median
MAX_READ_SECONDS, MIN_READ_SECONDS = 5.0, 1.5  # for one way to read files
WARMUP_BATCHES = 3  # read before the time counts


class EngineFault(VitError):
    """An engine that failed at the smallest batch size."""


def main(pipe: Connection) -> None:
    """Receive a trial, run it and send its events."""
    trial: Trial = pipe.recv()
    end_with_parent(pipe)  # nothing more arrives through it
    try:
        _run(trial, pipe.send)
    except VitError as error:
        pipe.send(Ended(error.message))
    else:
        pipe.send(Ended())


def _run(trial: Trial, send: Send) -> None:
    model = load_model(trial.checkpoint, trial.options)
    engine = _engine(trial, model, send)
    if engine is None:
        return
    images: PixelArray = np.load(trial.images)
    if trial.readings:
        _read(trial, engine, model, images, send)
        return
    outputs: OutputsByImage = {}
    size = _time(trial, engine, images, outputs, send)
    _complete(engine, images, outputs, size, trial.deadline)
    send(_outputs(outputs))


def _engine(trial: Trial, model: Model, send: Send) -> Engine | None:
    """Open the candidate's engine; export it and return None if it has no files yet."""
    candidate = trial.candidate
    if candidate.engine == "torch":
        running = Running(device=trial.device, dtype=candidate.dtype, quantize=candidate.quantize)
        prepared = prepare_model(model, running, lambda text: send(Note(text)))
        return TorchEngine(prepared, Judged())
    began, notes = time.monotonic(), list[str]()

    def note(text: str) -> None:  # called only before an export
        notes.append(text)
        send(Exporting())

    folder = engines.exported(model, Judged(), candidate.engine, candidate.quantize, note)
    if notes:
        send(Exported(time.monotonic() - began))
        return None
    return engines.open_exported(folder, candidate.engine, candidate.dtype)


def _time(
    trial: Trial, engine: Engine, images: PixelArray, outputs: OutputsByImage, send: Send
) -> int:
    """Time every batch size and return the largest that was timed. Sizes ascend, so the peak
    memory so far belongs to the current size."""
    per_image, largest = 0.0, trial.batch_sizes[0]
    for place, size in enumerate(trial.batch_sizes):
        left = trial.deadline - time.monotonic()
        if place and (size - 1 + size) * per_image > left:
            send(Skipped(f"batch {', '.join(map(str, trial.batch_sizes[place:]))}"))
            break
        share = min(MAX_SECONDS, left / (len(trial.batch_sizes) - place))
        try:
            times = list(_times(engine, images, size, share, outputs))
        except (MemoryError, RuntimeError) as error:
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            if not place:
                raise EngineFault(why) from None
            send(Note(f"{trial.candidate}, batch {size}: {why}"))
            break
        median = float(np.median(times))
        per_image, largest = median / size, size
        send(Timed(size, median, peak_memory(), _device_peak(trial.device)))
    return largest


def _times(
    engine: Engine, images: PixelArray, size: int, seconds: float, outputs: OutputsByImage
) -> Iterator[float]:
    """Yield the seconds of each run after a warm-up: at least one run, and more while time is
    left."""
    began = time.monotonic()
    for number in count():
        places = np.arange(number * size, (number + 1) * size) % len(images)
        batch = images[places]
        started = time.perf_counter()
        output = engine(batch)
        took = time.perf_counter() - started
        outputs.update(zip(places.tolist(), output, strict=True))
        if number:
            yield took
            spent = time.monotonic() - began
            if spent + took > seconds or (number >= MIN_RUNS and spent > MIN_SECONDS):
                return


def _complete(
    engine: Engine, images: PixelArray, outputs: OutputsByImage, size: int, deadline: float
) -> None:
    """Compute the outputs that are still missing, until the deadline."""
    missing = [number for number in range(len(images)) if number not in outputs]
    for start in range(0, len(missing), size):
        if time.monotonic() > deadline:
            return
        places = missing[start : start + size]
        outputs.update(zip(places, engine(images[places]), strict=True))


def _outputs(outputs: OutputsByImage) -> Outputs:
    numbers = sorted(outputs)
    return Outputs(np.array(numbers, dtype=np.int64), np.stack([outputs[n] for n in numbers]))


def _read(trial: Trial, engine: Engine, model: Model, images: PixelArray, send: Send) -> None:
    """Read the files over and over in each way, as `vit classify` does. Before the first reading
    with `--decode fast`, send the outputs for `images`, which were decoded so."""
    [size], per_batch = trial.batch_sizes, 0.0
    is_compared = False
    for place, reading in enumerate(trial.readings):
        left = trial.deadline - time.monotonic()
        if left < 2 * per_batch or (place and left <= 0):
            for later in trial.readings[place:]:
                send(Skipped(str(later)))
            return
        share = left / (len(trial.readings) - place)
        if reading.decode == "fast" and not is_compared:
            outputs: OutputsByImage = {}
            _complete(engine, images, outputs, size, time.monotonic() + share / 2)
            send(_outputs(outputs))
            is_compared = True
        refs = (ImageRef(number, path) for number, path in enumerate(cycle(trial.files)))
        job = DecodeJob((replace(model.preprocess, decode=reading.decode),), trial.limits)
        batches = iter_batches(
            refs, job, lambda: size, reading.workers, lambda text: send(Note(text))
        )
        with closing(batches):
            rate, per_batch = _pump(engine, batches, min(MAX_READ_SECONDS, share))
            peak = family_peak() if reading.workers else peak_memory()
        send(Read(reading, rate, peak))


def _pump(engine: Engine, batches: Iterable[Batch], seconds: float) -> tuple[float, float]:
    """Run batches for about `seconds`. Return images per second, without the warm-up, and seconds
    per batch."""
    began, started, first, images = time.monotonic(), 0.0, 0, 0
    for number, batch in enumerate(batches, start=1):
        if batch.refs:
            engine(batch.pixels_for())
        images += len(batch.refs) + len(batch.failures)
        now = time.monotonic()
        if not started:
            if number == WARMUP_BATCHES or now - began > seconds / 3:
                started, first = now, images
            continue
        spent, is_enough = now - began, number > MIN_RUNS + WARMUP_BATCHES
        if spent > seconds or (is_enough and spent > MIN_READ_SECONDS):
            return (images - first) / (now - started), (now - began) / number
    raise AssertionError("the files never end")


def _device_peak(device: str) -> int | None:
    """The peak memory of a GPU in bytes, if torch reports it."""
    is_cuda = device.startswith("cuda")
    return torch.cuda.max_memory_allocated(device) if is_cuda else None
