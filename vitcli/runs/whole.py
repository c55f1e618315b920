"""Outputs that are written in one go, without a journal: they cannot be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vitcli.errors import OutputError
from vitcli.files import PARTIAL, explained
from vitcli.interrupts import interrupts
from vitcli.records import Sink
from vitcli.runs.finished import START_OVER
from vitcli.runs.journal import JOURNAL, journal_of
from vitcli.runs.lock import locked
from vitcli.runs.neighbours import check_neighbours
from vitcli.runs.output import Output
from vitcli.sinks.files import TABLE, ZIPPED


@contextmanager
def held(output: Output) -> Iterator[None]:
    """Hold the locks of an output. Raises OutputError if another process writes it, if a file next
    to it belongs to another output, or if it has rows of an interrupted run."""
    if output.is_special:
        yield
        return
    paths = output.paths
    begun = paths[""].with_name(paths[""].name + PARTIAL + JOURNAL)
    with locked(paths.values()):
        check_neighbours(paths[""], [path for suffix, path in paths.items() if suffix])
        if begun.exists() and not output.overwrite:
            raise OutputError(f"{begun} is of an interrupted run", START_OVER)
        yield


@contextmanager
def opened(output: Output, meta: Mapping[str, Any]) -> Iterator[Sink]:
    """Open the files of an output. An error removes what is written of them."""
    sink = output.open(meta)
    try:
        yield sink
    except BaseException:
        sink.abort()
        if not output.is_special:
            for path in output.paths.values():
                for end in ("", ZIPPED, TABLE):
                    path.with_name(path.name + PARTIAL + end).unlink(missing_ok=True)
        raise


def finish(output: Output | None, sink: Sink, meta: Mapping[str, object]) -> None:
    """Finish a sink: that of an output gives its files their names, and removes the
    journals of an earlier output of this name."""
    with interrupts.held():
        if output is not None and not output.is_special:
            out = output.paths[""]
            with explained(out):
                out.with_name(out.name + PARTIAL + JOURNAL).unlink(missing_ok=True)
                journal_of(out).unlink(missing_ok=True)
        sink.finish(meta)
