"""A batch size that grows while it helps, and an engine that shrinks one that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.conftest import Vit
from tests.fixtures.photos import Corpus
from vitcli.errors import DeviceError
from vitcli.jobs.batching import FIRST_SIZE, MAX_SIZE, GrowingBatch
from vitcli.jobs.job import SILENT, Inputs, Running
from vitcli.jobs.listing import list_images
from vitcli.jobs.loading import starter
from vitcli.jobs.run import MIXED, Computation, Run
from vitcli.models.engine import SplittingEngine
from vitcli.pipeline import in_order
from vitcli.records import (
    Batch,
    Classified,
    FoundImage,
    ImageRef,
    Pixels,
    Prediction,
    Preprocess,
    Row,
)
from vitcli.sinks.memory import ListSink

EXAMPLES = Path(__file__).parents[2] / "examples"
TOO_MUCH = 1 << 60  # bytes


class Clock:
    """A network whose seconds are known."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.now = 0.0
        self.seconds = seconds

    def __call__(self) -> float:
        return self.now

    def forward(self, batch: Batch) -> list[Row]:
        self.now += self.seconds(len(batch.refs))
        return []


def batch_of(size: int) -> Batch:
    return Batch(tuple(ImageRef(i, str(i)) for i in range(size)), ())


def sizes(seconds: Callable[[int], float], batches: int) -> tuple[list[int], list[str]]:
    clock, notes = Clock(seconds), list[str]()
    growing = GrowingBatch(notes.append, clock)
    forward = growing.timed(clock.forward)
    taken = []
    for _ in range(batches):
        taken.append(growing())
        forward(batch_of(growing()))
    return taken, notes


def test_a_network_as_fast_with_any_batch_stays_at_the_first() -> None:
    taken, notes = sizes(lambda images: images * 0.1, 8)
    assert taken == [FIRST_SIZE, FIRST_SIZE, 32, 32, FIRST_SIZE, FIRST_SIZE, FIRST_SIZE, FIRST_SIZE]
    assert notes == ["--batch-size auto: 16 images at a time"]


def test_images_of_several_sizes_fill_the_batches_of_a_gpu() -> None:
    """So many are read at a time that images of one size meet; they run in batches as asked."""
    ran: list[int] = []
    run = Run(Inputs(), Running(batch_size=4), SILENT, list_images([]))
    pixels = tuple(np.zeros((8 + 8 * (n % 3 == 0), 8, 3), np.uint8) for n in range(18))
    refs = tuple(ImageRef(n, str(n)) for n in range(18))
    batch = Batch(refs, (pixels,), sizes=((8, 8),) * 18, seconds=(0.0,) * 18)

    def forward(part: Batch) -> list[Row]:
        ran.append(len(part.refs))
        return [Classified(ref, ()) for ref in part.refs]

    count, in_batches = run._batching(forward, fills=True)
    assert count() == MIXED and len(in_order(in_batches(batch), ())) == 18
    assert ran == [4, 2, 4, 4, 4]
    ran.clear()
    count, in_batches = run._batching(forward, fills=False)
    assert count() == 4 and [row.ref.index for row in in_order(in_batches(batch), ())] == [
        *range(18)
    ]
    assert ran == [6, 12]


def test_it_doubles_while_more_images_a_second_come_of_it() -> None:
    """A second for every batch up to 64, and as many more for larger ones."""
    taken, notes = sizes(lambda images: max(1.0, images / 64), 10)
    assert taken == [16, 16, 32, 32, 64, 64, 128, 128, 64, 64]
    assert notes == ["--batch-size auto: 64 images at a time"]


def test_it_does_not_grow_for_ever() -> None:
    taken, notes = sizes(lambda images: 1.0, 20)
    assert max(taken) == taken[-1] == MAX_SIZE
    assert len(notes) == 1


def test_batches_of_an_earlier_size_teach_nothing() -> None:
    clock = Clock(lambda images: 1.0)
    growing = GrowingBatch(lambda text: None, clock)
    forward = growing.timed(clock.forward)
    for _ in range(2):
        forward(batch_of(FIRST_SIZE))
    assert growing() == 2 * FIRST_SIZE
    for _ in range(5):
        forward(batch_of(FIRST_SIZE))  # decoded ahead, when the size was another
    assert growing() == 2 * FIRST_SIZE


def test_auto_gives_the_rows_of_any_other_batch_size(vit: Vit) -> None:
    fixed = vit("classify", EXAMPLES, "-m", "demo")
    auto = vit("classify", EXAMPLES, "-m", "demo", "-b", "auto")
    assert auto.code == 0
    assert auto.out == fixed.out


