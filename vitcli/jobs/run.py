"""A run: read the images of a listing, and compute their rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from threading import Thread
from typing import cast

from vitcli import pipeline
from vitcli.engines import check_engine
from vitcli.errors import Interrupted, WriteError
from vitcli.images.job import DecodeJob
from vitcli.images.loader import iter_batches, iter_parts
from vitcli.images.workers import default_workers
from vitcli.jobs.batching import GrowingBatch
from vitcli.jobs.job import Inputs, Reporter, Running, Summary
from vitcli.jobs.listing import Listing, list_images
from vitcli.records import Batch, FoundImage, ImageRef, Preprocess, Progress, Row, Sink

MAX_COUNTING = 1.0  # seconds to count the images for a message
MIXED = 128  # images of several sizes to read at a time for a GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """How to compute the rows of a run. `plans` preprocess each image, `forward` turns a batch into
    rows, and `meta` describes the models. With `reads_again`, `forward` reads the images again. On
    a GPU, `start` launches a batch before the rows of the previous one are computed."""

    plans: tuple[Preprocess, ...] = ()
    forward: pipeline.Forward
    meta: Mapping[str, object] = field(default_factory=dict)
    reads_again: bool = False
    start: Callable[[Batch], None] | None = None


@dataclass(slots=True)
class Run:
    """Computes the rows of the images of a listing. Raises DeviceError for an engine that is not
    installed."""

    inputs: Inputs
    running: Running
    reporter: Reporter
    listing: Listing
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        check_engine(self.running.engine)

    def over(self, images: Sequence[FoundImage]) -> Run:
        """Return a run with the same options over other images."""
        return Run(self.inputs, self.running, self.reporter, list_images(images))

    def resume(self, progress: Progress) -> None:
        """Add to the counts of an earlier run from now on."""
        self.progress = progress

    def into(self, sink: Sink, work: Computation) -> Summary:
        """Compute the rows of all images, and write them to a sink. This cannot be resumed."""
        with completing(sink), self.explaining(can_resume=False):
            self.compute(work, self.listing.refs(), sink)
            self.inputs.tolerance.check(self.progress, is_last=True)
            sink.finish({**work.meta, **self.summary().counts})
        return self.summary()

    def rows(self, work: Computation) -> Generator[Row, None, None]:
        """Compute the rows of all images, and yield them as soon as their batch is done. The
        workers end with the generator."""
        with self._reading(work, self.listing.refs()) as (batches, forward):
            for batch in batches:
                rows = pipeline.rows_of(batch, forward)
                pipeline.count(self.progress, rows)
                self.advance(self.progress)
                yield from rows

    def compute(self, work: Computation, refs: Iterable[ImageRef], sink: Sink) -> None:
        """Compute the rows of these images, and write them to a sink, which stays open."""
        with self._reading(work, refs) as (batches, forward):
            pipeline.run(batches, forward, sink, self.advance, self.progress)

    @contextmanager
    def _reading(
        self, work: Computation, refs: Iterable[ImageRef]
    ) -> Iterator[tuple[Iterator[Batch], pipeline.Forward]]:
        """Open the batches of these images, and the function that computes the rows of one."""
        self.reporter.listing(self.listing.count)
        refs = iter(refs)
        if (first := next(refs, None)) is None:
            yield iter(()), work.forward  # without importing torch
            return
        load, device = self._loading()
        job = DecodeJob(work.plans, self.inputs.limits, self.inputs.formats)
        fills = device != "cpu" and any(plan.varies for plan in work.plans)
        size, forward = self._batching(work.forward, fills=fills)
        refs = chain((first,), refs)
        workers, note = self.running.workers, self.reporter.note
        if workers is None:
            workers = default_workers(device)
        batches = iter_batches(refs, job, size, workers, note, keeps_data=work.reads_again)
        with closing(batches):
            loaded = load(batches)
            if work.start is not None and not fills:  # else the batch is not what is computed
                from vitcli.images.stream import one_ahead

                loaded = one_ahead(loaded, partial(_started, work.start, size))
            yield loaded, forward

    def _loading(self) -> tuple[Callable[[Iterator[Batch]], Iterator[Batch]], str]:
        """Return the function that brings batches to the device of the run, and its type."""
        if self.running.engine != "torch":  # runs without torch
            return iter, "cpu"
        from vitcli.images.stream import iter_loaded
        from vitcli.models.prepare import choose_device

        device = choose_device(self.running.device)
        return partial(iter_loaded, device=device), device.type

    def _batching(
        self, forward: pipeline.Forward, *, fills: bool
    ) -> tuple[Callable[[], int], pipeline.Forward]:
        """Return two functions: one returns how many images to read next, the other runs them. With
        `fills`, enough images of several sizes are read to fill most batches of one size; a CPU,
        which computes a few images at a time, does not need that."""
        size = self.running.batch_size
        growing = GrowingBatch(self.reporter.note) if size == "auto" else None
        batch: Callable[[], int] = growing or (lambda: cast(int, size))
        forward = in_parts(forward, batch if fills else lambda: None)
        count = (lambda: max(MIXED, batch())) if fills else batch
        return count, forward if growing is None else growing.timed(forward)

    def summary(self) -> Summary:
        """The counts and the seconds of the run so far."""
        progress = self.progress
        return Summary(
            progress.done,
            progress.failed,
            time.monotonic() - self.started,
            len(self.listing.omissions.unlisted),
            len(self.listing.omissions.skipped),
            earlier=progress.earlier,
        )

    @contextmanager
    def explaining(self, *, can_resume: bool) -> Iterator[None]:
        """Add the number of images done to an interruption or a write error."""
        try:
            yield
        except Interrupted as interrupted:
            interrupted.after = f"{self.progress.seen:,}{self._of_all()} images"
            interrupted.can_resume = can_resume
            raise
        except WriteError as error:
            if can_resume and self.progress.seen:
                error.message += f" ({self.progress.seen:,}{self._of_all()} images done)"
                error.hint = ", then ".join(filter(None, (error.hint, "repeat with --resume")))
            raise

    def _of_all(self) -> str:
        """Return ` of 5,000` if the images can be counted within MAX_COUNTING seconds, else ""."""
        counts: list[int | None] = []
        counting = Thread(target=lambda: counts.append(self.listing.count()), daemon=True)
        counting.start()
        counting.join(MAX_COUNTING)
        return f" of {counts[0]:,}" if counts and counts[0] is not None else ""

    def advance(self, progress: Progress) -> None:
        """Report the progress. Raise TooManyErrors if the limit is exceeded."""
        self.reporter.progress(progress)
        self.inputs.tolerance.check(progress)


@contextmanager
def completing(sink: Sink) -> Iterator[Sink]:
    """Abort the sink if the run does not finish."""
    try:
        yield sink
    except BaseException:
        sink.abort()
        raise


def _started(
    start: Callable[[Batch], None], size: Callable[[], int], batch: Batch
) -> Callable[[], Batch]:
    """Launch a batch, unless it is timed to find the best size. It is on its device."""
    if batch.refs and (not isinstance(size, GrowingBatch) or size.is_settled):
        start(batch)
    return lambda: batch


def in_parts(forward: pipeline.Forward, size: Callable[[], int | None]) -> pipeline.Forward:
    """Return a `forward` that takes batches of images of several sizes, and runs those of one size
    together, at most `size()` of them if it is a number."""
    return lambda batch: list(chain.from_iterable(map(forward, iter_parts(batch, size()))))
