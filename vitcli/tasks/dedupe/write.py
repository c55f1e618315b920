"""Write the groups of twins: rows as JSON lines, CSV or TSV, or the paths of those not kept."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vitcli.errors import OutputError, UsageError, printable
from vitcli.files import explained, whole_file, write_all
from vitcli.interrupts import interrupts
from vitcli.sinks.text import json_line, path_fields
from vitcli.tasks.dedupe.find import Found

NAMES = ("group", "path", "kind", "score", "keep", "why", "of", "row")
FORMATS = ("jsonl", "csv", "tsv")


def format_of(out: Path | None, format: str | None) -> str:
    """The format of an output, by its suffix if it is not given. Raises UsageError."""
    found = format or ("jsonl" if out is None else out.suffix.lower().lstrip("."))
    if found not in FORMATS:
        raise UsageError(
            f"{printable(str(out))} has no format of rows", f"use {', '.join(FORMATS)}, or --format"
        )
    return found


def check_new(path: Path | None, *, overwrite: bool) -> None:
    """Raise OutputError for an output that exists, or whose folder does not."""
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else f"{path.parent} is not a directory"
        raise OutputError(f"cannot write {printable(str(path))}: {what}")
    if path.is_file() and not overwrite:
        raise OutputError(f"{printable(str(path))} exists", "use --overwrite to replace it")


def write_rows(found: Found, out: Path | None, format: str) -> None:
    """Write a row for each member, to a file that is complete or not there. Raises WriteError."""
    lines = _json if format == "jsonl" else _csv("\t" if format == "tsv" else ",")
    head = b"" if format == "jsonl" else lines(dict(zip(NAMES, NAMES, strict=True)))
    _write(out, head, (lines(twin.record()) for twin in found.twins))


def write_paths(found: Found, out: Path | None, *, null: bool) -> None:
    """Write the paths that are not kept, byte for byte. Raises WriteError."""
    end = b"\0" if null else b"\n"
    _write(out, b"", (os.fsencode(twin.path) + end for twin in found.twins if not twin.keep))


def _write(out: Path | None, head: bytes, lines: Iterator[bytes]) -> None:
    with _opened(out) as file, explained(out):
        file.write(head)
        for line in lines:
            file.write(line)


@contextmanager
def _opened(out: Path | None) -> Iterator[IO[bytes]]:
    if out is not None:
        with interrupts.held(), whole_file(out) as file:
            yield file
        interrupts.check()
        return
    whole = io.BytesIO()
    yield whole
    with explained(None):
        write_all(sys.stdout.buffer, whole.getbuffer())
        sys.stdout.buffer.flush()


def _json(record: dict[str, object]) -> bytes:
    """A line of JSON; odd bytes of paths are in `path_bytes` and `of_bytes`, as base64."""
    fields: dict[str, object] = {}
    for name, value in record.items():
        if name in ("path", "of"):
            shown = path_fields(str(value))
            fields |= {name + key.removeprefix("path"): text for key, text in shown.items()}
        else:
            fields[name] = value
    return json_line(fields)


def _csv(separator: str) -> Callable[[dict[str, object]], bytes]:
    def line(record: dict[str, object]) -> bytes:
        text = io.StringIO()
        cells = (str(v).lower() if isinstance(v, bool) else v for v in record.values())
        csv.writer(text, delimiter=separator, lineterminator="\n").writerow(cells)
        return text.getvalue().encode("utf-8", "surrogateescape")

    return line
