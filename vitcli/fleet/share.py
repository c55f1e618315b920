"""The one door to a run: `share` has a job done here, by several devices, or by a Ray cluster.

An output in a store is staged here: the tasks write files only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile

from vitcli.engines import check_engine
from vitcli.errors import OutputError, UsageError
from vitcli.fleet.coordinate import Coordinator, Fleet, Outcome
from vitcli.fleet.devices import Devices, device_names
from vitcli.fleet.events import Job, task_of
from vitcli.fleet.shards import divided, divisions, is_complete, join, shards_of
from vitcli.images.path_list import copy_stdin
from vitcli.jobs.job import NullReporter, Reporter, Summary
from vitcli.jobs.listing import list_inputs
from vitcli.jobs.tolerance import Tolerance
from vitcli.records import Progress, Sink
from vitcli.runs.shard import Shard
from vitcli.runs.staging import staged
from vitcli.sinks import EMBEDDINGS, PREDICTIONS, choose_format
from vitcli.stores import Url


def share(
    job: Job,
    reporter: Reporter | None = None,
    *,
    devices: Sequence[str] = (),
    ray: str | None = None,
    sink: Sink | None = None,
) -> Summary:
    """Run the job: here, on several devices, or on the Ray cluster at the address `ray`, where
    "auto" is the one that runs here, or else the processors of this machine.

    Rows go to `sink` where one is given, else to the job's output. Raises VitError for what ends
    the run.
    """
    reporter = reporter or NullReporter()
    if devices and ray is not None:
        raise UsageError("--devices is for one machine, --ray for a cluster", "use one")
    fleet: Fleet | None = None
    if ray is not None:
        from vitcli.fleet.ray import RayCluster

        fleet = RayCluster(ray)
    elif devices:
        names = Devices(device_names(devices))
        fleet = names if len(names.names) > 1 else None
        job = job if fleet else names.alone(job)
    if fleet is None:
        shard = job.resuming.shard
        with _staged(job, reporter, [shard] if shard else []) as (here, naming):
            return task_of(here)(here, naming, sink)
    fleet.check(job)
    _check(job, fleet)
    if sink is not None:
        return _into(sink, fleet, job, reporter)
    with _staged(job, reporter, fleet.staged_shards(job)) as (here, naming):
        return _joined(fleet, here, naming)


def _check(job: Job, fleet: Fleet) -> None:
    """Raise UsageError for what cannot be sent to a worker, or joined."""
    models = job.models if hasattr(job, "models") else [job.model]
    if loaded := [model for model in models if not isinstance(model, str)]:
        raise UsageError(
            f"{fleet.option} loads the model in each process, and {loaded[0].spec} is loaded here",
            "name the model, do not load it",
        )
    if getattr(job, "html", None) is not None:
        raise UsageError("a page is made of all images", f"leave out {fleet.option} or --html")


def _joined(fleet: Fleet, job: Job, reporter: Reporter) -> Summary:
    """Have the shards done in files, and join them."""
    asked, overwrite = job.resuming, job.overwrite
    assert not isinstance(job.out, Url)
    out = divided(job.out, asked, fleet.option, fleet.unit)
    if is_complete(out, asked, overwrite=overwrite):
        reporter.note(f"{out} is complete: what is new is done here alone")
        return task_of(job)(fleet.alone(job), reporter, None)
    outcome = _coordinate(fleet, job, reporter, divisions(out))
    if asked.shard is not None:  # its shards are to be joined with those of other machines
        return outcome.summary
    return join(list(outcome.ended), out, outcome.summary, overwrite=overwrite or asked.resume)


def _into(sink: Sink, fleet: Fleet, job: Job, reporter: Reporter) -> Summary:
    """Have the shards done in memory, and write their rows into the sink."""
    outcome = _coordinate(fleet, job, reporter, {})
    rows, meta = outcome.rows()
    sink.write(rows)
    done = outcome.summary
    counts = {"images": done.done, "failed": done.failed, "seconds": round(done.seconds, 3)}
    sink.finish({**meta, **counts})
    return done


def _coordinate(fleet: Fleet, job: Job, reporter: Reporter, earlier: Mapping[int, Path]) -> Outcome:
    """Have the shards done. `earlier` has a file of each division that an earlier run has made."""
    asked, inputs = job.resuming, job.inputs
    if earlier and asked.shard is None and not (asked.resume or job.overwrite):
        [*found] = earlier.values()
        hint = "--resume goes on with it, --overwrite starts again"
        raise OutputError(f"{found[0]} is of an earlier run", hint)
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
        workers = opened.enter_context(fleet.open(unlimited, stdin))
        count = workers.count(earlier, asked.shard.count if asked.shard else 1)
        shards = shards_of(asked.shard, count)
        return Coordinator(workers, shards, inputs.tolerance, reporter).run()


@contextmanager
def _staged(
    job: Job, reporter: Reporter, shards: Sequence[Shard]
) -> Iterator[tuple[Job, Reporter]]:
    """Yield the job with a file as its output, and a reporter that names the URL for it."""
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
        yield replace(job, out=file), _Naming(reporter, file.parent, job.out)


def _suffixes(job: Job) -> tuple[str, ...]:
    """The suffixes of the files next to the output. Raise UsageError for an unknown format."""
    from vitcli.tasks.classify.classify import ClassifyJob

    if isinstance(job, ClassifyJob) and job.paths_only:
        return ()
    known = PREDICTIONS if isinstance(job, ClassifyJob) else EMBEDDINGS
    kind = known[choose_format(job.out, job.format, known)]
    kind.check_installed()
    return kind.files.beside


@dataclass(frozen=True, slots=True)
class _Naming:
    """A reporter whose notes name the store, not the folder in which its objects are made."""

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
