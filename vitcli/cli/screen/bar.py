"""The progress bar on a terminal: images done and failed, images per second, remaining time."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vitcli import records


class Rate(ProgressColumn):
    """The column of images or texts per second."""

    def render(self, task: Task) -> Text:
        unit = task.description
        return Text(f"{task.speed:.1f} {unit}/s" if task.speed else "", style="cyan")


class Bar:
    """One line at the bottom of the terminal, removed at the end."""

    def __init__(self, description: str) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}", style="red", markup=False),
            console=Console(stderr=True, markup=False, highlight=False, emoji=False),
            transient=True,
        )
        self._task = self._progress.add_task(description, total=None, failed="")
        self._described = description
        self._progress.start()

    def begin(self, description: str) -> None:
        """Start counting."""
        self._described = description
        self._progress.remove_task(self._task)  # its total goes with it
        self._task = self._progress.add_task(description, total=None, failed="")

    def tell(self, description: str) -> None:
        """Show what is done now, without a count."""
        self._described = description
        self._progress.reset(self._task, description=description, total=None)

    def count(self, description: str, done: int, total: int) -> None:
        """Show how many things of another kind are done, of all."""
        if description != self._described:
            self._described = description
            self._progress.reset(self._task, description=description, total=total)
        self._progress.update(self._task, completed=done)

    def expect(self, total: int | None) -> None:
        self._progress.update(self._task, total=total)

    def show(self, progress: records.Progress) -> None:
        failed = f"{progress.failed:,} failed" if progress.failed else ""
        self._progress.update(self._task, completed=progress.seen, failed=failed)

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, soft_wrap=True)

    def stop(self) -> None:
        self._progress.stop()
