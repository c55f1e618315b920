"""The start and the end of every command: workers, results, exit codes."""

from __future__ import annotations

import shutil
import sys

import typer

from vitcli.cli.screen.screen import Screen
from vitcli.errors import ClosedPipe, ExitCode, OutputError
from vitcli.jobs.job import ModelOptions, Running, Summary
from vitcli.stores import Place


def start_workers(running: Running, model: ModelOptions = ModelOptions()) -> None:
    """Start the process that forks the workers, while this process imports torch."""
    if running.workers != 0:
        from vitcli.images.worker_process import warm_up

        warm_up(imports_torch=model.preprocess == "hf-fast")


def end(screen: Screen, summary: Summary, out: Place | None) -> None:
    """Print the summary; exit with 3 if an image or a folder could not be read."""
    code = ended_with(summary)
    screen.summary(summary, out, code)
    if code is not ExitCode.OK:
        raise typer.Exit(code)


def ended_with(summary: Summary) -> ExitCode:
    """The exit code of a finished run."""
    some_failed = summary.failed or summary.unlisted
    return ExitCode.SOME_FAILED if some_failed else ExitCode.OK


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def line_width() -> int | None:
    """The width of the terminal, or COLUMNS; None if standard output is not a terminal."""
    return shutil.get_terminal_size().columns if is_terminal() else None


def show(text: str) -> None:
    """Print the result of a command without rows. Raise OutputError if it cannot be written."""
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise ClosedPipe("the reader of the output has gone away") from None
    except OSError as error:
        raise OutputError(f"write error on standard output: {error.strerror}") from None
