"""A sink whose rows are journaled, so that the run can be resumed after any of its batches."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence

from vitcli.interrupts import interrupts
from vitcli.records import Failure, Kept, Progress, Row, image_of
from vitcli.runs.journal import Commit
from vitcli.runs.journal_lines import NOWHERE, Entry, Whole, json_bytes
from vitcli.runs.kept import KeptRows
from vitcli.sinks.files import FileSet, PartialFile
from vitcli.sinks.sink import FileSink

SYNC_EVERY = 30.0  # seconds between two writes to the disk, in case of a power failure
MAX_WRITTEN = 1024  # kept rows between two commits


class Recorded:
    """Writes the rows of a run and, between them, the kept rows: those taken over from an earlier
    run."""

    def __init__(
        self,
        sink: FileSink,
        files: FileSet,
        journal: PartialFile,
        commit: Commit | None,
        *,
        kept: KeptRows,
        takes: Callable[[Row], bool],
        progress: Progress,
        on_progress: Callable[[Progress], None],
    ) -> None:
        """`commit` is where an interrupted run left off. Kept and selected rows are counted in
        `progress`."""
        self._sink, self._journal = sink, journal
        self._text = sink.opened[files.text]
        self._growing = [sink.opened[suffix] for suffix in files.growing]
        self._kept, self._takes = kept, takes
        self._progress, self._on_progress = progress, on_progress
        self._good = 0 if commit is None else commit.inputs - commit.failed
        self._synced = time.monotonic()
        if commit is None:
            self._commit([])

    def write(self, rows: Sequence[Row]) -> None:
        """Write the rows of a batch, each after the kept rows that precede it.

        Raises OutputError if a kept row no longer exists. An interruption during many kept rows
        raises Interrupted.
        """
        waiting: list[Row] = []
        for row in rows:
            for kept in self._kept.before(row.ref.index, MAX_WRITTEN):
                waiting += kept
                if len(waiting) >= MAX_WRITTEN:
                    self._write(waiting)
                    waiting = []
                    interrupts.check()
            waiting.append(row)
        self._write(waiting)

    def write_kept(self) -> None:
        """Write the kept rows that follow the last batch. Raises Interrupted, OutputError."""
        for kept in self._kept.before(None, MAX_WRITTEN):
            with interrupts.held():
                self._write(kept)
            interrupts.check()

    def _write(self, rows: Sequence[Row]) -> None:
        start = self._text.grown.size
        taken = [bool(r.text) if isinstance(r, Kept) else self._takes(r) for r in rows]
        lengths = iter(
            self._sink.write([r for r, is_taken in zip(rows, taken, strict=True) if is_taken])
        )
        lines = []
        kept = failed = 0
        for row, is_taken in zip(rows, taken, strict=True):
            length = next(lengths) if is_taken else 0
            is_failed = row.is_failed if isinstance(row, Kept) else isinstance(row, Failure)
            ref, number = image_of(row), None if is_failed else self._good
            stamp = ref.stamp or NOWHERE
            lines.append(json_bytes(Entry(ref.index, ref.path, stamp, start, length, number)))
            start += length
            self._good += not is_failed
            self._progress.selected += length > 0 and not is_failed
            kept += isinstance(row, Kept)
            failed += is_failed and isinstance(row, Kept)
        self._commit(lines)
        if kept:
            self._progress.add_earlier(kept, failed)
            self._on_progress(self._progress)

    def finish(self, meta: Mapping[str, object]) -> None:
        """Complete the files, record them, and give them their names. If the process is killed
        while it names them, the next run names the others."""
        files = self._sink.complete(meta)
        for file in files:
            file.sync()
        finished = [Whole.of(file, self._journal.real.parent) for file in files]
        self._journal.write(json_bytes({"finished": finished, "crc": self._journal.grown.crc}))
        self._journal.sync()
        for file in (*files, self._journal):
            file.take_name()

    def abort(self) -> None:
        """Close the files, which a later run can resume."""
        self._sink.abort()
        self._journal.abort()

    def _commit(self, lines: Sequence[bytes]) -> None:
        """Record the rows and the sizes of the files in the journal. Every SYNC_EVERY seconds the
        files are synced to the disk, and the journal after them."""
        is_due = time.monotonic() - self._synced > SYNC_EVERY
        for file in self._growing if is_due else ():
            file.sync()
        entries = b"".join(lines)
        crc = zlib.crc32(entries, self._journal.grown.crc)
        sizes = [[file.grown.size, file.grown.crc] for file in self._growing]
        self._journal.write(entries + json_bytes({"files": sizes, "crc": crc}))
        if is_due:
            self._journal.sync()
            self._synced = time.monotonic()
