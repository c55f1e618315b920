"""Run a job: in this process, on several devices, or on a Ray cluster.

An output in a store is staged here: the tasks write a local file, which is uploaded at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile

from vitcli.engines import check_engine
from vitcli.errors import OutputError, UsageError
from vitcli.fleet.coordinate import Coordinator, Opening
from vitcli.fleet.devices import device_names, processes
from vitcli.fleet.events import Ended, SharedJob, task_of
from vitcli.fleet.ray import actors, check_ray
from vitcli.fleet.shards import divided, divisions, is_complete, join, shards_of
from vitcli.images.path_list import copy_stdin
from vitcli.jobs.job import SILENT, Reporter, Summary
from vitcli.jobs.listing import list_inputs
from vitcli.jobs.precision import settled
from vitcli.jobs.tolerance import Tolerance
from vitcli.records import Progress, Sink
from vitcli.runs.shard import Shard
from vitcli.runs.staging import staged
from vitcli.sinks import FORMATS
from vitcli.stores import Url


def share(
    job: SharedJob,
    reporter: Reporter = SILENT,
    *,
    devices: Sequence[str] = (),
    ray: str | None = None,
    sink: Sink | None = None,
) -> Summary:
    """Run the job: in this process, on several devices, or on the Ray cluster at the address `ray`.
    "auto" is the cluster of this machine, or else a new cluster on it.

    The rows go to `sink` if there is one, else to the job's output. Raises VitError if the run
    cannot finish.
    """
    shard = job.resuming.shard
    if devices and ray is not None:
        raise UsageError("--devices is for one machine, --ray for a cluster", "use one")
    names = device_names(devices)
    if names:  # used unless the run is shared
        job = replace(job, running=replace(job.running, device=names[0]))
    is_shared = ray is not None or len(names) > 1
    if is_shared:
        _check(job, ray)
    staged_shards = shards_of(shard, max(1, len(names))) if shard else []
    with _staged(job, reporter, staged_shards) as (here, naming):
        if ray is None:
            resumed = _resumed(here, is_shared=is_shared)
            here = replace(here, running=settled(here.running, resumed))
        if not is_shared:
            return task_of(here)(here, naming, sink)
        if ray is None:
            return _share(here, naming, sink, partial(processes, names), "--devices", "device")
        return _share(here, naming, sink, partial(actors, ray), "--ray", "worker")


def _check(job: SharedJob, ray: str | None) -> None:
    """Raise VitError for a job that workers cannot run, or whose shards cannot be joined."""
    from vitcli.tasks.classify.classify import ClassifyJob
    from vitcli.tasks.embed import EmbedJob

    option = "--devices" if ray is None else "--ray"
    if isinstance(job, EmbedJob) and job.texts is not None:
        raise UsageError(
            f"{option} shares images, and this run embeds texts", f"leave out {option}"
        )
    if ray is not None:
        check_ray(job)
    for model in job.models if isinstance(job, ClassifyJob) else [job.model]:
        if not isinstance(model, str):
            raise UsageError(
                f"{option} loads the model in each process, and {model.spec} is loaded here",
                "pass the name of the model instead",
            )
    if isinstance(job, ClassifyJob) and job.html is not None:
        raise UsageError("a page is made of all images", f"leave out {option} or --html")


def _resumed(job: SharedJob, *, is_shared: bool) -> list[Path]:
    """The outputs that this run may resume; some may not exist."""
    asked, out = job.resuming, job.out or getattr(job, "html", None)
    if not asked.resume or not isinstance(out, Path):
        return []
    counts = divisions(out) if is_shared and asked.shard is None else ()
    shards = [shard for count in counts for shard in shards_of(None, count)]
    return [asked.shard.named(out) if asked.shard else out, *(shard.named(out) for shard in shards)]


def _share(
    job: SharedJob, reporter: Reporter, sink: Sink | None, opening: Opening, option: str, unit: str
) -> Summary:
    """Have workers run the shards, and join their rows in one file or in the sink."""
    asked, overwrite = job.resuming, job.overwrite
    if sink is not None:
        summary, ended = _coordinate(job, reporter, opening, {})
        rows = chain.from_iterable(shard.rows for shard in ended.values())
        sink.write(sorted(rows, key=lambda row: row.ref.index))
        [first, *_] = ended.values()
        sink.finish({**first.meta, **summary.counts})
        return summary
    assert not isinstance(job.out, Url)
    out = divided(job.out, asked, option, unit)
    if is_complete(out, asked, overwrite=overwrite):
        reporter.note(f"{out} is complete: this process alone adds new images")
        return task_of(job)(job, reporter, None)
    summary, ended = _coordinate(job, reporter, opening, divisions(out))
    if asked.shard is not None:  # `vit merge` joins them later with the shards of other machines
        return summary
    return join(list(ended), out, summary, overwrite=overwrite or asked.resume)


def _coordinate(
    job: SharedJob, reporter: Reporter, opening: Opening, earlier: Mapping[int, Path]
) -> tuple[Summary, dict[Shard, Ended]]:
    """Have workers run the shards. `earlier` is what `divisions` returns."""
    asked, inputs = job.resuming, job.inputs
    if earlier and asked.shard is None and not (asked.resume or job.overwrite):
        [first, *_] = earlier.values()
        hint = "--resume continues it, --overwrite starts over"
        raise OutputError(f"{first} is from an earlier run", hint)
    with ExitStack() as opened:
        stdin = None
        if inputs.has_stdin:
            copy = opened.enter_context(NamedTemporaryFile(prefix="vit-list-"))
            copy_stdin(copy)
            stdin = Path(copy.name)
            reporter.listing(lambda: None)
        else:
            check_engine(job.running.engine)
            reporter.listing(list_inputs(inputs, reporter.note, shard=asked.shard).count)
        unlimited = replace(job, inputs=replace(inputs, tolerance=Tolerance()))
        reporter.doing("starting the workers")
        workers = opened.enter_context(opening(unlimited, stdin))
        count = workers.count(earlier, asked.shard.count if asked.shard else 1)
        shards = shards_of(asked.shard, count)
        return Coordinator(workers, shards, inputs.tolerance, reporter).run()


@contextmanager
def _staged(
    job: SharedJob, reporter: Reporter, shards: Sequence[Shard]
) -> Iterator[tuple[SharedJob, Reporter]]:
    """Yield the job with a local file as its output, and a reporter that shows the URL instead."""
    if not isinstance(job.out, Url):
        yield job, reporter
        return
    resuming, overwrite = job.resuming, job.overwrite
    with staged(
        *(job.out, _suffixes(job), resuming),
        overwrite=overwrite,
        note=reporter.note,
        shards=shards,
    ) as file:
        assert file is not None
        yield replace(job, out=file), _StoreReporter(reporter, file.parent, job.out)


def _suffixes(job: SharedJob) -> tuple[str, ...]:
    """The suffixes of the files next to the output. Raise UsageError for an unknown format."""
    kind = FORMATS[job.command][job.output_format().name]
    kind.check_installed()
    return kind.files.beside


@dataclass(frozen=True, slots=True)
class _StoreReporter:
    """A reporter whose notes name the store instead of the local folder."""

    reporter: Reporter
    folder: Path
    url: Url

    def note(self, text: str) -> None:
        store = self.url.text.rpartition("/")[0]
        self.reporter.note(text.replace(f"{self.folder}/", f"{store}/"))

    def listing(self, count: Callable[[], int | None]) -> None:
        self.reporter.listing(count)

    def progress(self, progress: Progress) -> None:
        self.reporter.progress(progress)

    def doing(self, what: str) -> None:
        self.reporter.doing(what)

    def steps(self, what: str, done: int, total: int) -> None:
        self.reporter.steps(what, done, total)
