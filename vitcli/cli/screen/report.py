"""Reports for machines: a JSON line for each event, and a JSON summary at the end."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shlex
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vitcli.checkpoints.resolve import JSONS, WEIGHTS
from vitcli.errors import ExitCode, Interrupted, OutputError, VitError, hidden
from vitcli.jobs.job import Summary
from vitcli.records import Progress

if TYPE_CHECKING:  # it imports numpy, which `vit --help` does not need
    from vitcli.jobs.apart import Read

VERSIONS = ("vitcli", "torch", "numpy", "pillow")
REPORTED = ("exit_code", "error", "started", "ended", "versions")  # in every report
MAX_BYTES = 1 << 20  # bytes of a report
ATTENTION = "attention.jsonl"  # in the output folder of vit attention


def now() -> str:
    """The current time, such as `2026-11-25T04:05:06.789Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def log(event: str, fields: Mapping[str, object]) -> None:
    """Print one event on stderr."""
    if sys.stderr is not None:
        line = json.dumps({"time": now(), "event": event, **fields}, allow_nan=False)
        print(hidden(line), file=sys.stderr, flush=True)


def counts(progress: Progress, seconds: float, summary: Summary | None = None) -> dict[str, object]:
    """The counts and the speed of a run so far; of a finished one, if its `summary` is given.

    `done` and `failed` count what the summary counts: images, texts, queries or rows; `images`
    counts images.
    """
    is_other = summary is not None and summary.unit != "image"
    ended = summary if summary is not None and is_other else progress
    return {
        "images": progress.seen,
        "done": ended.done,
        "failed": ended.failed,
        "failures": {kind.value: times for kind, (times, _) in progress.kinds.items()},
        "seconds": round(seconds, 3),
        "images_per_second": round(progress.seen / seconds, 3) if seconds > 0 else 0.0,
    }


def extras(summary: Summary) -> dict[str, object]:
    """The counts of a finished run that its progress does not have."""
    return {
        "unlisted": summary.unlisted,
        "skipped": summary.skipped,
        **({"earlier": summary.earlier} if summary.earlier else {}),
        **({} if summary.selected is None else {"selected": summary.selected}),
        **({summary.units: summary.done} if summary.unit != "image" else {}),
    }


def outcome(error: BaseException | None) -> dict[str, object]:
    """The exit code of a run, and the message of the error that ended it."""
    words: dict[str, object] | None = None
    match error:
        case None:
            code = int(ExitCode.OK)
        case typer.Exit():
            code = error.exit_code
        case Interrupted():
            code = 128 + error.signal_number
            words = {"message": "interrupted", "hint": None}
        case VitError():
            code = int(error.exit_code)
            words = {"message": error.message, "hint": error.hint}
        case _:
            code = int(ExitCode.FATAL)
            words = {"message": f"{type(error).__name__}: {error}", "hint": None}
    return {"exit_code": code, "error": words}


def versions() -> dict[str, str]:
    from importlib.metadata import version  # slow to import, and only reports need it

    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}


def check(path: Path) -> None:
    """Raise OutputError, before anything is loaded, if the report cannot be written, or if it would
    replace a file that is not a report: `--summary *.jpg` must not destroy an image."""
    from vitcli.jobs.apart import identity_of

    folder, reason, hint = path.parent, "", "give --summary another file"
    if (descriptor := _descriptor(path)) is not None:
        reason = "" if _is_open(descriptor) else "it is not open"
    elif identity_of(path) in _standard():
        reason = "it is standard output or standard error"
    elif path.is_dir():
        reason, hint = "it is a directory", "name a file in it"
    elif not folder.exists():
        reason, hint = (
            f"there is no {folder}",
            f"make it first: mkdir -p {shlex.quote(str(folder))}",
        )
    elif not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = f"{folder} is not a writable directory"
    elif path.is_file() and not _is_report(path):
        reason = "it holds something else"
    if reason:
        raise OutputError(f"cannot write the summary to {path}: {reason}", hint)


def check_apart(path: Path, written: Sequence[Path], read: Iterable[Read]) -> None:
    """Raise OutputError if the report would replace a file that its run reads or writes. Each of
    `written` is a file, or a folder of many files."""
    from vitcli.files import is_special, real
    from vitcli.jobs.apart import identity_of, written_of
    from vitcli.sinks.files import BESIDE

    if _descriptor(path) is not None or is_special(path):
        return
    names = [name for out in written for name in (out, out / ATTENTION)]
    names += [out.with_name(out.stem + suffix) for out in written for suffix in BESIDE]
    place, identity = real(path), identity_of(path)
    is_written = place in written_of(names) or any(_is_part(place, real(out)) for out in written)
    roles = [role for file, role in read if identity and identity_of(file) == identity]
    roles += ["a file that this run writes"] * is_written
    if roles:
        raise OutputError(
            f"cannot write the summary to {path}: it is {roles[0]}", "give another name"
        )


def _is_part(place: Path, out: Path) -> bool:
    """Whether a path in an output folder may be a file of the run. A `.json` is one only if it has
    a name that runs use."""
    if place == out or not place.is_relative_to(out):
        return False
    return place.suffix != ".json" or place.name in (*JSONS, *WEIGHTS, "run.json", "metrics.json")


def _is_report(path: Path) -> bool:
    """Whether a file is a complete report or empty."""
    from vitcli.files import open_regular

    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES)
        value = json.loads(data) if data else {name: {} for name in REPORTED}
    except (OSError, ValueError, RecursionError):
        return False
    is_whole = isinstance(value, dict) and all(name in value for name in REPORTED)
    return is_whole and isinstance(value["versions"], dict)


def _descriptor(path: Path) -> int | None:
    """The descriptor that a path such as /dev/stderr names: the report is appended there."""
    names = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
    match = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d{1,9})", str(path))
    return int(match[1]) if match else names.get(str(path))


def _is_open(descriptor: int) -> bool:
    """Whether a descriptor can be written to."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except OSError:
        return False


def _standard() -> set[tuple[int, int]]:
    """The regular files that standard output and standard error write to."""
    files = [os.fstat(descriptor) for descriptor in (1, 2) if _is_open(descriptor)]
    return {(file.st_dev, file.st_ino) for file in files if stat.S_ISREG(file.st_mode)}


def write(path: Path, report: Mapping[str, object]) -> None:
    """Write the report, completely or not at all, replacing an earlier one."""
    from vitcli.files import write_whole

    text = hidden(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
    data, descriptor = text.encode("utf-8", "replace"), _descriptor(path)
    try:
        if descriptor is None:
            write_whole(path, data)
            return
        sys.stdout.flush()
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
    except VitError as error:
        raise OutputError(f"cannot write the summary to {path}: {error.message}") from None
    except OSError as error:
        raise OutputError(f"cannot write the summary to {path}: {error.strerror}") from None
