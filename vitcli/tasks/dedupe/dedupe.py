"""Find images that are there twice, and write which to keep. No file is deleted or moved."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vitcli.errors import InputError, UsageError, printable
from vitcli.images.scan import Omissions
from vitcli.indexes.index import Index, mapped, open_index
from vitcli.jobs.choices import check_choice
from vitcli.jobs.job import SILENT, Inputs, Reporter, Summary
from vitcli.jobs.listing import scan_of
from vitcli.jobs.of_index import check_outputs
from vitcli.records import Progress
from vitcli.runs.shard import check_start
from vitcli.sinks.tables import TABLES, TableFile
from vitcli.tasks.dedupe.files import Files
from vitcli.tasks.dedupe.find import Found, Options, find
from vitcli.tasks.dedupe.known import read_pairs
from vitcli.tasks.dedupe.partial import Partial
from vitcli.tasks.dedupe.twin import KINDS, Kind
from vitcli.tasks.dedupe.write import write


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupeJob:
    """A search for twins in an index. Rows go to `out`, or to standard output; with `paths_only`
    the paths that are not kept."""

    index: tuple[str, ...]
    options: Options = field(default_factory=Options)
    inputs: Inputs = Inputs()
    workers: int | None = None
    like_pairs: Path | None = None
    out: Path | None = None
    format: str | None = None
    paths_only: bool = False
    null: bool = False
    html: Path | None = None
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        check_start(overwrite=self.overwrite, resume=self.resume)


def dedupe(
    job: DedupeJob, reporter: Reporter = SILENT, *, show: bool = True
) -> tuple[Summary, Found]:
    """Find the twins, and write them unless `show` is False. Raises VitError."""
    started = time.monotonic()
    to = TableFile(
        out=job.out,
        format="paths" if job.paths_only else _format_of(job),
        overwrite=job.overwrite or job.resume,
        null=job.null,
        beside=() if job.html is None else (job.html,),
        resumes=True,
    )
    to.check()
    opened = open_index(job.index, reporter.note)
    if opened.names != "path":
        raise InputError(f"{opened.label} is an index of texts", "vit dedupe compares images")
    pairs = [] if job.like_pairs is None else [(job.like_pairs, "the file of --like-pairs")]
    check_outputs((job.out, job.html), job.index, opened, pairs)
    options = job.options
    if job.like_pairs is not None:
        options = with_known(options, job.like_pairs)
    with mapped(opened) as index:
        partial = Partial.beside(job.out or job.html, _key(index, options))
        if not job.resume:
            partial.remove()
        files = files_of(index, job.inputs, job.workers, reporter)
        found = find(index, options, files, partial, reporter)
        reporter.progress(_progress(index, files))
        if job.html is not None:
            from vitcli.tasks.dedupe.page import write_page

            write_page(found, index, job.html, reporter)
        if show and (job.out is not None or job.html is None):
            write(found, to)
        partial.remove()
        if job.out is not None or job.html is not None or job.paths_only:
            reporter.note(counted(found))
        seconds = time.monotonic() - started
        failed = len(files.failures)
        return Summary(index.count - failed, failed, seconds, unit="row"), found


def _format_of(job: DedupeJob) -> str:
    """The format of the rows, by the suffix of the output if it is not given. Raises UsageError."""
    if job.format is not None:
        check_choice("--format", job.format, TABLES)
    if job.format is not None or job.out is None:
        return job.format or "jsonl"
    suffix = job.out.suffix.lower().lstrip(".")
    if suffix not in TABLES:
        raise UsageError(
            f"{printable(str(job.out))}: the suffix names no format",
            f"use .{', .'.join(TABLES)}, or --format",
        )
    return suffix


def kinds_of(kind: str | Sequence[Kind] | None) -> tuple[Kind, ...] | None:
    """The kinds that a text with commas or a sequence names, the strongest first; None for None.
    Raises UsageError for an unknown one, and for none at all."""
    if kind is None:
        return None
    names = [name.strip() for name in kind.split(",")] if isinstance(kind, str) else list(kind)
    for name in [name for name in names if name != ""] or [""]:
        check_choice("--kind", name, KINDS)
    return tuple(name for name in KINDS if name in names)


def with_known(options: Options, file: Path) -> Options:
    """The options with the known pairs of a file."""
    return replace(options, known=tuple(read_pairs(file)))


def files_of(index: Index, inputs: Inputs, workers: int | None, reporter: Reporter) -> Files:
    """The files of an index, of which nothing is known yet."""
    return Files(
        name=index.name,
        scan=scan_of(inputs, Omissions(reporter.note)),
        limits=inputs.limits,
        formats=inputs.formats,
        workers=workers,
        report=reporter.steps,
        note=reporter.note,
        sizes=np.full(index.count, -1, np.int64),
        pixels=np.full((index.count, 2), -1, np.int64),
    )


def counted(found: Found) -> str:
    """The number of groups and of twins, in words."""
    kinds = Counter(twin.kind for twin in found.twins if not twin.keep)
    if not kinds:
        return "no twins"
    named = ", ".join(f"{kinds[kind]:,} {kind}" for kind in found.kinds if kinds[kind])
    total, groups = sum(kinds.values()), len(found.groups)
    images = f"{total:,} image{'s' * (total != 1)} not kept"
    return f"{groups:,} group{'s' * (groups != 1)}; {images}: {named}"


def _key(index: Index, options: Options) -> dict[str, object]:
    """Everything that a pass depends on: the index and the threshold."""
    stamps = []
    for file in index.files:
        path = Path(file)
        status = path.stat() if path.is_file() else None
        stamps.append((file, status and (status.st_size, status.st_mtime_ns)))
    return {
        "files": stamps,
        "rows": (index.count, index.width),
        "threshold": options.threshold,
        "known": [(pair.first, pair.second) for pair in options.known],
    }


def _progress(index: Index, files: Files) -> Progress:
    progress = Progress()
    failures = [files.failures[row] for row in sorted(files.failures)]
    progress.add(index.count - len(failures), failures)
    return progress
