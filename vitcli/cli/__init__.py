"""The command line: the only package that uses typer, print and exit, and rich except for a bar."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from vitcli.errors import ClosedPipe, ExitCode, Interrupted, VitError, printable
from vitcli.interrupts import SIGNALS, interruptible

MAX_COMMAND = 2000


def entry() -> None:
    """Run the `vit` command. End by the signal that interrupted it, so that shell loops stop."""
    _open_standard_descriptors()
    code = main()
    number = code - 128
    if number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors become messages only here."""
    # Torch's threads and the image workers share the processors. By default the threads spin
    # while they wait, and on a busy machine a small model then runs ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Requests to the hub name neither torch nor the program that runs vit.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    is_debugging = bool(os.environ.get("VIT_DEBUG"))
    try:
        with interruptible():
            # imported here, so that Ctrl-C during the imports is handled, too
            from vitcli.cli.app import app
            from vitcli.cli.options.parse import with_address

            _check_folder()
            app(args=with_address(sys.argv[1:] if argv is None else argv), prog_name="vit")
            return ExitCode.OK
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else ExitCode.FATAL
    except Interrupted as interrupted:
        if interrupted.is_told:
            return 128 + interrupted.signal_number
        after = f" after {interrupted.after}" if interrupted.after else ""
        words = ["vit", *(sys.argv[1:] if argv is None else argv)]
        continued = f"; continue with: {again(words)}" if interrupted.can_resume else ""
        print(f"vit: interrupted{after}{continued}", file=sys.stderr, flush=True)
        return 128 + interrupted.signal_number
    except ClosedPipe as error:
        _forget_stdout()
        return error.exit_code
    except VitError as error:
        if is_debugging:
            raise
        if error.is_told:
            return error.exit_code
        print(f"vit: {printable(error.message)}", file=sys.stderr)
        if error.hint:
            at = error.caret
            hint = error.hint if at is None else f"{error.hint[:at]}>>>{error.hint[at:]}"
            print(f"  {printable(hint)}", file=sys.stderr)
        return error.exit_code
    except (MemoryError, ImportError, OSError) as error:
        if is_debugging or not _is_short_of_memory(error):
            raise
        print("vit: there is not enough memory", file=sys.stderr)
        print("  check the limits (ulimit -v, MemoryMax); -b 1 and -j 0 need less", file=sys.stderr)
        return ExitCode.FATAL


def _check_folder() -> None:
    """Raise VitError if the working folder has been removed: relative paths would mean nothing, and
    no process could start."""
    try:
        os.getcwd()  # noqa: PTH109  # pathlib is not imported yet
    except FileNotFoundError:
        raise VitError(
            "the working folder no longer exists", "cd to another folder, and repeat"
        ) from None


def _is_short_of_memory(error: Exception) -> bool:
    """Whether the system refused memory, even if only to load a library."""
    is_refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    is_unmapped = isinstance(error, ImportError) and "failed to map segment" in str(error)
    return isinstance(error, MemoryError) or is_refused or is_unmapped


def _open_standard_descriptors() -> None:
    """Open /dev/null for each standard descriptor that is closed at the start (`>&-`). The
    next file would get its number, and libraries and image workers would write into that file."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free


def again(words: Sequence[str]) -> str:
    """The command with --resume instead of --overwrite, quoted for a shell. A very long command, or
    one that torchrun started, is not repeated."""
    from vitcli.processes import rank_of

    kept = [word for word in words if word not in ("--overwrite", "--resume")]
    command = shlex.join([*kept, "--resume"])
    is_whole = len(command) < MAX_COMMAND and rank_of(os.environ).size == 1
    return printable(command) if is_whole else "the same command and --resume"


def _forget_stdout() -> None:
    """Discard standard output, so that the interpreter does not flush it at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
