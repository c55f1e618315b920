"""The progress bar on a terminal: what the run does, or how much of it is done, and its speed."""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vitcli import records
from vitcli.errors import per_second

BAR_WIDTH = 40  # characters; fewer on a narrow terminal


def console(*, stderr: bool = False, file: IO[str] | None = None) -> Console:
    """Return a console that prints text as it is. Its width is that of the terminal, or COLUMNS."""
    return Console(stderr=stderr, file=file, markup=False, highlight=False, emoji=False)


class Count(ProgressColumn):
    """The column of what is done, of all: `48/1,000`. Nothing before the first is done."""

    def render(self, task: Task) -> Text:
        if task.total is None and not task.completed:
            return Text("")
        total = "?" if task.total is None else f"{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}/{total}", style="green")


class Speed(ProgressColumn):
    """The column of images or texts per second."""

    def render(self, task: Task) -> Text:
        return Text(per_second(task.speed, task.description) if task.speed else "", style="cyan")


class Remaining(TimeRemainingColumn):
    """The column of the remaining time. Nothing while it cannot be estimated."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.time_remaining is not None else Text("")


class Bar:
    """One line at the bottom of the terminal, removed at the end."""

    def __init__(self, description: str) -> None:
        out = console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(min(BAR_WIDTH, max(4, out.width - 60))),
            Count(),
            Speed(),
            Remaining(),
            TextColumn("{task.fields[failed]}", style="red", markup=False),
            console=out,
            transient=True,
        )
        self._task = self._progress.add_task(description, total=None, failed="")
        self._described = description
        self._images: int | None = None
        self._progress.start()

    def tell(self, description: str) -> None:
        """Show what is done now, without a count."""
        self._begin(description, None)

    def count(self, description: str, done: int, total: int | None) -> None:
        """Show how many things are done, of all. Their description is their plural."""
        if description != self._described:
            self._begin(description, total)
        self._progress.update(self._task, completed=done, total=total)

    def expect(self, images: int | None) -> None:
        """Set the number of images of the run, shown from its next batch on, from any thread."""
        self._images = images

    def show(self, progress: records.Progress) -> None:
        """Show how many images are done and failed. Those of an earlier run alone are not shown:
        nothing flows yet."""
        if progress.seen > progress.earlier:
            self.count("images", progress.seen, self._images)
            failed = f"{progress.failed:,} failed" if progress.failed else ""
            self._progress.update(self._task, failed=failed)

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, soft_wrap=True)

    def stop(self) -> None:
        self._progress.stop()

    def _begin(self, description: str, total: int | None) -> None:
        self._described = description
        self._progress.remove_task(self._task)  # its total and its speed go with it
        self._task = self._progress.add_task(description, total=total, failed="")
