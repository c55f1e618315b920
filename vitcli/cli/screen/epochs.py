"""The live display of a training: bars for the epoch and the run, and the current numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from vitcli.bar import console

if TYPE_CHECKING:
    from vitcli.training.events import StepDone


class Epochs:
    """Three lines at the bottom of the terminal, below the lines of finished epochs."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._what = "epoch"
        self._console = console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            expand=True,
        )
        self._first = self._progress.add_task(self._what, total=None)
        self._run = self._progress.add_task("run", total=None)
        self._numbers = Text()
        self._live = Live(
            Group(self._progress, self._numbers),
            console=self._console,
            transient=True,
            refresh_per_second=4,
        )
        self._live.start()

    def show(self, done: StepDone) -> None:
        """Show a finished step."""
        self.count(f"epoch {done.epoch}/{self._epochs}", done.step, done.steps)
        completed = (done.epoch - 1) * done.steps + done.step
        self._progress.update(self._run, total=self._epochs * done.steps, completed=completed)
        accuracy = "" if done.accuracy is None else f"accuracy {done.accuracy:.1%}  "
        self._numbers.plain = (
            f"loss {done.loss:.4f}  {accuracy}lr {done.lr:.2e}  "
            f"{done.images_per_second:,.1f} images/s"
        )

    def count(self, what: str, done: int, total: int) -> None:
        """Show in the first bar how many things are done, of all: the steps of an epoch, or the
        images of its validation."""
        if what != self._what:  # a finished bar would have no ETA
            self._what = what
            self._progress.reset(self._first)
        self._progress.update(self._first, description=what, total=total, completed=done)

    def print(self, line: str) -> None:
        """Print a line above the display."""
        self._live.console.print(line, soft_wrap=True)

    def stop(self) -> None:
        self._live.stop()
