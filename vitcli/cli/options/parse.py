"""Parse the values of options. The functions raise UsageError for an invalid value."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from vitcli.cli.options.options import OnError
from vitcli.engines import MergeTokens
from vitcli.errors import UsageError
from vitcli.jobs.job import BatchSize
from vitcli.jobs.tolerance import Tolerance
from vitcli.stores import Place, place_of

MAX_PIXELS = 1e15
MAX_SIDE = 16_384  # pixels of a model's input
MAX_NUMBER, MAX_SEED = 1 << 31, 1 << 63
STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def shorten(text: str) -> str:
    """Shorten a value for a message."""
    return text if len(text) <= 40 else text[:40] + "…"


def check_number(name: str, value: object) -> None:
    """Raise UsageError for a number that is too large for every option, infinite or NaN."""
    limit = MAX_SEED if name == "seed" else MAX_NUMBER
    is_wrong = isinstance(value, int | float) and not -limit <= value <= limit
    if is_wrong:  # also for NaN, for which no comparison holds
        option = f"--{name.strip('_').replace('_', '-')}"
        raise UsageError(f"{option} {shorten(f'{value:g}')} is out of range", "give another number")


def output_place(out: str | None) -> Place | None:
    """As `place_of`, but None for any name of standard output: the shell has opened its file, so it
    must not be replaced."""
    if out is None or str(Path(out)) in STANDARD_OUTPUT:
        return None
    return place_of(out)


def parse_pixels(text: str) -> int:
    """Parse `89.5M`, `2e6` or `1G` to a number of pixels."""
    match = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*([kMG]?)", text.strip())
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is not None:
        number *= {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]]
    if not 1 <= number <= MAX_PIXELS:
        raise UsageError(
            f"--max-pixels {shorten(text)} is not a number of pixels", "give one such as 89.5M"
        )
    return int(number)


def parse_size(option: str, text: str | None) -> tuple[int, int] | None:
    """Parse `384` or `224x160` (height x width) to (height, width)."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})(?:[xX](\d{1,9}))?", text.strip())
    sides = [int(side) for side in match.groups() if side] if match else []
    if not sides or not all(0 < side <= MAX_SIDE for side in sides):
        raise UsageError(
            f"{option} {shorten(text)} is not a size",
            f"give a number, or HEIGHTxWIDTH such as 224x160, of at most {MAX_SIDE:,}",
        )
    return sides[0], sides[-1]


def parse_age(option: str, text: str | None) -> float:
    """Parse `30d`, `12h` or `2w` to seconds; None to 0."""
    if text is None:
        return 0.0
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smhdw])", text.strip())
    if match is None:
        raise UsageError(
            f"{option} {shorten(text)} is not an age",
            "give a number with s, m, h, d or w, such as 30d",
        )
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}[match[2]]


def parse_batch_size(text: str) -> BatchSize:
    """Parse `auto` or a number."""
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"0*\d{1,7}", text):
        raise UsageError(
            f"--batch-size {shorten(text)} is not a number of images", "give a number, or auto"
        )
    return int(text)


def parse_merging(text: str) -> MergeTokens:
    """Parse `auto` or a number of pairs."""
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"0*\d{1,7}", text):
        raise UsageError(
            f"--merge-tokens {shorten(text)} is not a number of pairs", "give a number, or auto"
        )
    return int(text)


def parse_devices(text: str) -> tuple[str, ...]:
    """Parse `0,1` to ("0", "1")."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise UsageError(f"--devices {text} names no device", "give all, or numbers such as 0,1")
    return names


def parse_workers(text: str) -> int | None:
    """Parse a number, or `auto` to None."""
    if text == "auto":
        return None
    if not re.fullmatch(r"0*\d{1,4}", text):
        raise UsageError(
            f"--workers {shorten(text)} is not a number of processes", "give a number, or auto"
        )
    return int(text)


def is_address(text: str) -> bool:
    """Whether a text is the address of a Ray cluster: HOST:PORT, ray://..., local, auto."""
    return re.fullmatch(r"auto|local|ray://\S+|[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+", text) is not None


def with_address(words: Sequence[str]) -> list[str]:
    """Add `auto` after a `--ray` without an address: Typer has no optional values."""
    complete: list[str] = []
    for number, word in enumerate(words):
        complete.append(word)
        if word == "--":
            return [*complete, *words[number + 1 :]]
        if word == "--ray" and not is_address("".join(words[number + 1 : number + 2])):
            complete.append("auto")
    return complete


def parse_layers(text: str) -> tuple[int, ...]:
    """Parse `3,6,-1` to (3, 6, -1)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--layers {text} is not a list of layers", "give numbers such as 3,6,-1"
        ) from None


def parse_tolerance(max_errors: str | None, on_error: OnError) -> Tolerance:
    """Parse --max-errors; `--on-error stop` is the same as a limit of 0."""
    if on_error == "stop" and max_errors is not None:
        raise UsageError("--max-errors and --on-error stop contradict each other", "use one")
    if on_error == "stop":
        return Tolerance(count=0)
    return Tolerance.parse(max_errors) if max_errors is not None else Tolerance()


def check_paths(paths: list[str] | None, files_from: str | None) -> tuple[str, ...]:
    """Return the paths; if there are none and standard input is a pipe or a file, `-`. Raise
    UsageError if the list would come from a terminal."""
    if not paths and files_from is None:
        return ("-",) if _has_list() else ()
    if "-" in (*(paths or ()), files_from) and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError(
            "paths expected on stdin", "pipe them in: find photos -name '*.jpg' | vit ... -"
        )
    return tuple(paths or ())


def _has_list() -> bool:
    """Whether standard input is a pipe or a file, not a terminal, device or socket."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
