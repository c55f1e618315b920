"""How it is spelled: the only room with typer, rich, print and exit."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
import time
import types
from collections.abc import Iterator, Sequence

from vitcli.errors import ClosedPipe, ExitCode, Interrupted, VitError, printable
from vitcli.interrupts import interrupts

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


ONE_SIGNAL = 0.3  # seconds
MAX_COMMAND = 2000


def entry() -> None:
    """The `vit` command. Ends by the signal that interrupted it, so that shell loops stop too."""
    _open_standard_descriptors()
    code = main()
    number = code - 128
    if number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code. The only place where errors become words."""
    # Torch's threads and the image workers share the processors. By default the threads spin
    # while they wait, and on a busy machine a small model then runs ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with _signals():
            # here: Ctrl-C may come before everything is imported
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
        again = f"; continue with: {_again(words)}" if interrupted.can_resume else ""
        print(f"vit: interrupted{after}{again}", file=sys.stderr, flush=True)
        return 128 + interrupted.signal_number
    except ClosedPipe as error:
        _forget_stdout()
        return error.exit_code
    except VitError as error:
        if os.environ.get("VIT_DEBUG"):
            raise
        if error.is_told:
            return error.exit_code
        print(f"vit: {printable(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"  {printable(error.hint)}", file=sys.stderr)
        if error.caret is not None:
            print(f"  {' ' * error.caret}^", file=sys.stderr)
        return error.exit_code
    except (MemoryError, ImportError, OSError) as error:
        if os.environ.get("VIT_DEBUG") or not _is_short_of_memory(error):
            raise
        print("vit: there is not enough memory", file=sys.stderr)
        print("  see the limits (ulimit -v, MemoryMax); -b 1 and -j 0 take less", file=sys.stderr)
        return ExitCode.FATAL


def _check_folder() -> None:
    """Raises VitError where the folder that we were started in has been removed: no relative path
    means anything there, and no process starts."""
    try:
        os.getcwd()  # noqa: PTH109  # pathlib is not imported yet
    except FileNotFoundError:
        raise VitError(
            "the working folder is not there any more", "cd to a folder that is, and repeat"
        ) from None


def _is_short_of_memory(error: Exception) -> bool:
    """Whether the system has given no more, be it only to load a library."""
    is_refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    is_unmapped = isinstance(error, ImportError) and "failed to map segment" in str(error)
    return isinstance(error, MemoryError) or is_refused or is_unmapped


def _open_standard_descriptors() -> None:
    """What is closed when we are started (`>&-`) reads and writes nothing; else the next file that
    is opened would be standard output to every library, and to the image workers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the run in good order, the second one at once. What was
    ignored when we were started (nohup, a background job) stays ignored.

    `timeout` and others signal a process and then its whole group: what comes twice in an instant
    is one signal.
    """
    first = 0.0

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        nonlocal first
        if not first:
            first = time.monotonic()
            interrupts.strike(number)
        elif time.monotonic() - first > ONE_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    interrupts.forget()
    before = {}
    for number in SIGNALS:
        with contextlib.suppress(ValueError):  # not in the main thread: the caller's business
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    except Exception as error:
        cause = interrupts.cause(error)
        if cause is error:
            raise
        raise cause from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _again(words: Sequence[str]) -> str:
    """The command with --resume, as a shell reads it; a very long one is known to who gave it, and
    so is what stood before it (torchrun)."""
    command = shlex.join([*words, *(["--resume"] if "--resume" not in words else [])])
    is_whole = len(command) < MAX_COMMAND and os.environ.get("WORLD_SIZE", "1") == "1"
    return printable(command) if is_whole else "the same command and --resume"


def _forget_stdout() -> None:
    """Nothing more can be written; the interpreter must not try it at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