def test_a_batch_size_that_is_none_is_told(vit: Vit) -> None:
    result = vit("classify", EXAMPLES, "-m", "demo", "-b", "many")
    assert (result.code, result.out) == (2, b"")
    assert "--batch-size many" in result.err and "or auto" in result.err


class Narrow:
    """An engine with memory for so many images, which fails in torch's own words."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken: list[int] = []

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.taken.append(len(pixels))
        if len(pixels) > self.most:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return pixels.astype(np.float32)


PIXELS = np.arange(10, dtype=np.uint8)[:, None]


@pytest.mark.parametrize("most", [1, 2, 3, 10])
def test_a_batch_that_does_not_fit_is_halved_and_keeps_every_row(most: int) -> None:
    engine, notes = Narrow(most), list[str]()
    thrifty = SplittingEngine(engine, notes.append)
    assert thrifty(PIXELS).flatten().tolist() == list(range(10))
    tried = len(engine.taken)
    assert thrifty(PIXELS).flatten().tolist() == list(range(10))
    assert max(engine.taken[tried:]) <= most  # what was learned stays
    assert len(notes) == {10: 0, 3: 2, 2: 2, 1: 3}[most]
    assert all("not enough memory" in note for note in notes)


def test_a_single_image_that_does_not_fit_ends_the_run_and_says_what_was_asked_for() -> None:
    with pytest.raises(DeviceError, match=f"one image: {TOO_MUCH} bytes more") as caught:
        SplittingEngine(Narrow(0))(PIXELS)
    assert caught.value.hint is not None and "--image-size" in caught.value.hint


def test_another_fault_of_an_engine_is_not_taken_for_it() -> None:
    def broken(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        SplittingEngine(broken)(PIXELS)


class OnDevice:
    """A network on a device that computes by itself, with memory for `most` images."""

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.events: list[str] = []

    def start(self, pixels: Pixels) -> Callable[[], NDArray[np.float32]]:
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        number = sum("launch" in event for event in self.events)
        output = np.asarray(pixels, np.float32)
        self.events.append(f"launch {number}")

        def wait() -> NDArray[np.float32]:
            self.events.append(f"wait {number}")
            return output

        return wait

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        self.events.append("at once")
        return self.start(pixels)()


class Written(ListSink):
    """Says when rows are written."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def write(self, rows: Sequence[Row]) -> None:
        super().write(rows)
        self.events.append("write")


def run_on_device(device: OnDevice, running: Running, paths: Sequence[Path]) -> list[Row]:
    """Run the device on images, and return the rows, whose scores are the means of the pixels."""
    engine = SplittingEngine(device, launch=device.start)

    def forward(batch: Batch) -> list[Classified]:
        means = engine(batch.pixels_for()).mean(axis=(1, 2, 3)).tolist()
        found = zip(batch.refs, means, strict=True)
        return [Classified(ref, (Prediction("mean", 0, mean),)) for ref, mean in found]

    sink = Written(device.events)
    plan = Preprocess((8, 8), (8, 8))
    work = Computation(plans=(plan,), forward=forward, start=starter(engine))
    images = list_images([FoundImage(str(path)) for path in paths])
    Run(Inputs(), running, SILENT, images).into(sink, work)
    return sink.rows


def test_a_device_has_the_next_batch_before_the_rows_of_one_are_computed(photos: Corpus) -> None:
    """The third batch has no image that decodes, and the device gets nothing for it."""
    good, bad = photos.good[:7], list(photos.bad)[:2]
    paths = [*good[:4], *bad, *good[4:]]
    device = OnDevice()
    rows = run_on_device(device, Running(device="cpu", batch_size=2, workers=2), paths)
    assert device.events == [
        *("launch 0", "launch 1", "wait 0", "write", "wait 1", "write"),
        *("launch 2", "write", "launch 3", "wait 2", "write", "wait 3", "write"),
    ]
    narrow = OnDevice(1)
    running = Running(device="cpu", batch_size=2, workers=0)
    assert [*map(scores, run_on_device(narrow, running, paths))] == [*map(scores, rows)]
    assert narrow.events.count("at once") == 1 + 2 + 2 + 2  # the first with two images failed


def test_batches_that_are_timed_are_not_launched_ahead(photos: Corpus) -> None:
    device = OnDevice()
    run_on_device(device, Running(device="cpu", batch_size="auto", workers=0), photos.good[:20])
    assert device.events[0] == "at once"


def scores(row: Row) -> object:
    return row.predictions if isinstance(row, Classified) else row
