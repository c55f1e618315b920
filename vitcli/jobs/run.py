"""A run: read the images of a listing, pass them through a model, and write the rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from vitcli import pipeline
from vitcli.checkpoints.resolve import Checkpoint, resolve
from vitcli.engines import check_engine
from vitcli.errors import InputError, Interrupted, WriteError, printable
from vitcli.images.job import DecodeJob
from vitcli.images.loader import iter_batches
from vitcli.interrupts import interrupts
from vitcli.jobs.apart import check_run
from vitcli.jobs.batching import GrowingBatch
from vitcli.jobs.job import Inputs, Reporter, Running, Summary
from vitcli.jobs.listing import Listing, list_images
from vitcli.jobs.loading import Spec
from vitcli.records import Batch, FoundImage, ImageRef, Preprocess, Progress, Row, Sink
from vitcli.runs.fingerprint import describe_weights
from vitcli.runs.output import Output
from vitcli.runs.recording import Recording
from vitcli.sinks.select import SelectSink

if TYPE_CHECKING:  # for types only: a run with nothing to do need not import torch
    from vitcli.checkpoints.load import Model

MAX_COUNTING = 1.0  # seconds to count the images for a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The loaded models of a run. `plans` preprocess each image, `forward` turns a batch into rows,
    and `meta` describes the models. With `reads_again`, `forward` reads the images once more."""

    plans: tuple[Preprocess, ...] = ()
    forward: pipeline.Forward
    meta: Mapping[str, object]
    reads_again: bool = False


@dataclass(slots=True)
class Run:
    """Runs a model over the images of a listing. Raises DeviceError for an engine that is not
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

    def into(self, sink: Sink, work: Ready, takes: Callable[[Row], bool] | None = None) -> Summary:
        """Compute all rows, and write those that `takes` accepts (by default all) to a sink. Such a
        run cannot be resumed."""
        if takes is not None:
            sink = SelectSink(sink, takes, self.progress)
        with completing(sink), self._explaining(can_resume=False):
            self._pump(work, self.listing.refs(), sink)
            self.inputs.tolerance.check(self.progress, is_last=True)
            sink.finish(self._meta(work))
        return self.summary()

    def write(
        self,
        output: Output,
        specs: Sequence[str | Model],
        make_ready: Callable[[Sequence[Spec]], Ready],
        *,
        offline: bool = False,
    ) -> Summary:
        """Compute the rows that are missing in the output, and write them.

        `make_ready` loads the models, at most once and only if an image has to be computed. If
        rows of an interrupted run are out of date, a second round replaces them. A pipe or a device
        gets all rows, and cannot be resumed.
        """
        output.check()
        if output.is_special:
            work = make_ready(specs)
            return self.into(output.open(work.meta), work, output.takes)
        if output.resuming.resume:
            self.listing.keep_stdin()
        with self._explaining(can_resume=True):
            models = [resolve(s, offline=offline) if isinstance(s, str) else s for s in specs]
            load_once = cache(lambda: make_ready(models))
            weights = [m.weights if isinstance(m, Checkpoint) else m.files for m in models]
            check_run(output.paths.values(), weights, output.options, self.inputs)
            while self._round(output, weights, load_once):
                self.progress = Progress()
        return self.summary()

    def _round(
        self, output: Output, weights: Sequence[Sequence[Path]], load_once: Callable[[], Ready]
    ) -> bool:
        """Write the rows that are missing, and return whether another round has to follow."""
        listed, unlisted = partial(self.listing.refs, stamped=True), self.listing.omissions.unlisted
        with Recording(output, listed, lambda: bool(unlisted)) as record:
            described = describe_weights(weights, record.known())
            record.plan(output.fingerprint(described))
            self.progress = record.progress
            self.reporter.progress(self.progress)
            if record.failed_before and not record.is_stale:
                self.reporter.note(_failed_before(record.failed_before, self.progress.failed))
            if record.is_complete:
                self.reporter.note(f"{output.target().out} is already complete")
                return False
            header = None if record.needs_model else record.header
            work = load_once() if header is None else _idle(header.meta)
            sink = record.begin(work.meta, described, self._on_progress)
            with completing(sink):
                self._pump(work, record.items(), sink)
                sink.write_kept()
                self.inputs.tolerance.check(self.progress, is_last=True)
                with interrupts.held():
                    sink.finish(self._meta(work))
            return record.is_stale

    def _pump(self, work: Ready, refs: Iterable[ImageRef], sink: Sink) -> None:
        self.reporter.listing(self.listing.count)
        refs = iter(refs)
        if (first := next(refs, None)) is None:
            return  # without importing torch
        from vitcli.images.stream import iter_loaded
        from vitcli.models.prepare import choose_device

        device = choose_device(self.running.device if self.running.engine == "torch" else "cpu")
        job = DecodeJob(work.plans, self.inputs.limits, self.inputs.formats)
        size, forward = self._batching(work.forward)
        refs = chain((first,), refs)
        workers, note = self.running.workers, self.reporter.note
        batches = iter_batches(refs, job, size, workers, note, keeps_data=work.reads_again)
        with closing(batches):
            pipeline.run(
                iter_loaded(batches, device), forward, sink, self._on_progress, self.progress
            )

    def _batching(self, forward: pipeline.Forward) -> tuple[Callable[[], int], pipeline.Forward]:
        """Return two functions: one returns the size of the next batch, the other runs a batch."""
        size = self.running.batch_size
        if size != "auto":
            return lambda: size, forward
        growing = GrowingBatch(self.reporter.note)
        return growing, growing.timed(forward)

    def _meta(self, work: Ready) -> dict[str, object]:
        """The meta of the models, with the counts and the seconds of the run."""
        summary = self.summary()
        return {
            **work.meta,
            "images": summary.done,
            "failed": summary.failed,
            "seconds": round(summary.seconds, 3),
        }

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
    def _explaining(self, *, can_resume: bool) -> Iterator[None]:
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

    def _on_progress(self, progress: Progress) -> None:
        self.reporter.progress(progress)
        self.inputs.tolerance.check(progress)


def _failed_before(paths: Sequence[str], count: int) -> str:
    """Describe the `count` images that failed before the interruption; `paths` are the first."""
    more = f" and {count - len(paths):,} more" if count > len(paths) else ""
    named = ", ".join(map(printable, paths))
    return f"failed before the interruption: {named}{more}; the row of each says why"


def _idle(meta: Mapping[str, object]) -> Ready:
    """Return a stand-in for the models, for a run that has no image to compute. If it has one after
    all, the run ends."""

    def forward(batch: Batch) -> Sequence[Row]:
        raise InputError(
            f"{printable(batch.refs[0].path)} has changed during the run", "run it again"
        )

    return Ready(forward=forward, meta=meta)


@contextmanager
def completing(sink: Sink) -> Iterator[Sink]:
    """Abort the sink if the run does not finish."""
    try:
        yield sink
    except BaseException:
        sink.abort()
        raise
