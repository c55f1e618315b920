"""The steps that every command takes: list, load, prepare, and the run itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Protocol, TypeAlias

from vitcli import pipeline
from vitcli.checkpoints.resolve import Checkpoint, resolve
from vitcli.engines import check_engine
from vitcli.errors import InputError, Interrupted, UsageError, WriteError, printable
from vitcli.files import is_special
from vitcli.images import sources
from vitcli.images.loader import iter_batches
from vitcli.images.members import UnreadableMember, unreadable
from vitcli.images.scan import Omissions, Scan, choose_scan
from vitcli.images.workers import DecodeJob
from vitcli.interrupts import interrupts
from vitcli.jobs.apart import (
    check_apart,
    read_of_inputs,
    read_of_model,
    read_of_options,
    written_of,
)
from vitcli.jobs.batching import GrowingBatch
from vitcli.jobs.job import Inputs, ModelOptions, Reporter, Running, Summary
from vitcli.jobs.loading import load_model
from vitcli.records import Batch, ErrorType, ImageRef, Preprocess, Progress, Row, Sink
from vitcli.runs.fingerprint import describe_weights, fingerprint
from vitcli.runs.recording import Recording
from vitcli.runs.shard import Resuming, Shard
from vitcli.sinks import Form
from vitcli.sinks.files import Target

if TYPE_CHECKING:  # they import torch, for which a run with nothing to do does not wait
    from vitcli.checkpoints.load import Model
    from vitcli.models.engine import Engine, Output
    from vitcli.models.prepare import Prepared

Spec: TypeAlias = "str | Checkpoint | Model"
COUNTING = 1.0  # seconds to find out of how many images something is said
SAME_NAME = "an image before it in the archive has the same name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A model at work: how its pixels are made, its rows of a batch, and what is told of it."""

    plans: tuple[Preprocess, ...] = ()
    forward: pipeline.Forward
    meta: Mapping[str, object]
    reads_again: bool = False  # what it draws are the images themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where rows go, and what becomes of those that an earlier run has written there.

    `options` is what a row depends on besides its image and the weights, `defaults` their defaults.
    """

    out: Path | None
    form: Form
    command: str
    options: Mapping[str, object]
    defaults: Mapping[str, object]
    overwrite: bool = False
    resuming: Resuming = Resuming()
    elsewhere: Mapping[str, Path] = field(default_factory=dict)  # by suffix, as Target's

    def target(self) -> Target:
        shard, out = self.resuming.shard, self.out
        if shard is not None:
            if out is None or is_special(out):
                raise UsageError("a shard is a file", "name it with --out FILE")
            out = shard.named(out)
        overwrite = self.overwrite or self.resuming.resume
        return Target(out, overwrite=overwrite, elsewhere=self.elsewhere)


# What a row does not depend on, or what is in the fingerprint by itself.
NOT_IN_ROWS = (
    frozenset(
        (
            "inputs",
            "model",
            "models",
            "options",
            "running",
            "out",
            "format",
            "overwrite",
            "resuming",
        )
    )
    | {"offline", "device", "workers"}
    | {"html", "echo", "show"}
)


class Job(Protocol):
    """What the jobs that write rows have in common: dataclasses with these and their own fields."""

    @property
    def options(self) -> ModelOptions: ...

    @property
    def running(self) -> Running: ...


def row_options(job: Job) -> dict[str, object]:
    """Everything in a job that a row depends on besides its image and the weights: an option that
    is new counts, unless it is named in NOT_IN_ROWS."""
    nouns = (job.options, job.running, job)
    return {f.name: getattr(noun, f.name) for noun in nouns for f in _row_fields(noun)}


def row_defaults(job: Job) -> dict[str, object]:
    """The default values of the options that a row depends on."""
    nouns = (job.options, job.running, job)
    known = (f for noun in nouns for f in _row_fields(noun))
    return {f.name: f.default for f in known if f.default is not MISSING}


def _row_fields(noun: object) -> list[Field[object]]:
    found = fields(noun)  # type: ignore[arg-type]  # of a protocol, not of dataclasses alone
    return [f for f in found if f.name not in NOT_IN_ROWS]


@dataclass(slots=True)
class Run:
    """The steps that every command takes, in the order in which a mistake is found cheaply."""

    inputs: Inputs
    running: Running
    watcher: Reporter
    omissions: Omissions = field(init=False)  # of the scans
    listed: list[sources.Source] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    chosen: int = 0  # rows of an earlier run that --select has let through
    shard: Shard | None = None
    is_once: bool = False  # a name comes once in an archive
    is_absolute: bool = False  # as the first input is named
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.omissions = Omissions(self.watcher.note)

    def list_inputs(self) -> None:
        """Raises InputError for a directory or pattern without images, DeviceError for an engine
        that is not installed."""
        check_engine(self.running.engine)
        inputs, scan = self.inputs, self.scan()
        self.listed = sources.open_sources(
            inputs.paths,
            files_from=inputs.files_from,
            null=inputs.null,
            scan=scan if inputs.extensions else scan.with_archives,
        )
        if absent := sources.all_absent(self.listed):
            count = f" (and {len(absent) - 1:,} more)" if len(absent) > 1 else ""
            self.watcher.note(f"{printable(absent[0])} does not exist{count}: nothing can be read")

    def scan(self) -> Scan:
        """Return the scan that the inputs ask for."""
        inputs = self.inputs
        return choose_scan(
            *(inputs.formats, inputs.extensions, inputs.limits, self.omissions),
            allow_outside=inputs.allow_outside,
        )

    def load(self, spec: Spec, options: ModelOptions) -> Model:
        """A model that is loaded already stays as it is."""
        if isinstance(spec, str | Checkpoint):
            return load_model(spec, options, self.watcher.note)
        return spec

    def prepare(self, model: Model) -> Prepared:
        from vitcli.models.prepare import prepare

        running = self.running
        return prepare(
            model.network,
            model.preprocess,
            running.device,
            running.dtype,
            quantize=running.quantize,
            compile=running.compile,
            note=self.watcher.note,
        )

    def engine(self, model: Model, output: Output) -> Engine:
        """What runs the model on a batch: torch, or the engine asked for."""
        from vitcli.checkpoints.engines import open_engine
        from vitcli.models.engine import SplittingEngine, TorchEngine

        running, note = self.running, self.watcher.note
        if running.engine == "torch":
            engine: Engine = TorchEngine(self.prepare(model), output)
        else:
            chosen = running.engine, running.dtype, running.quantize
            engine = open_engine(model, output, *chosen, note)
        return SplittingEngine(engine, note, shares_ranges=running.quantize is not None)

    def into(self, sink: Sink, work: Ready) -> Summary:
        """Take the inputs through the model into a sink that only receives."""
        with completing(sink), self._telling(can_resume=False):
            self._pump(work, self._refs(), sink)
            self.inputs.tolerance.check(self.progress, is_last=True)
            sink.finish(self._meta(work))
        return self.summary(self.progress)

    def write(
        self,
        output: Destination,
        specs: Sequence[str | Model],
        make_ready: Callable[[Sequence[Spec]], Ready],
        *,
        offline: bool = False,
    ) -> Summary:
        """Take the inputs through the model into files; what an earlier run has done stays done.

        A second round follows where the interrupted run has rows that are out of date by now.
        """
        self.shard = output.resuming.shard
        target = output.target()
        target.check(*output.form.suffixes)
        if target.is_special:
            if output.form.is_sealed:
                raise UsageError("Parquet cannot be written to a pipe", "name a file with --out")
            if output.resuming.resume:
                raise UsageError("a pipe cannot be resumed", "write to a file with --out")
            work = make_ready(specs)
            return self.into(output.form.open(target, work.meta), work)
        if output.resuming.resume:
            self._hold_stdin()
        with self._telling(can_resume=True):
            found = [resolve(s, offline=offline) if isinstance(s, str) else s for s in specs]
            load_once = cache(lambda: make_ready(found))
            files = [m.weights if isinstance(m, Checkpoint) else m.files for m in found]
            self._check_apart(target, output, files)
            while self._round(output, files, load_once):
                self.progress = Progress()
        return self.summary(self.progress)

    def _check_apart(
        self, target: Target, output: Destination, weights: Sequence[Sequence[Path]]
    ) -> None:
        """Raises OutputError where the run would overwrite what it reads."""
        assert target.out is not None
        names = (target.out, *map(target.beside, output.form.suffixes))
        read = chain(
            read_of_model([path for files in weights for path in files]),
            read_of_options(output.options),
            read_of_inputs(self.inputs),
        )
        check_apart(written_of(names), read)

    def _round(
        self, output: Destination, weights: Sequence[Sequence[Path]], load_once: Callable[[], Ready]
    ) -> bool:
        """Whether another round has to follow."""
        target = output.target()
        assert target.out is not None
        with Recording(
            target,
            output.form.suffixes,
            lambda: self._refs(stamped=True),
            asked=output.resuming,
            overwrite=output.overwrite,
            data_start=output.form.data_start,
            is_sealed=output.form.is_sealed,
            has_unlisted=lambda: bool(self.omissions.unlisted),
            has_files=output.form.has_files,
        ) as record:
            described = describe_weights(weights, record.known())
            options = {**output.options, "shard": self.shard and str(self.shard)}
            defaults = {**output.defaults, "shard": None}
            record.plan(fingerprint(output.command, described, options, defaults))
            self.progress, self.chosen = record.progress, record.chosen
            self.watcher.progress(self.progress)
            if record.failed_before and not record.is_stale:
                self.watcher.note(_failed_before(record.failed_before, self.progress.failed))
            if record.is_complete:
                self.watcher.note(f"{target.out} is already complete")
                return False
            work = (
                load_once()
                if record.header is None or record.needs_model
                else _idle(record.header.meta)
            )
            header = {"meta": work.meta, "weights": described}
            sink = record.begin(
                lambda files: output.form.open(files, work.meta), header, self._on_progress
            )
            with completing(sink):
                self._pump(work, record.items(), sink)
                sink.write_kept()
                self.inputs.tolerance.check(self.progress, is_last=True)
                with interrupts.held():
                    sink.finish(self._meta(work))
            return record.is_stale

    def _pump(self, work: Ready, refs: Iterable[ImageRef], sink: Sink) -> None:
        job = DecodeJob(work.plans, self.inputs.limits, self.inputs.formats)
        self.watcher.listing(self.count)
        size, forward = self._batching(work.forward)
        workers, note = self.running.workers, self.watcher.note
        batches = iter_batches(refs, job, size, workers, note, keeps_data=work.reads_again)
        with closing(batches):
            pipeline.run(batches, forward, sink, self._on_progress, self.progress)

    def _batching(self, forward: pipeline.Forward) -> tuple[Callable[[], int], pipeline.Forward]:
        """The size of the next batch, and what runs it."""
        size = self.running.batch_size
        if size != "auto":
            return lambda: size, forward
        growing = GrowingBatch(self.watcher.note)
        return growing, growing.timed(forward)

    def _meta(self, work: Ready) -> dict[str, object]:
        """What is told of the run: the model, and how it went."""
        summary = self.summary(self.progress)
        return {
            **work.meta,
            "images": summary.done,
            "failed": summary.failed,
            "seconds": round(summary.seconds, 3),
        }

    def summary(self, progress: Progress) -> Summary:
        seconds = time.monotonic() - self.started
        return Summary(
            progress.done,
            progress.failed,
            seconds,
            len(self.omissions.unlisted),
            len(self.omissions.skipped),
            earlier=progress.earlier,
        )

    def _refs(self, *, stamped: bool = False) -> Iterator[ImageRef]:
        """Our inputs, with their places among all."""
        self.omissions.clear()
        refs = sources.iter_refs(self.listed, stamped=stamped)
        first = next(refs, None)
        self.is_absolute = first is not None and first.path.startswith("/")
        refs = refs if first is None else chain((first,), refs)
        for ref in once_each(refs) if self.is_once else refs:
            if self.shard is None or self.shard.has(ref.path):
                yield ref
        self.omissions.note_system()
        if not self.inputs.extensions:
            self.omissions.note_unread()

    def count(self) -> int | None:
        return sources.count(self.listed) if self.shard is None else None

    def _hold_stdin(self) -> None:
        """Keep the list on standard input: a resumed run reads it twice."""
        self.listed = [source.rereadable() for source in self.listed]

    @contextmanager
    def _telling(self, *, can_resume: bool) -> Iterator[None]:
        """Say how far the run had come where it was interrupted or could not write on."""
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
        """` of 5,000`, where that is known soon."""
        found: list[int | None] = []
        counting = Thread(target=lambda: found.append(self.count()), daemon=True)
        counting.start()
        counting.join(COUNTING)
        return f" of {found[0]:,}" if found and found[0] is not None else ""

    def _on_progress(self, progress: Progress) -> None:
        self.watcher.progress(progress)
        self.inputs.tolerance.check(progress)


def once_each(refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
    """The second image of one name in an archive is a failure: the files of both would have one
    name. The names of one archive are remembered at a time, as hashes."""
    archive, seen = "", set[int]()
    for ref in refs:
        if ref.member is not None:
            if ref.member.archive != archive:
                archive, seen = ref.member.archive, set()
            if hash(ref.path) in seen and not isinstance(ref.member, UnreadableMember):
                ref = replace(ref, member=unreadable(ref.member, ErrorType.UNREADABLE, SAME_NAME))
            seen.add(hash(ref.path))
        yield ref


def _failed_before(paths: Sequence[str], count: int) -> str:
    """A run that was interrupted has not come to say which images failed."""
    more = f" and {count - len(paths):,} more" if count > len(paths) else ""
    named = ", ".join(map(printable, paths))
    return f"failed before the interruption: {named}{more}; the row of each says why"


def _idle(meta: Mapping[str, object]) -> Ready:
    """No model: every row is there already."""

    def forward(batch: Batch) -> Sequence[Row]:
        raise InputError(f"{printable(batch.refs[0].path)} has changed just now", "start again")

    return Ready(forward=forward, meta=meta)


@contextmanager
def completing(sink: Sink) -> Iterator[Sink]:
    """A sink that is left as a partial where the run does not come to its end."""
    try:
        yield sink
    except BaseException:
        sink.abort()
        raise
