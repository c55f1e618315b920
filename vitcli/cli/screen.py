"""What a person sees on stderr: progress while it runs, notes, and one summary at the end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vitcli import records
from vitcli.errors import Interrupted, VitError, printable
from vitcli.tasks.job import Summary

if TYPE_CHECKING:
    from vitcli.cli.bar import Bar


class Screen:
    """The watcher of a run. Progress is drawn only on a terminal; notes and summary are lines."""

    def __init__(self, *, quiet: bool = False, progress: bool = True) -> None:
        self._quiet = quiet
        self._bar: Bar | None = None
        self._wants_bar = progress and not quiet
        self._shares_terminal = False
        self._latest = records.Progress()
        self._total: int | None = None
        self._count: Callable[[], int | None] | None = None
        self._notes: set[str] = set()

    def __enter__(self) -> Screen:
        if (
            self._wants_bar
            and not self._shares_terminal
            and sys.stderr is not None
            and sys.stderr.isatty()
        ):
            from vitcli.cli.bar import Bar  # here: `vit --help` draws no bar

            self._bar = Bar("loading the model")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if isinstance(error, Interrupted):
            total = f" of {self._total:,}" if self._total is not None else ""
            self._say(f"vit: interrupted after {self._latest.seen:,}{total} images")

    def share_terminal(self) -> None:
        """The rows themselves go to the terminal: no bar between them, no failure said twice."""
        self._shares_terminal = True

    def note(self, text: str) -> None:
        """Each note once, however many images it is about."""
        if not self._quiet and text not in self._notes:
            self._notes.add(text)
            self._say(f"vit: {printable(text)}")

    def listing(self, count: Callable[[], int | None]) -> None:
        if self._bar is not None:
            self._bar.begin("images")
            self._count = count

    def progress(self, progress: records.Progress) -> None:
        self._latest = progress
        if self._bar is not None:
            self._bar.show(progress)
            if self._count is not None:  # only now: the first images do not wait for it
                threading.Thread(target=self._expect, args=(self._count,), daemon=True).start()
                self._count = None

    def summary(self, summary: Summary, out: Path | None) -> None:
        """One line for each kind of failure, and one for the run."""
        if self._quiet:
            return
        kinds = {} if self._shares_terminal else self._latest.kinds
        for kind, (times, first) in kinds.items():
            where = printable(first.ref.path)
            more = f" (and {times - 1:,} more)" if times > 1 else ""
            self._say(f"vit: {kind}: {where}: {printable(first.message)}{more}")
        rate = f", {summary.total / summary.seconds:,.1f} images/s" if summary.total else ""
        done = (
            f"{summary.done:,} of {summary.total:,} images done, {summary.failed:,} failed"
            if summary.failed
            else f"{summary.total:,} image{'s' * (summary.total != 1)}"
        )
        skipped = f", {summary.skipped:,} skipped that are no files" if summary.skipped else ""
        target = f" -> {printable(str(out))}" if out else ""
        self._say(f"vit: {done}{skipped} in {summary.seconds:.1f} s{rate}{target}")

    def _expect(self, count: Callable[[], int | None]) -> None:
        """Count the inputs beside the run, for the bar and the time that remains."""
        with suppress(VitError):  # a list that is gone is the business of the run
            self._total = count()
        if self._bar is not None:
            self._bar.expect(self._total)

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.say(line)
        elif sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)
