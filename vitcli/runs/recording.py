"""An output that a later run can resume, and the images that are left to compute.

During a run there are `out.jsonl.partial`, its journal `out.jsonl.partial.journal`, and a lock.
Afterwards the journal is `.out.jsonl.journal`. A later run finds in it the rows that it copies
instead of computing them again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from vitcli.errors import OutputError, printable
from vitcli.files import PARTIAL, explained, refuse_link, take_name
from vitcli.records import ImageRef, Progress
from vitcli.runs.comparison import Comparison, FailedPaths
from vitcli.runs.fingerprint import Fingerprint
from vitcli.runs.finished import START_OVER, Ahead, Finished, unreadable
from vitcli.runs.journal import (
    Commit,
    journals_of,
    last_agreed,
    read_commits,
    read_entries,
    read_finished,
    read_header,
)
from vitcli.runs.journal_lines import Entry, Header, Whole
from vitcli.runs.kept import KeptRows
from vitcli.runs.lock import locked
from vitcli.runs.neighbours import check_neighbours
from vitcli.runs.output import Output
from vitcli.runs.recorded import Recorded
from vitcli.sinks.files import TABLE, ZIPPED, Grown, PartialFile


class Recording:
    """An output while this process writes it. The context holds the locks.

    `plan` sets these:
    is_complete: nothing has changed since the run that finished the output.
    needs_model: at least one image has to be computed.
    is_stale: rows of the interrupted run are out of date, so another round has to follow.
    progress: the counts of the rows that exist already.
    failed_before: the images that failed in the earlier run, and whose rows stay.
    header: the header of the earlier run's journal.
    """

    def __init__(
        self,
        output: Output,
        list_refs: Callable[[], Iterator[ImageRef]],
        has_unlisted: Callable[[], bool] = lambda: False,
    ) -> None:
        """`has_unlisted` says whether a folder could not be listed."""
        self.is_complete = self.is_stale = False
        self.needs_model = True
        self.progress = Progress()
        self.failed_before = FailedPaths()
        self.header: Header | None = None
        self._output, self._resuming, self._files = output, output.resuming, output.files
        self._target = output.target()
        self._inputs = Comparison(output, list_refs, has_unlisted)
        self._paths = output.paths
        self._out = self._paths[""]
        self._partials = {s: p.with_name(p.name + PARTIAL) for s, p in self._paths.items()}
        self._journal, self._final_journal = journals_of(self._out)
        self._locks = ExitStack()
        self._commit: Commit | None = None
        self._old: Finished | None = None
        self._left: Iterator[tuple[ImageRef, int | None]] = iter(())
        self._kept = KeptRows(None)

    def __enter__(self) -> Recording:
        """Take the locks. Raises OutputError if another process writes one of the files, or if one
        of them belongs to another output."""
        with ExitStack() as locks:
            locks.enter_context(locked(self._paths.values()))
            named = [s for s in self._files.beside if self._target.is_beside(s)]
            beside = map(self._target.path, named)
            for path in (*self._partials.values(), self._journal, self._final_journal, *beside):
                refuse_link(path)
            check_neighbours(self._out, [self._paths[s] for s in self._files.beside])
            with explained(self._out):
                self._finish_naming()
            self._begun, self._ended = map(read_header, (self._journal, self._final_journal))
            self._locks = locks.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        if self._old is not None:
            self._old.close()
        self._locks.close()

    def known(self) -> Sequence[Mapping[str, Any]]:
        """The weights in the journal of an earlier run; its options may differ."""
        header = self._begun or self._ended
        return header.weights if header else ()

    def plan(self, fingerprint: Fingerprint) -> None:
        """Find the rows that exist already, and the images that are left to compute.

        Raises OutputError if an output or a partial exists and neither `resume` nor `overwrite` is
        set, if the fingerprint or the inputs of the earlier run differ, or if a finished output of
        a sealed format would have to change.
        """
        self._fingerprint = fingerprint
        if self._resuming.resume:
            self._commit = self._interrupted()
            if self._commit is None or (self.header and self.header.takes_over):
                self._old = self._finished()
        elif not self._output.overwrite:
            self._target.check(*self._files.beside)
            self._refuse_to_lose()
        if self._old is not None:
            survey = self._inputs.survey(self._old)
            self.needs_model = survey.fresh > 0
            self.failed_before = survey.kept_failures
            self.is_complete = survey.is_same and not survey.fresh and self._commit is None
            if self.is_complete:
                self.progress.selected = survey.selected
                self.progress.add_earlier(survey.rows, survey.failed)
            if self._output.kind.is_sealed and not self.is_complete:
                raise OutputError(
                    f"{self._out} is finished, and its rows cannot be taken over",
                    f"write new images to a file of their own; or {START_OVER}",
                )
        self._kept = KeptRows(self._old)
        self._left = self._inputs.entries(self._old)
        if self._commit is not None:
            self.failed_before = FailedPaths()  # of the batches that are written; others follow
            self._verify(self._commit)
            self.progress.add_earlier(self._commit.inputs, self._commit.failed)
        if self._resuming.resume and self._old is None and self._commit is not None:
            first = next(self._left, None)
            self.needs_model = first is not None
            self._left = chain(() if first is None else (first,), self._left)

    def items(self) -> Iterator[ImageRef]:
        """Yield the images that are left to compute, in input order. The rows to take
        over are queued, and the sink that `begin` returns writes them in their places."""
        for ref, number in self._left:
            if number is None:
                yield ref
            else:
                self._kept.add(number, ref.index)

    def begin(
        self,
        meta: Mapping[str, Any],
        weights: Sequence[Mapping[str, Any]],
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Recorded:
        """Open the sink where the interrupted run left off, or start over. When the sink writes
        kept rows, it adds them to `progress` and calls `on_progress`."""
        commit = self._commit
        at = None if commit is None else Grown(commit.end, commit.crc)
        journal = PartialFile(self._final_journal, at, self._journal, like=self._out)
        grown: dict[str, Grown] = {}
        if commit is not None:
            grown = dict(zip(self._files.growing, commit.files, strict=True))
        else:
            header = Header(self._fingerprint, meta, weights, takes_over=self._old is not None)
            journal.write(header.line())
        return Recorded(
            self._output.open(meta, grown),
            self._files,
            journal,
            commit,
            kept=self._kept,
            takes=self._output.takes or (lambda row: True),
            progress=self.progress,
            on_progress=on_progress,
        )

    def _finish_naming(self) -> None:
        """Finish a run that was killed before all its files had their names. If a file is missing,
        the run counts as interrupted."""
        finished = read_finished(self._journal)
        if finished is None or {whole.name for whole in finished} != set(self._named()):
            return
        files = [(self._partial_of(whole), self._named()[whole.name], whole) for whole in finished]
        if not all(whole.is_at(partial or name) for partial, name, whole in files):
            return
        for partial, name, _ in sorted(files, key=lambda file: file[1] == self._out):
            if partial is not None:
                take_name(partial, name)
        take_name(self._journal, self._final_journal)

    def _named(self) -> dict[str, Path]:
        """The files, by their names in the journal."""
        return {os.path.relpath(path, self._out.parent): path for path in self._paths.values()}

    def _partial_of(self, whole: Whole) -> Path | None:
        """The partial that is to become this file, if it still exists."""
        name = self._named()[whole.name]
        for suffix in ("", ZIPPED, TABLE):
            path = name.with_name(name.name + PARTIAL + suffix)
            is_meant = os.path.relpath(path, self._out.parent) == whole.partial
            if is_meant and path.is_file() and not path.is_symlink():
                return path
        return None

    def _interrupted(self) -> Commit | None:
        """The last batch at which the files of an interrupted run agree with its journal."""
        commits = read_commits(self._journal)
        if self._begun is None or not commits:
            return None
        self._check_fingerprint(self._begun, self._partials[""])
        commit = last_agreed(commits, [self._partials[suffix] for suffix in self._files.growing])
        self.header = self._begun if commit else None
        return commit

    def _finished(self) -> Finished | None:
        """The finished output, if there is one."""
        if not self._out.exists():
            return None
        if not self._final_journal.exists():
            raise OutputError(
                f"{self._out} has no record of its run, {self._final_journal.name}", START_OVER
            )
        if self._ended is None:
            raise unreadable(self._out)
        self._check_fingerprint(self._ended, self._out)
        self.header = self._ended
        return Finished(self._output)

    def _check_fingerprint(self, header: Header, path: Path) -> None:
        differs = header.fingerprint.difference(self._fingerprint)
        if differs is not None:
            raise OutputError(
                f"{path} was made with {differs}", f"give the same model and options; {START_OVER}"
            )

    def _refuse_to_lose(self) -> None:
        commits = read_commits(self._journal)
        if commits and commits[-1].inputs:
            raise OutputError(
                f"{self._partials['']} holds {commits[-1].inputs:,} images of an interrupted run",
                f"--resume continues it, {START_OVER}",
            )

    def _verify(self, commit: Commit) -> None:
        """Check that the inputs begin with those of the interrupted run; more may follow."""
        partial = Ahead(self._partials[self._files.text], 1 << 16)

        def text(entry: Entry) -> bytes:
            return partial.read(entry.start, entry.length)

        for count, entry in enumerate(read_entries(self._journal, commit.end)):
            ref = next(self._left, (None,))[0]
            if ref is None or ref.path != entry.path:
                now = "nothing follows" if ref is None else f"comes {printable(ref.path)}"
                raise OutputError(
                    f"{self._partials['']} was made of other inputs: after {count:,} images came "
                    f"{printable(entry.path)}, and now {now}",
                    f"give the same inputs (more may follow them); {START_OVER}",
                )
            self.progress.selected += entry.row is not None and entry.length > 0
            if entry.row is None:
                self.failed_before.add(entry.path)
            if ref.index != entry.place or not self._inputs.serves(entry, ref, text):
                self.is_stale = True
