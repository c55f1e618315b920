"""The one door to a run: share(job) has it done here, by several devices, or by a Ray cluster.

Here too an output in a store is staged: the tasks write files only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitcli.fleet.actors import Job, task_of
from vitcli.jobs.job import NullReporter, Reporter, Summary
from vitcli.records import Progress
from vitcli.runs.staging import staged
from vitcli.sinks import EMBEDDINGS, PREDICTIONS, choose_format
from vitcli.stores import Url

if TYPE_CHECKING:
    from vitcli.records import Sink


def share(
    job: Job, reporter: Reporter | None = None, *, ray: str | None = None, sink: Sink | None = None
) -> Summary:
    """Run the job, here or on the Ray cluster at the address `ray`.

    Rows go to `sink` where one is given, else to the job's output. Raises VitError for what ends
    the run.
    """
    reporter = reporter or NullReporter()
    if ray is not None:
        from vitcli.fleet.ray import check_ray, on_ray

        check_ray(job)
        with _staged(job, reporter) as (here, naming):
            return on_ray(ray, here, naming)
    with _staged(job, reporter) as (here, naming):
        return task_of(here)(here, naming, sink)


@contextmanager
def _staged(job: Job, reporter: Reporter) -> Iterator[tuple[Job, Reporter]]:
    """Yield the job with a file as its output, and a reporter that names the URL for it."""
    url, shard = job.out, job.resuming.shard
    if not isinstance(url, Url):
        yield job, reporter
        return
    with staged(
        url,
        _suffixes(job),
        job.resuming,
        overwrite=job.overwrite,
        note=reporter.note,
        shards=[shard] if shard else [],
    ) as file:
        assert file is not None
        yield replace(job, out=file), _Naming(reporter, file.parent, url)


def _suffixes(job: Job) -> tuple[str, ...]:
    """The suffixes of the files next to the output."""
    from vitcli.tasks.classify.classify import ClassifyJob

    if isinstance(job, ClassifyJob) and job.paths_only:
        return ()
    known = PREDICTIONS if isinstance(job, ClassifyJob) else EMBEDDINGS
    kind = known[choose_format(job.out, job.format, known)]
    kind.check_installed()
    return kind.files.beside


@dataclass(frozen=True, slots=True)
class _Naming:
    """A reporter whose notes name the URL, not the file in which its output is made."""

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
