"""What went wrong for a user: a message, a hint, and the exit code that goes with it."""

from __future__ import annotations

import re
from enum import IntEnum
from importlib.util import find_spec

MOST_OF_MESSAGE, MOST_OF_HINT = 1200, 600  # bytes, as they are printed
SHOWN = 400  # characters of a text with a caret
_LOGIN = re.compile(r"(\w://)[^/\s'\"]*@")
_QUERY = re.compile(r"(\w://[^\s?'\"]*\?)[^\s'\"]+")


class ExitCode(IntEnum):
    """What `vit` tells the shell. Signals add 128 + N: 129 SIGHUP, 130 SIGINT, 143 SIGTERM."""

    OK = 0
    FATAL = 1
    USAGE = 2
    SOME_FAILED = 3
    INTERRUPTED = 130
    CLOSED_PIPE = 141


class VitError(Exception):
    """A mistake or fault that a user can act on: what happened and where, and what to do."""

    exit_code = ExitCode.FATAL

    def __init__(self, message: str, hint: str | None = None, *, caret: int | None = None) -> None:
        self.message = shortened(message)
        super().__init__(self.message)
        if hint is not None and caret is not None:
            hint, caret = _around(hint, caret)
        self.hint = hint and shortened(hint, MOST_OF_HINT)
        self.caret = caret  # the place in the hint that is meant
        self.is_told = False  # somebody has said it already

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(VitError):
    """Options that contradict each other or the model."""

    exit_code = ExitCode.USAGE


class InputError(VitError):
    """The images asked for cannot be listed."""


class TooManyErrors(VitError):
    """More images have failed than the run was told to bear."""


class ModelNotFound(VitError):
    """No checkpoint answers to what was given as the model."""


class CheckpointError(VitError):
    """A checkpoint was found but cannot be used as it is."""


class OutputError(VitError):
    """The result cannot be written."""


class WriteError(OutputError):
    """The system refuses to write on: a full disk, a file too large, a device that fails."""


class ClosedPipe(OutputError):
    """Whoever read our standard output has gone away: `| head`. Nothing to complain about."""

    exit_code = ExitCode.CLOSED_PIPE


class DeviceError(VitError):
    """The device or dtype asked for is not there."""


def check_installed(
    what: str, *packages: str, extra: str, error: type[VitError] = DeviceError
) -> None:
    """Raise `error` if a package that `what` needs is not installed; pip's `extra` installs it."""
    absent = [package for package in packages if find_spec(package) is None]
    if absent:
        raise error(f"{what} needs {', '.join(absent)}: pip install 'vitcli[{extra}]'")


class Interrupted(BaseException):
    """A signal asked the run to end. Not an Exception, as KeyboardInterrupt is none."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
        self.is_told = False
        self.after = ""  # what was done: "1,204 of 5,000 images"
        self.can_resume = False


def printable(text: str) -> str:
    """Text for a message: control characters, and bytes that are not UTF-8, escaped; what URLs
    hold in secret left out."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in hidden(text)
    )


def shortened(text: str, most: int = MOST_OF_MESSAGE) -> str:
    """Text that takes at most so many bytes when it is printed; what is cut is its middle."""
    kept, size = text, most
    while len(kept) > most or len(printable(kept).encode("utf-8", "replace")) > most:
        size = size * 3 // 4
        kept = f"{text[: size * 2 // 3]} … {text[-size // 3 :]}"
    return kept


def _around(text: str, caret: int) -> tuple[str, int]:
    """The part of a long text where the caret is, and its place there."""
    if len(text) <= SHOWN:
        return text, caret
    start = max(0, min(caret - SHOWN // 2, len(text) - SHOWN))
    stop = start + SHOWN
    before, after = "…" * (start > 0), "…" * (stop < len(text))
    return before + text[start:stop] + after, caret - start + len(before)


def hidden(text: str) -> str:
    """Text without the names, passwords and signatures of the URLs in it:
    `https://***@host/a.jpg?…`."""
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1…", _LOGIN.sub(r"\1***@", text))


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: bytes that are not are surrogates in it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def in_bytes(size: float) -> str:
    """A length in bytes for a message, in the unit that suits it: 346 MB."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:.3g} TB"
