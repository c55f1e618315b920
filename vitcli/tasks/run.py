"""The steps that every command takes: list, load, prepare, and the run itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

from vitcli import pipeline
from vitcli.checkpoints.engines import check_installed, open_engine
from vitcli.checkpoints.load import Model, load
from vitcli.images import sources
from vitcli.images.decode import suffixes
from vitcli.images.loader import iter_batches
from vitcli.images.workers import DecodeJob
from vitcli.models.engine import Engine, Output, TorchEngine
from vitcli.models.prepare import Prepared, prepare
from vitcli.records import Preprocess, Progress, Sink
from vitcli.tasks.job import Inputs, ModelOptions, Running, Summary, Watcher


@dataclass(slots=True)
class Run:
    """The steps that every command takes, in the order in which a mistake is found cheaply."""

    inputs: Inputs
    running: Running
    watcher: Watcher
    unlisted: int = 0
    skipped: int = 0
    listed: list[sources.Source] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def list_inputs(self) -> None:
        """Raises InputError for a directory or pattern without images, DeviceError for an engine
        that is not installed."""
        if self.running.engine != "torch":
            check_installed(self.running.engine)
        inputs = self.inputs
        asked = frozenset("." + e.lower().removeprefix(".") for e in inputs.extensions)
        scan = sources.Scan(asked or suffixes(inputs.formats), self._note_unlisted, self._skip)
        self.listed = sources.open_sources(
            inputs.paths, files_from=inputs.files_from, null=inputs.null, scan=scan
        )

    def load(self, spec: str | Model, options: ModelOptions) -> Model:
        """A model that is loaded already stays as it is."""
        return spec if isinstance(spec, Model) else load_model(spec, options, self.watcher.note)

    def prepare(self, model: Model) -> Prepared:
        running = self.running
        return prepare(model.network, model.preprocess, running.device, running.dtype)

    def engine(self, model: Model, output: Output) -> Engine:
        """What runs the model on a batch: torch, or the engine asked for."""
        running = self.running
        if running.engine == "torch":
            return TorchEngine(self.prepare(model), output)
        note = self.watcher.note
        return open_engine(model, output, running.engine, running.dtype, running.quantize, note)

    def finish(
        self, plans: tuple[Preprocess, ...], forward: pipeline.Forward, sink: Sink
    ) -> Progress:
        """Take the inputs through the model into the sink."""
        job = DecodeJob(plans, self.inputs.limits, self.inputs.formats)
        self.watcher.listing(partial(sources.count, self.listed))
        batches = iter_batches(
            sources.iter_refs(self.listed),
            job,
            self.running.batch_size,
            self.running.workers,
            self.watcher.note,
        )
        with closing(batches):
            progress = pipeline.run(batches, forward, sink, self._on_progress)
        self.inputs.tolerance.check(progress, is_last=True)
        return progress

    def summary(self, progress: Progress) -> Summary:
        seconds = time.monotonic() - self.started
        return Summary(progress.done, progress.failed, seconds, self.unlisted, self.skipped)

    def _on_progress(self, progress: Progress) -> None:
        self.watcher.progress(progress)
        self.inputs.tolerance.check(progress)

    def _skip(self, path: str) -> None:
        self.skipped += 1

    def _note_unlisted(self, text: str) -> None:
        self.unlisted += 1
        self.watcher.note(text)


def load_model(
    spec: str,
    options: ModelOptions,
    note: Callable[[str], None] = lambda text: None,
    *,
    keep_grid: bool = False,
) -> Model:
    """Load with the options of the command line; `note` hears what a user should know."""
    model = load(
        spec,
        layout=options.layout,
        labels=options.labels,
        image_size=options.image_size,
        preprocess=options.preprocess,
        num_heads=options.num_heads,
        exif=options.exif,
        decode=options.decode,
        offline=options.offline,
        keep_grid=keep_grid,
    )
    for text in model.notes:
        note(f"{spec}: {text}")
    return model


@contextmanager
def completing(sink: Sink) -> Iterator[Sink]:
    """A sink that is left as a partial where the run does not come to its end."""
    try:
        yield sink
    except BaseException:
        sink.abort()
        raise


def describe_model(model: Model) -> dict[str, object]:
    """What the meta file says of the model."""
    return {
        "model": model.spec,
        "revision": model.revision,
        "sha256": model.sha256,
        "layout": model.layout,
        "preprocess": model.preprocess.describe(),
        "preprocess_source": model.preprocess.source,
    }
