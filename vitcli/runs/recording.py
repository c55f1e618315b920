"""A run into files that can be taken up again: inputs in, and out come those that are left to do.

While it runs there are `out.jsonl.partial`, its journal `out.jsonl.partial.journal`, and a lock.
When it has finished the journal is `.out.jsonl.journal`; a later run takes rows over by it.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from vitcli.errors import OutputError, printable
from vitcli.files import PARTIAL, explained, real, refuse_link, take_name
from vitcli.interrupts import interrupts
from vitcli.records import Failure, ImageRef, Kept, Progress, Row
from vitcli.runs.fingerprint import Fingerprint
from vitcli.runs.finished import START_AGAIN, Ahead, Finished, unreadable
from vitcli.runs.journal import (
    JOURNAL,
    Commit,
    Entry,
    Header,
    Whole,
    journal_of,
    json_bytes,
    last_agreed,
    read_commits,
    read_entries,
    read_finished,
    read_header,
)
from vitcli.runs.kept import KeptRows
from vitcli.runs.lock import locked
from vitcli.runs.neighbours import check_neighbours
from vitcli.runs.shard import Resuming
from vitcli.sinks import FileSink
from vitcli.sinks.files import TABLE, ZIPPED, Grown, PartialFile, Target

SYNC_EVERY = 30.0  # seconds; only a loss of power needs it
NOWHERE = (-1, 0)  # the stamp of a file that is not there
MAX_WRITTEN = 1024  # kept rows between two commits
NAMED = 3  # images that failed before an interruption


class Recording:
    """One output while it is ours: a context, which holds the lock.

    After `plan`: `is_complete` if nothing has changed since the run that finished it;
    `needs_model` if some image is to be computed; `is_stale` if rows of the interrupted run are
    out of date, so that another run has to follow this one; `progress`, the rows that are there
    already; `chosen`, how many of them are good and have a text; `failed_before`, the paths of the
    first images that failed before the interruption; `header`, what the journal of the earlier run
    says.
    """

    def __init__(
        self,
        target: Target,
        suffixes: Sequence[str],
        list_refs: Callable[[], Iterator[ImageRef]],
        *,
        asked: Resuming = Resuming(),
        overwrite: bool = False,
        data_start: Callable[[BinaryIO], int] | None = None,
        is_sealed: bool = False,
        has_unlisted: Callable[[], bool] = lambda: False,
        has_files: Callable[[ImageRef, bytes], bool] | None = None,
    ) -> None:
        assert target.out is not None
        self.is_complete = self.is_stale = False
        self.needs_model = True
        self.progress = Progress()
        self.chosen = 0
        self.failed_before: list[str] = []
        self.header: Header | None = None
        self._target, self._suffixes = target, suffixes
        self._asked, self._overwrite = asked, overwrite
        self._list_refs = list_refs
        self._data_start = data_start
        self._is_sealed = is_sealed
        self._has_files = has_files
        self._has_unlisted = has_unlisted  # a folder that cannot be read does not lose its rows
        self._keeps_missing = asked.keep_missing
        self._names = [real(path) for path in (target.out, *map(target.beside, suffixes))]
        self._beside = [target.beside(suffix) for suffix in suffixes if target.is_beside(suffix)]
        self._partials = [path.with_name(path.name + PARTIAL) for path in self._names]
        self._out, partial = self._names[0], self._partials[0]
        self._journal = partial.with_name(partial.name + JOURNAL)
        self._final_journal = journal_of(self._out)
        self._locks = ExitStack()
        self._commit: Commit | None = None
        self._old: Finished | None = None
        self._present = bytearray()  # for each old row: whether its path is listed
        self._left: Iterator[tuple[ImageRef, int | None]] = iter(())
        self._kept = KeptRows(None)
        self._own = {(s.st_dev, s.st_ino) for s in map(_stat, self._names) if s is not None}

    def __enter__(self) -> Recording:
        """Raises OutputError where another process writes one of its files, or one of them is
        another output's."""
        with ExitStack() as locks:
            locks.enter_context(locked(self._names))
            for path in (*self._partials, self._journal, self._final_journal, *self._beside):
                refuse_link(path)
            check_neighbours(self._out, self._names[1:])
            with explained(self._out):
                self._name_what_is_whole()
            self._locks = locks.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        if self._old is not None:
            self._old.close()
        self._locks.close()

    def known(self) -> Sequence[Mapping[str, Any]]:
        """The weights of an earlier run, whether or not it is ours."""
        header = read_header(self._journal) or read_header(self._final_journal)
        return header.weights if header else ()

    def plan(self, fingerprint: Fingerprint) -> None:
        """Find out what is there and what is left to do.

        Raises OutputError where there is something that is not to be touched: an output or a
        partial without `resume` and `overwrite`, or one of another fingerprint or other inputs.
        """
        self._fingerprint = fingerprint
        if self._asked.resume:
            self._commit = self._interrupted()
            if self._commit is None or (self.header and self.header.takes_over):
                self._old = self._finished()
        elif not self._overwrite:
            self._target.check(*self._suffixes)
            self._refuse_to_lose()
        if self._old is not None:
            self._survey(self._old)
            if self._is_sealed and not self.is_complete:
                raise OutputError(
                    f"{self._out} is whole, and its rows cannot be taken over into another",
                    f"write new images to a file of their own; or {START_AGAIN}",
                )
        self._kept = KeptRows(self._old)
        self._left = self._stream()
        if self._commit is not None:
            self._verify(self._commit)
            self.progress.add_earlier(self._commit.inputs, self._commit.failed)
        if self._asked.resume and self._old is None and self._commit is not None:
            first = next(self._left, None)
            self.needs_model = first is not None
            self._left = chain(() if first is None else (first,), self._left)

    def items(self) -> Iterator[ImageRef]:
        """The images that are left to compute, in input order. The rows between them that an
        earlier run made are noted, and the sink of `begin` writes them when their turn comes."""
        for ref, number in self._left:
            if number is None:
                yield ref
            else:
                self._kept.add(number, ref.index)

    def begin(
        self,
        make_sink: Callable[[Target], FileSink],
        header: Mapping[str, object],
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Recorded:
        """The sink, where the interrupted run left off or from the start. It counts the rows that
        it takes over in `progress`, and calls `on_progress` then."""

        def count(kept: Sequence[Kept]) -> None:
            self.progress.add_earlier(len(kept), sum(row.is_failed for row in kept))
            on_progress(self.progress)

        at = None if self._commit is None else Grown(self._commit.end, self._commit.crc)
        journal = PartialFile(self._final_journal, at, self._journal, like=self._out)
        if self._commit is not None:
            self._target.resumed = self._commit.files
            sink = make_sink(self._target)
            return Recorded(sink, self._target, journal, self._commit, self._kept, count)
        takes_over = self._old is not None
        of_run = {"fingerprint": self._fingerprint.values, "defaults": self._fingerprint.defaults}
        journal.write(json_bytes({**of_run, "takes_over": takes_over, **header}))
        sink = make_sink(self._target)
        return Recorded(sink, self._target, journal, Commit(0, 0, 0, ()), self._kept, count)

    def _name_what_is_whole(self) -> None:
        """A run that was killed between its last row and the last name is finished now. Where a
        file is gone, it is one that was interrupted."""
        finished = read_finished(self._journal)
        if finished is None or {whole.name for whole in finished} != set(self._named()):
            return
        found = [(self._partial_of(whole), self._named()[whole.name], whole) for whole in finished]
        if not all(whole.is_at(partial or name) for partial, name, whole in found):
            return
        for partial, name, _ in sorted(found, key=lambda file: file[1] == self._out):
            if partial is not None:
                take_name(partial, name)
        take_name(self._journal, self._final_journal)

    def _named(self) -> dict[str, Path]:
        """Our files, by the names that our journal has for them."""
        return {os.path.relpath(path, self._out.parent): path for path in self._names}

    def _partial_of(self, whole: Whole) -> Path | None:
        """The partial that is to take the name of a file, if it is there and as a run leaves it."""
        name = self._named()[whole.name]
        for suffix in ("", ZIPPED, TABLE):
            path = name.with_name(name.name + PARTIAL + suffix)
            is_meant = os.path.relpath(path, self._out.parent) == whole.partial
            if is_meant and path.is_file() and not path.is_symlink():
                return path
        return None

    def _interrupted(self) -> Commit | None:
        """Where the interrupted run left off, as far as its files agree."""
        header, commits = read_header(self._journal), read_commits(self._journal)
        if not commits or header is None:
            return None
        self._check_fingerprint(header, self._partials[0])
        commit = last_agreed(commits, self._partials[: len(commits[0].files)])
        self.header = header if commit else None
        return commit

    def _finished(self) -> Finished | None:
        """The finished output, if there is one."""
        if not self._out.exists():
            return None
        if not self._final_journal.exists():
            raise OutputError(
                f"{self._out} has no record of its run, {self._final_journal.name}", START_AGAIN
            )
        header = read_header(self._final_journal)
        if header is None:
            raise unreadable(self._out)
        self._check_fingerprint(header, self._out)
        self.header = header
        return Finished(self._out, self._names[1:], self._data_start)

    def _check_fingerprint(self, header: Header, path: Path) -> None:
        differs = header.fingerprint.difference(self._fingerprint)
        if differs is not None:
            raise OutputError(f"{path} was made with {differs}", f"do as before, or {START_AGAIN}")

    def _refuse_to_lose(self) -> None:
        commits = read_commits(self._journal)
        if commits and commits[-1].inputs:
            raise OutputError(
                f"{self._partials[0]} holds {commits[-1].inputs:,} images of an interrupted run",
                f"--resume goes on with it, {START_AGAIN}",
            )

    def _survey(self, old: Finished) -> None:
        """Compare the inputs with the finished output."""
        fresh, reached, is_same, failed, chosen = 0, 0, True, 0, 0
        for ref in self._listed():
            found = old.find(ref.path)
            number, entry = found or (-1, None)
            fresh += not self._serves(entry, ref, old.text)
            is_same = (
                is_same and entry is not None and number >= reached and entry.place == ref.index
            )
            reached = number + 1
            if entry is not None:
                failed += entry.row is None
                chosen += entry.row is not None and entry.length > 0
                self._present.extend(bytes(max(0, number + 1 - len(self._present))))
                self._present[number] = 1
        self._present.extend(bytes(old.count() - len(self._present)))
        self._keeps_missing = self._asked.keep_missing or self._has_unlisted()
        is_same = is_same and (self._keeps_missing or all(self._present))
        self.needs_model = fresh > 0
        self.is_complete = is_same and not fresh and self._commit is None
        if self.is_complete:
            self.chosen = chosen
            gone = (number for _, number in self._missing(old, 0, old.count(), -1))
            failed += sum(old.entry(number).row is None for number in gone)
            self.progress.add_earlier(old.count(), failed)

    def _stream(self) -> Iterator[tuple[ImageRef, int | None]]:
        """Every input, with the number of its old row where that serves; and those that are
        gone."""
        old, reached, index = self._old, 0, -1
        for ref in self._listed():
            found = old.find(ref.path) if old is not None else None
            if old is None or found is None:
                yield ref, None
            else:
                number, entry = found
                yield from self._missing(old, reached, number, index)
                reached = max(reached, number + 1)
                yield ref, number if self._serves(entry, ref, old.text) else None
            index = ref.index
        if old is not None:
            yield from self._missing(old, reached, old.count(), index)

    def _missing(
        self, old: Finished, start: int, stop: int, index: int
    ) -> Iterator[tuple[ImageRef, int]]:
        """The old rows from `start` to `stop` that stay although their files are gone. Each is
        placed after the input `index`."""
        for number in range(start, stop if self._keeps_missing else start):
            if not self._present[number]:
                entry = old.entry(number)
                yield ImageRef(index, entry.path, entry.stamp), number

    def _serves(self, entry: Entry | None, ref: ImageRef, text: Callable[[Entry], bytes]) -> bool:
        """Whether an old row is still that of its image, and has the files that its text names."""
        if entry is None or (self._asked.retry_failed and entry.row is None):
            return False
        if entry.stamp != ref.stamp:
            return False
        return self._has_files is None or self._has_files(ref, text(entry))

    def _verify(self, commit: Commit) -> None:
        """The inputs must begin as those of the interrupted run did; more may follow."""
        partial = Ahead(self._partials[len(commit.files) - 1], 1 << 16)

        def text(entry: Entry) -> bytes:
            return partial.read(entry.start, entry.length)

        for count, entry in enumerate(read_entries(self._journal, commit.end)):
            ref = next(self._left, (None,))[0]
            if ref is None or ref.path != entry.path:
                now = "nothing follows" if ref is None else f"comes {printable(ref.path)}"
                raise OutputError(
                    f"{self._partials[0]} was made of other inputs: after {count:,} images came "
                    f"{printable(entry.path)}, and now {now}",
                    f"give the same inputs (more may follow them); {START_AGAIN}",
                )
            self.chosen += entry.row is not None and entry.length > 0
            if entry.row is None and len(self.failed_before) < NAMED:
                self.failed_before.append(entry.path)
            if ref.index != entry.place or not self._serves(entry, ref, text):
                self.is_stale = True

    def _listed(self) -> Iterator[ImageRef]:
        """The inputs with their stamps. Raises OutputError for one that is an output too."""
        for ref in self._list_refs():
            if ref.stamp is not None:
                yield ref
                continue
            found = _stat(ref.file)
            if found is not None and (found.st_dev, found.st_ino) in self._own:
                raise OutputError(
                    f"{printable(ref.file)} is an input, and would be overwritten",
                    "write to another file",
                )
            stamp = NOWHERE
            if found is not None:
                stamp = found.st_size, found.st_mtime_ns
            if ref.member is not None:
                version = ref.member.version
                stamp = ref.member.size, stamp[1] if version is None else version[3]
            yield replace(ref, stamp=stamp)


class Recorded:
    """A sink that journals its rows, batch by batch, and puts the kept rows between them."""

    def __init__(
        self,
        sink: FileSink,
        target: Target,
        journal: PartialFile,
        commit: Commit,
        kept: KeptRows,
        count: Callable[[Sequence[Kept]], None],
    ) -> None:
        """`count` is called with the kept rows that are written."""
        self._kept, self._count = kept, count
        self._sink, self._target, self._journal = sink, target, journal
        self._text = target.files[-1]
        self._good = commit.inputs - commit.failed
        self._synced = time.monotonic()
        if not commit.files:
            self._commit([])
        target.before_naming = self._all_is_written

    def write(self, rows: Sequence[Row]) -> None:
        """Write the rows of a batch, each after the kept rows that precede it.

        Raises OutputError where a kept row is not there any more, and Interrupted where many kept
        rows precede a row.
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
        lines = []
        for row, length in zip(rows, self._sink.write(rows), strict=True):
            is_failed = row.is_failed if isinstance(row, Kept) else isinstance(row, Failure)
            ref, number = row.ref, None if is_failed else self._good
            stamp = ref.stamp or NOWHERE
            lines.append(json_bytes(Entry(ref.index, ref.path, stamp, start, length, number)))
            start += length
            self._good += not is_failed
        self._commit(lines)
        if kept := [row for row in rows if isinstance(row, Kept)]:
            self._count(kept)

    def finish(self, meta: Mapping[str, object]) -> None:
        self._sink.finish(meta)
        self._journal.take_name()

    def abort(self) -> None:
        self._sink.abort()
        self._journal.abort()

    def _commit(self, lines: Sequence[bytes]) -> None:
        """Data first, then the journal; so also on the disk, where a loss of power counts."""
        is_due = time.monotonic() - self._synced > SYNC_EVERY
        files = self._target.files
        for file in files if is_due else ():
            file.sync()
        entries = b"".join(lines)
        crc = zlib.crc32(entries, self._journal.grown.crc)
        state = {"files": [[file.grown.size, file.grown.crc] for file in files], "crc": crc}
        self._journal.write(entries + json_bytes(state))
        if is_due:
            self._journal.sync()
            self._synced = time.monotonic()

    def _all_is_written(self, files: Sequence[PartialFile]) -> None:
        finished = [Whole.of(file, self._journal.real.parent) for file in files]
        state = {"finished": finished, "crc": self._journal.grown.crc}
        self._journal.write(json_bytes(state))
        self._journal.sync()


def _stat(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None
