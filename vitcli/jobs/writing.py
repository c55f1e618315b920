"""Write the rows of a run to its output: all of them, or those that an earlier run has left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from vitcli.checkpoints.resolve import Checkpoint, resolve
from vitcli.errors import InputError, printable
from vitcli.interrupts import interrupts
from vitcli.jobs.apart import (
    check_apart,
    read_of_inputs,
    read_of_model,
    read_of_options,
    written_of,
)
from vitcli.jobs.job import Summary
from vitcli.jobs.loading import Spec
from vitcli.jobs.run import Computation, Run, completing
from vitcli.records import Batch, Row, Sink
from vitcli.runs.comparison import FailedPaths
from vitcli.runs.fingerprint import describe_weights
from vitcli.runs.output import Output
from vitcli.runs.recording import Recording
from vitcli.sinks.select import SelectSink

if TYPE_CHECKING:  # for types only: a run with nothing to do need not import torch
    from vitcli.checkpoints.load import Model


def write_rows(
    run: Run,
    output: Output,
    specs: Sequence[str | Model],
    load: Callable[[Sequence[Spec]], Computation],
    *,
    sink: Sink | None = None,
    offline: bool = False,
) -> Summary:
    """Compute the rows that are missing in the output, and write them.

    A sink, if there is one, gets all rows instead of the output. A pipe or a device gets all rows,
    too, and cannot be resumed. `load` loads the models, at most once and only if an image has to
    be computed. If rows of an interrupted run are out of date, a second round replaces them.
    """
    if sink is None:
        output.check()
    if sink is not None or output.is_special:
        work = load(specs)
        work = replace(work, meta=output.described(work.meta))
        sink = output.open(work.meta) if sink is None else sink
        if output.takes is not None:
            sink = SelectSink(sink, output.takes, run.progress)
        run.into(sink, work)
    else:
        if output.resuming.resume:
            run.listing.keep_stdin()
        with run.explaining(can_resume=True):
            models = [resolve(s, offline=offline) if isinstance(s, str) else s for s in specs]
            load_once = cache(lambda: load(models))
            weights = [m.weights if isinstance(m, Checkpoint) else m.files for m in models]
            read = (*read_of_model(list(chain(*weights))), *read_of_options(output.options))
            check_apart(written_of(output.paths.values()), (*read, *read_of_inputs(run.inputs)))
            while _round(run, output, weights, load_once):
                continue
    summary = run.summary()
    return summary if output.takes is None else replace(summary, selected=run.progress.selected)


def _round(
    run: Run,
    output: Output,
    weights: Sequence[Sequence[Path]],
    load_once: Callable[[], Computation],
) -> bool:
    """Write the rows that are missing, and return whether another round has to follow."""
    listed, unlisted = partial(run.listing.refs, stamped=True), run.listing.omissions.unlisted
    with Recording(output, listed, lambda: bool(unlisted)) as record:
        run.resume(record.progress)
        described = describe_weights(weights, record.known())
        record.plan(output.fingerprint(described))
        run.reporter.progress(record.progress)
        if record.failed_before.count and not record.is_stale:
            run.reporter.note(_failed_before(record.failed_before))
        if record.is_complete:
            run.reporter.note(f"{output.target().out} is already complete")
            return False
        header = None if record.needs_model else record.header
        work = load_once() if header is None else _idle(header.meta)
        work = replace(work, meta=output.described(work.meta))
        sink = record.begin(work.meta, described, run.advance)
        with completing(sink):
            run.compute(work, record.items(), sink)
            sink.write_kept()
            run.inputs.tolerance.check(record.progress, is_last=True)
            with interrupts.held():
                sink.finish({**work.meta, **run.summary().counts})
        return record.is_stale


def _failed_before(failed: FailedPaths) -> str:
    """Describe the images that failed in the earlier run."""
    rest = failed.count - len(failed.first)
    named = ", ".join(map(printable, failed.first)) + (f" and {rest:,} more" if rest else "")
    return (
        f"failed in the earlier run: {named}; the row of each says why, "
        "and --retry-failed tries again"
    )


def _idle(meta: Mapping[str, object]) -> Computation:
    """Return a stand-in for the models, for a run that has no image to compute. If it has one after
    all, the run ends."""

    def forward(batch: Batch) -> Sequence[Row]:
        raise InputError(
            f"{printable(batch.refs[0].path)} has changed during the run", "run it again"
        )

    return Computation(forward=forward, meta=meta)
