"""The errors that users see: a message, a hint, and an exit code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from importlib.util import find_spec

MAX_MESSAGE, MAX_HINT = 1200, 600  # bytes, as printed
MAX_CARET_TEXT = 400  # characters
_LOGIN = re.compile(r"(\w://)[^/\s'\"]*@")
_QUERY = re.compile(r"(\w://[^\s?'\"]*\?)[^\s'\"]+")


class ExitCode(IntEnum):
    """The exit codes of `vit`. A signal N gives 128 + N: 129 SIGHUP, 130 SIGINT, 143 SIGTERM."""

    OK = 0
    FATAL = 1
    USAGE = 2
    SOME_FAILED = 3
    INTERRUPTED = 130
    CLOSED_PIPE = 141


class VitError(Exception):
    """An error that a user can act on: what happened, where, and what to do."""

    exit_code = ExitCode.FATAL

    def __init__(self, message: str, hint: str | None = None, *, caret: int | None = None) -> None:
        self.message = shortened(message)
        super().__init__(self.message)
        if hint is not None and caret is not None:
            hint, caret = _around(hint, caret)
        self.hint = hint and shortened(hint, MAX_HINT)
        self.caret = caret  # the index in the hint of what is wrong, which >>> points to
        self.is_told = False  # whether it has been printed

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(VitError):
    """Options contradict each other or the model."""

    exit_code = ExitCode.USAGE


class InputError(VitError):
    """The inputs cannot be listed."""


class TooManyErrors(VitError):
    """More images have failed than --max-errors allows."""


class ModelNotFound(VitError):
    """There is no checkpoint for a model spec."""


class ImageFailed(VitError):
    """An image has no result, and the caller in Python asked for an error instead of a row."""

    def __init__(self, path: str, type: str, reason: str) -> None:
        hint = "on_error='row' keeps its place, on_error='skip' leaves it out"
        super().__init__(f"{printable(path)}: {type}: {reason}", hint)
        self.path, self.type, self.reason = path, type, reason

    def __reduce__(self) -> tuple[type[ImageFailed], tuple[str, str, str]]:
        return ImageFailed, (self.path, self.type, self.reason)


class CheckpointError(VitError):
    """A checkpoint was found but cannot be used."""


class OutputError(VitError):
    """The result cannot be written."""


class WriteError(OutputError):
    """A write has failed: a full disk, a file too large, a faulty device."""


class ClosedPipe(OutputError):
    """The reader of standard output has closed it (`| head`): no message is printed."""

    exit_code = ExitCode.CLOSED_PIPE


class DeviceError(VitError):
    """The device, dtype or engine is not available."""


def check_installed(
    what: str, *packages: str, extra: str, error: type[VitError] = DeviceError
) -> None:
    """Raise `error` if a package that `what` needs is not installed; pip's `extra` installs it."""
    absent = [package for package in packages if find_spec(package) is None]
    if absent:
        raise error(f"{what} needs {', '.join(absent)}: {installing(extra)}")


def installing(extra: str) -> str:
    """Return the commands that install an extra, in one wording for all messages."""
    return f"pip install 'vitcli[{extra}]', or in a checkout pip install -e '.[{extra}]'"


class Interrupted(BaseException):
    """A signal asked the run to end. Like KeyboardInterrupt, it is not an Exception."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
        self.is_told = False
        self.after = ""  # the progress: "1,204 of 5,000 images"
        self.can_resume = False


def printable(text: str) -> str:
    """Prepare text for a message: escape control characters and bytes that are not UTF-8, and hide
    the secrets in URLs."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in hidden(text)
    )


def shortened(text: str, most: int = MAX_MESSAGE) -> str:
    """Cut out the middle of a text, so that it prints as at most `most` bytes."""
    short, size = text, most
    while len(short) > most or len(printable(short).encode("utf-8", "replace")) > most:
        size = size * 3 // 4
        short = f"{text[: size * 2 // 3]} … {text[-size // 3 :]}"
    return short


def _around(text: str, caret: int) -> tuple[str, int]:
    """Return the part of a long text around the caret, and the index of the caret in it."""
    if len(text) <= MAX_CARET_TEXT:
        return text, caret
    start = max(0, min(caret - MAX_CARET_TEXT // 2, len(text) - MAX_CARET_TEXT))
    stop = start + MAX_CARET_TEXT
    before, after = "…" * (start > 0), "…" * (stop < len(text))
    return before + text[start:stop] + after, caret - start + len(before)


def hidden(text: str) -> str:
    """Hide user names, passwords and signatures in URLs: `https://***@host/a.jpg?…`."""
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1…", _LOGIN.sub(r"\1***@", text))


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; surrogates, which stand for odd bytes, cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def listed(names: Sequence[str], most: int) -> str:
    """List the first names for a message: a, b, ..."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def in_bytes(size: float) -> str:
    """Format a number of bytes for a message: 346 MB."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:.3g} TB"


def per_second(number: float, unit: str) -> str:
    """Write a rate: `3.7 images/s`, `1,240 images/s`."""
    return f"{number:.1f} {unit}/s" if number < 10 else f"{number:,.0f} {unit}/s"
