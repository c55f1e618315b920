"""Show the progress of a training on stderr: a live display on a terminal, lines elsewhere."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from vitcli.cli.screen import report
from vitcli.cli.screen.exit import ended_with
from vitcli.cli.screen.screen import LOG_EVERY, Screen
from vitcli.errors import printable
from vitcli.records import Failure, Progress
from vitcli.training.events import EpochDone, StepDone

MIN_COLUMN = 7  # characters

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitcli.cli.screen.epochs import Epochs
    from vitcli.jobs.job import Summary
    from vitcli.stores import Place
    from vitcli.tasks.finetune.job import Finetuned


class TrainingScreen(Screen):
    """A screen that also shows steps and epochs."""

    _epochs: Epochs | None = None
    _has_header = False
    _step_logged = 0.0
    _done: Finetuned | None = None

    def trained(self, event: StepDone | EpochDone, epochs: int) -> None:
        """Show the end of a step or an epoch."""
        is_epoch = isinstance(event, EpochDone)
        if self._logs:
            if is_epoch or time.monotonic() - self._step_logged >= LOG_EVERY:
                self._step_logged = time.monotonic()
                fields = {
                    name: None if isinstance(value, float) and not math.isfinite(value) else value
                    for name, value in asdict(event).items()
                }
                report.log("epoch" if is_epoch else "step", {**fields, "epochs": epochs})
        elif self._bar is not None or self._epochs is not None:
            self._draw(event, epochs)
        elif isinstance(event, EpochDone) and not self._quiet:
            self._print_epoch(event, epochs)

    def steps(self, what: str, done: int, total: int) -> None:
        if self._epochs is not None:
            self._epochs.count(what, done, total)
        else:
            super().steps(what, done, total)

    def left_out(self, failures: Sequence[Failure], where: Path) -> None:
        """Name the first images that are left out, unless that is done already, and count all."""
        if self._logs:
            for failure in failures:
                self.note(f"left out: {printable(failure.ref.path)}: {printable(failure.message)}")
        elif failures:
            self._name_failures(Progress(first=[*failures]))
            count = len(failures)
            self.note(
                f"{count:,} image{'s' * (count > 1)} cannot be read and "
                f"{'are' if count > 1 else 'is'} left out; {where} lists them"
            )

    def stop(self) -> None:
        """Remove the display and the bar, so that lines can follow."""
        if self._epochs is not None:
            self._epochs.stop()
            self._epochs = None
        super().stop()

    def ended(self, done: Finetuned, out: Path) -> None:
        """Show the best epoch and its score."""
        self.stop()
        self._done = done
        self.summary(done.summary, out, ended_with(done.summary))

    def _summarise(self, summary: Summary, out: Place | None) -> None:
        assert self._done is not None
        done, score = self._done, ""
        if done.score is not None:
            score = f": {done.score:.2%} of {done.held_out:,} held-out images"
        epochs = f"{done.epochs} epoch{'s' * (done.epochs != 1)} in {self._pace.seconds:.1f} s"
        self._print(f"vit: {epochs}, the best is {done.best_epoch}{score} -> {printable(str(out))}")

    def _counts(self, summary: Summary | None = None) -> dict[str, object]:
        """The counts of the training images, when the training has ended."""
        counts = super()._counts(summary)
        if self._done is None:
            return counts
        done, seconds = self._done, self._done.summary.seconds
        seen = done.summary.total * done.epochs
        return counts | {
            "images": done.summary.total,
            "done": done.summary.done,
            "failed": done.summary.failed,
            "images_per_second": round(seen / seconds, 3) if seconds > 0 else 0.0,
            "epochs": done.epochs,
            "best_epoch": done.best_epoch,
            "top1": done.score,
            "held_out": done.held_out,
        }

    def _draw(self, event: StepDone | EpochDone, epochs: int) -> None:
        from vitcli.cli.screen.epochs import Epochs  # here: `vit --help` draws nothing

        if self._epochs is None:
            self.stop()
            self._epochs = Epochs(epochs)
        if isinstance(event, EpochDone):
            self._print_epoch(event, epochs)
        else:
            self._epochs.show(event)

    def _print_epoch(self, event: EpochDone, epochs: int) -> None:
        """Print the line of an epoch, the first one with the names of the columns above it."""
        header, line = epoch_lines(event, epochs)
        if not self._has_header:
            self._has_header = True
            self._print(header)
        self._print(line)

    def _print(self, line: str) -> None:
        if self._epochs is not None:
            self._epochs.print(line)
        else:
            super()._print(line)


def epoch_lines(event: EpochDone, epochs: int) -> tuple[str, str]:
    """Return the names of the columns and the line of an epoch, in 80 characters: loss and accuracy
    on the training images, then on the held-out images. What a training does not have has no
    column."""
    count = len(str(epochs))
    cells = [("epoch", f"{event.epoch:>{count}}/{epochs}"), ("loss", f"{event.train_loss:.4f}")]
    if event.train_accuracy is not None:
        cells.append(("accuracy", f"{event.train_accuracy:.1%}"))
    if event.val_loss is not None:
        cells.append(("val loss", f"{event.val_loss:.4f}"))
    if event.val_top1 is not None:
        cells.append(("val acc", f"{event.val_top1:.2%}"))
    cells += [
        ("lr", f"{event.lr:.1e}"),
        ("images/s", _short(event.images_per_second)),
        ("time", f"{_short(event.seconds)} s"),
    ]
    widths = [max(MIN_COLUMN, len(name), len(cell)) for name, cell in cells]
    names, values = zip(*cells, strict=True)
    best = "  best" if event.is_best and event.val_loss is not None else ""
    return _row(names, widths), _row(values, widths) + best


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _short(number: float) -> str:
    return f"{number:.1f}" if number < 100 else f"{number:,.0f}"
