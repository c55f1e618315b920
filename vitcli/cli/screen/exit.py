"""How every command begins and ends, as far as the shell is concerned."""

from __future__ import annotations

import sys

import typer

from vitcli.cli.screen.screen import Screen
from vitcli.errors import ClosedPipe, ExitCode, OutputError
from vitcli.jobs.job import Running, Summary
from vitcli.stores import Place


def start_workers(running: Running) -> None:
    """Let the process that forks the workers start beside the import of torch."""
    if running.workers != 0:
        from vitcli.images.workers import warm_up

        warm_up()


def end(screen: Screen, summary: Summary, out: Place | None) -> None:
    """Say how it went; exit 3 where an image or a folder could not be read."""
    code = ended_with(summary)
    screen.summary(summary, out, code)
    if code is not ExitCode.OK:
        raise typer.Exit(code)


def ended_with(summary: Summary) -> ExitCode:
    """The exit code of a run that came to its end."""
    some_failed = summary.failed or summary.unlisted
    return ExitCode.SOME_FAILED if some_failed else ExitCode.OK


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout is not None and sys.stdout.isatty()


def show(text: str) -> None:
    """Print the result of a command that has no rows. Raises OutputError where nobody takes it."""
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise ClosedPipe("the reader of the output has gone away") from None
    except OSError as error:
        raise OutputError(f"write error on standard output: {error.strerror}") from None
