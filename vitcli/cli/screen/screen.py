"""The messages of a run on stderr: progress, notes, and a summary at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vitcli import records
from vitcli.cli.config.current import current
from vitcli.cli.screen import report
from vitcli.cli.screen.pace import Pace
from vitcli.errors import ExitCode, Interrupted, VitError, per_second, printable, shortened
from vitcli.interrupts import interrupts
from vitcli.jobs.job import Summary
from vitcli.schemas import SCHEMA
from vitcli.stores import Place

if TYPE_CHECKING:
    from vitcli.bar import Bar

LOG_EVERY = 10.0  # seconds between two lines of progress


class Screen:
    """Shows how a run goes. Progress is drawn only on a terminal. Notes and summary are lines of
    text, or of JSON with `log_json`. `report` is the file of --summary."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        progress: bool = True,
        log_json: bool = False,
        report: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet = quiet
        self._bar: Bar | None = None
        self._wants_bar = progress and not quiet and not log_json
        self._logs = log_json and not quiet
        self._log_json = log_json
        self._report = report
        self._yields_to_rows = self._shows_failures = False
        self._latest = records.Progress()
        self._total: int | None = None
        self._count: Callable[[], int | None] | None = None
        self._notes: set[str] = set()
        self._named: dict[str, records.ErrorType] = {}  # by the line of the failure
        self._clock, self._pace = clock, Pace(clock)
        self._logged: float | None = None
        self._begun = ""
        self._doing = "loading the model"

    @property
    def report(self) -> Path | None:
        """The file of `--summary`."""
        return self._report

    def __enter__(self) -> Screen:
        self._pace, self._begun = Pace(self._clock), report.now()
        if self._report is not None:
            report.check(self._report)
        if self._wants_bar and sys.stderr is not None and sys.stderr.isatty():
            from vitcli.bar import Bar  # imported here: `vit --help` needs no bar

            self._bar = Bar(self._doing)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if error is None:
            return  # `summary` writes the report
        error = interrupts.cause(error)
        if self._log_json:
            report.log("error", {**self._counts(), **report.outcome(error)})
            if isinstance(error, VitError | Interrupted):
                error.is_told = True
        with suppress(VitError):  # the error that ended the run is more important
            self._write_report(report.outcome(error))

    def stop(self) -> None:
        """Remove the bar, so that lines can follow."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def share_terminal(self, *, loads: bool = True, shows_failures: bool = True) -> None:
        """Leave the terminal to the rows: the bar is removed when the first images are read, and
        without `loads` none is drawn. With `shows_failures` the rows show the failures, so that
        nothing else names them."""
        self._wants_bar = self._wants_bar and loads
        self._yields_to_rows, self._shows_failures = True, shows_failures

    def note(self, text: str) -> None:
        """Print a note, once."""
        text = shortened(text)
        if not self._quiet and text not in self._notes:
            self._notes.add(text)
            if self._logs:
                report.log("note", {"message": text})
            else:
                self._print(f"vit: {printable(text)}")

    def listing(self, count: Callable[[], int | None]) -> None:
        if self._yields_to_rows:
            self.stop()
        self._count = count if self._logs or self._bar is not None else None
        self._pace.begin("images")
        if self._bar is not None:
            self._bar.tell("reading the first images")

    def progress(self, progress: records.Progress) -> None:
        self._latest = progress
        if progress.seen > progress.earlier:
            self._pace.advance("images", progress.seen - progress.earlier)
        if self._bar is not None:
            self._bar.show(progress)
        if self._logs and (self._logged is None or self._clock() - self._logged >= LOG_EVERY):
            self._logged = self._clock()
            report.log("progress", {**self._counts(), "total": self._total})
        self._name_failures(progress)
        if self._count is not None:  # not earlier, so that the first images do not wait for it
            threading.Thread(target=self._expect, args=(self._count,), daemon=True).start()
            self._count = None

    def doing(self, what: str) -> None:
        self._doing = what
        self._pace.wait()
        if self._bar is not None:
            self._bar.tell(what)

    def steps(self, what: str, done: int, total: int) -> None:
        self._pace.advance(what, done)
        if self._bar is not None and total:
            self._bar.count(what, done, total)

    def summary(self, summary: Summary, out: Place | None, code: ExitCode = ExitCode.OK) -> None:
        """Print a line for each type of failure, and one for the run."""
        ended = {**report.extras(summary), "exit_code": int(code), "error": None}
        if self._logs:
            for kind, (times, first) in self._latest.kinds.items():
                example = {"path": first.ref.path, "message": first.message}
                report.log("failures", {"type": kind.value, "count": times, "first": example})
            where = str(out) if out else None
            report.log(
                "summary", {"schema": SCHEMA, **self._counts(summary), **ended, "out": where}
            )
        elif not self._quiet:
            self._summarise(summary, out)
        self._write_report(ended, summary)

    def _summarise(self, summary: Summary, out: Place | None) -> None:
        self._count_failures()
        units, rate = summary.units, self._pace.rate(summary.units)
        speed = "" if rate is None else f", {per_second(rate.per_second, units)}"
        start_up = "" if rate is None else f" (start-up {rate.start_up:.1f} s)"
        done = (
            f"{summary.done:,} of {summary.total:,} {units} done, {summary.failed:,} failed"
            if summary.failed
            else f"{summary.total:,} {units if summary.total != 1 else summary.unit}"
        )
        earlier = f", {summary.earlier:,} of them before" if summary.earlier else ""
        chosen = f", {summary.selected:,} selected" if summary.selected is not None else ""
        skipped = f", {summary.skipped:,} skipped that are not files" if summary.skipped else ""
        of_them = f"{earlier}{chosen}{skipped}," if earlier or chosen or skipped else ""
        target = f" -> {printable(str(out))}" if out else ""
        self._print(f"vit: {done}{of_them} in {self._pace.seconds:.1f} s{start_up}{speed}{target}")

    def _name_failures(self, progress: records.Progress) -> None:
        """Print a line for each of the first failures, as they happen."""
        if self._quiet or self._logs or self._shows_failures:
            return
        for failure in progress.first:
            line = _described(failure)
            if len(self._named) < records.MAX_NAMED and line not in self._named:
                self._named[line] = failure.type
                self._print(line)
        if len(self._named) == records.MAX_NAMED < sum(n for n, _ in progress.kinds.values()):
            self.note("more images failed; they are counted at the end")

    def _count_failures(self) -> None:
        """Print a line for each type of failure, unless all of its failures have been named."""
        named = Counter(self._named.values())
        for kind, (times, first) in ({} if self._shows_failures else self._latest.kinds).items():
            if not named[kind]:
                more = f" (and {times - 1:,} more)" if times > 1 else ""
                self._print(f"{_described(first)}{more}")
            elif times > named[kind]:
                self._print(f"vit: {kind}: {times - named[kind]:,} more")

    def _counts(self, summary: Summary | None = None) -> dict[str, object]:
        seconds = summary.seconds if summary else self._pace.seconds
        return report.counts(self._latest, seconds, summary)

    def _write_report(self, ended: dict[str, object], summary: Summary | None = None) -> None:
        if self._report is not None:
            times = {"started": self._begun, "ended": report.now()}
            whole = {"schema": SCHEMA, **self._counts(summary), **ended, **times}
            config = current().text
            repeat = {} if config is None else {"config": config}
            report.write(self._report, {**whole, "versions": report.versions(), **repeat})

    def _expect(self, count: Callable[[], int | None]) -> None:
        """Count the inputs during the run, to estimate the remaining time."""
        with suppress(VitError):  # the run itself reports a missing list
            self._total = count()
        if self._bar is not None:
            self._bar.expect(self._total)

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.print(line)
        elif sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)


def _described(failure: records.Failure) -> str:
    """The line of a failure: its type, the image, the reason."""
    where, why = shortened(printable(failure.ref.path)), shortened(printable(failure.message))
    return f"vit: {failure.type}: {where}: {why}"
