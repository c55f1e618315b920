"""The messages of a run on stderr: progress, notes, and a summary at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vitcli import records
from vitcli.cli.config.current import current
from vitcli.cli.screen import report
from vitcli.errors import ExitCode, Interrupted, VitError, printable, shortened
from vitcli.interrupts import interrupts
from vitcli.jobs.job import Summary
from vitcli.schemas import SCHEMA
from vitcli.stores import Place

if TYPE_CHECKING:
    from vitcli.cli.screen.bar import Bar

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
    ) -> None:
        self._quiet = quiet
        self._bar: Bar | None = None
        self._wants_bar = progress and not quiet and not log_json
        self._logs = log_json and not quiet
        self._log_json = log_json
        self._report = report
        self._has_rows = self._shows_failures = False
        self._latest = records.Progress()
        self._total: int | None = None
        self._count: Callable[[], int | None] | None = None
        self._notes: set[str] = set()
        self._started = self._logged = 0.0
        self._begun = ""
        self._doing = "loading the model"

    @property
    def report(self) -> Path | None:
        """The file of `--summary`."""
        return self._report

    def __enter__(self) -> Screen:
        self._started, self._begun = time.monotonic(), report.now()
        if self._report is not None:
            report.check(self._report)
        if (
            self._wants_bar
            and not self._has_rows
            and sys.stderr is not None
            and sys.stderr.isatty()
        ):
            from vitcli.cli.screen.bar import Bar  # imported here: `vit --help` needs no bar

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

    def share_terminal(self, *, shows_failures: bool = True) -> None:
        """Draw no bar, since the rows go to the terminal. With `shows_failures` the rows show the
        failures, so that the summary does not repeat them."""
        self._has_rows, self._shows_failures = True, shows_failures

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
        self._count = count if self._logs or self._bar is not None else None
        if self._bar is not None:
            self._bar.begin("images")

    def progress(self, progress: records.Progress) -> None:
        self._latest = progress
        if self._bar is not None:
            self._bar.show(progress)
        if self._logs and (not self._logged or time.monotonic() - self._logged >= LOG_EVERY):
            self._logged = time.monotonic()
            report.log("progress", {**self._counts(), "total": self._total})
        if self._count is not None:  # not earlier, so that the first images do not wait for it
            threading.Thread(target=self._expect, args=(self._count,), daemon=True).start()
            self._count = None

    def doing(self, what: str) -> None:
        self._doing = what
        if self._bar is not None:
            self._bar.tell(what)

    def steps(self, what: str, done: int, total: int) -> None:
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
        kinds = {} if self._shows_failures else self._latest.kinds
        for kind, (times, first) in kinds.items():
            where = printable(first.ref.path)
            more = f" (and {times - 1:,} more)" if times > 1 else ""
            self._print(
                f"vit: {kind}: {shortened(where)}: {shortened(printable(first.message))}{more}"
            )
        fresh, units = summary.total - summary.earlier, summary.units
        rate = f", {fresh / summary.seconds:,.1f} {units}/s" if fresh else ""
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
        self._print(f"vit: {done}{of_them} in {summary.seconds:.1f} s{rate}{target}")

    def _counts(self, summary: Summary | None = None) -> dict[str, object]:
        seconds = summary.seconds if summary else time.monotonic() - self._started
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
