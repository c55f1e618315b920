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
from vitcli.training.events import EpochDone, StepDone

if TYPE_CHECKING:
    from pathlib import Path

    from vitcli.cli.screen.epochs import Epochs
    from vitcli.jobs.job import Summary
    from vitcli.stores import Place
    from vitcli.tasks.finetune.job import Finetuned


class TrainingScreen(Screen):
    """A screen that also shows steps and epochs."""

    _epochs: Epochs | None = None
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
            self._print(epoch_line(event, epochs))

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
        self._print(
            f"vit: {done.epochs} epochs, the best is {done.best_epoch}{score} "
            f"-> {printable(str(out))}"
        )

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
            self._epochs.print(epoch_line(event, epochs))
        else:
            self._epochs.show(event)

    def _print(self, line: str) -> None:
        if self._epochs is not None:
            self._epochs.print(line)
        else:
            super()._print(line)


def epoch_line(event: EpochDone, epochs: int) -> str:
    """`epoch  3/20  loss 0.4123  91.2%  val 0.3052  95.83%  31.2 images/s  12.0 s  best`: loss and
    accuracy on the training images and on the held-out images, in 80 columns."""
    parts = [f"epoch {event.epoch:>{len(str(epochs))}}/{epochs}", f"loss {event.train_loss:.4f}"]
    if event.train_accuracy is not None:
        parts.append(f"{event.train_accuracy:.1%}")
    if event.val_loss is not None:
        parts.append(f"val {event.val_loss:.4f}")
    if event.val_top1 is not None:
        parts.append(f"{event.val_top1:.2%}")
    parts += [f"{_short(event.images_per_second)} images/s", f"{_short(event.seconds)} s"]
    return "  ".join(parts) + ("  best" if event.is_best and event.val_loss is not None else "")


def _short(number: float) -> str:
    return f"{number:.1f}" if number < 100 else f"{number:,.0f}"
