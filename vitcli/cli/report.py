"""A run for machines: a line of JSON for each thing that happens, and one object at the end."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import typer

from vitcli.errors import ExitCode, Interrupted, OutputError, VitError, hidden
from vitcli.records import Progress
from vitcli.tasks.job import Summary

VERSIONS = ("vitcli", "torch", "numpy", "pillow")


def now() -> str:
    """`2026-11-25T04:05:06.789Z`"""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def log(event: str, fields: Mapping[str, object]) -> None:
    """One line on stderr."""
    if sys.stderr is not None:
        line = json.dumps({"time": now(), "event": event, **fields}, allow_nan=False)
        print(hidden(line), file=sys.stderr, flush=True)


def counts(progress: Progress, seconds: float) -> dict[str, object]:
    """Where a run stands."""
    return {
        "images": progress.seen,
        "done": progress.done,
        "failed": progress.failed,
        "failures": {kind.value: times for kind, (times, _) in progress.kinds.items()},
        "seconds": round(seconds, 3),
        "images_per_second": round(progress.seen / seconds, 3) if seconds > 0 else 0.0,
    }


def extras(summary: Summary) -> dict[str, object]:
    """What only a run that has come to its end knows."""
    return {
        "unlisted": summary.unlisted,
        "skipped": summary.skipped,
        **({"earlier": summary.earlier} if summary.earlier else {}),
        **({} if summary.selected is None else {"selected": summary.selected}),
    }


def outcome(error: BaseException | None) -> dict[str, object]:
    """How a run ended: its exit code, and the words of the error that ended it."""
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
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}


def check(path: Path) -> None:
    """Raise OutputError, before anything is loaded, where no report can be written, or where it
    would take the place of something else: `--summary *.jpg` must not cost a photograph."""
    folder, reason = path.parent, ""
    if path.is_dir():
        reason = "it is a directory"
    elif not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = f"{folder} is not a writable directory"
    elif path.is_file() and not _is_report(path):
        reason = "it holds something else"
    if reason:
        raise OutputError(f"cannot write the summary to {path}: {reason}")


def _is_report(path: Path) -> bool:
    """Whether an existing file may be an earlier report; so may an empty one."""
    try:
        with path.open("rb") as file:
            return file.read(1) in (b"", b"{")
    except OSError:
        return False


def write(path: Path, report: Mapping[str, object]) -> None:
    """Put the report in the place of an earlier one, whole or not at all."""
    data = hidden(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        if path.exists() and not path.is_file():  # /dev/stderr, a pipe
            path.write_bytes(data.encode("utf-8", "replace"))
            return
        with partial.open("wb") as file:
            file.write(data.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path.resolve())
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write the summary to {path}: {error.strerror}") from None
