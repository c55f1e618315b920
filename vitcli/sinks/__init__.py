"""Rows into files: one class a format, chosen by suffix, final only when the run has finished.

A new format is one class and one row in `PREDICTIONS` or `EMBEDDINGS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from vitcli.errors import UsageError
from vitcli.records import Row, Sink
from vitcli.sinks.arrays import NpySink, NpzSink, SafetensorsSink
from vitcli.sinks.files import Target
from vitcli.sinks.text import CsvSink, JsonlSink, TsvSink, VectorJsonlSink


class FileSink(Sink, Protocol):
    """A sink that says how many bytes of text it has made of each row."""

    def write(self, rows: Sequence[Row]) -> list[int]: ...


PREDICTIONS: dict[str, Callable[[Target], FileSink]] = {
    "jsonl": JsonlSink,
    "csv": CsvSink,
    "tsv": TsvSink,
}

RowShape: TypeAlias = tuple[int, ...]

EMBEDDINGS: dict[str, Callable[[Target, RowShape, str], FileSink]] = {
    "npy": NpySink,
    "npz": NpzSink,
    "safetensors": SafetensorsSink,
    "jsonl": VectorJsonlSink,
}


def choose_format(out: Path | None, asked: str | None, known: dict[str, object]) -> str:
    """The format asked for, else the one the suffix says, else JSONL. Raises UsageError."""
    if asked is not None:
        name, origin = asked, f"--format {asked}"
    elif out is not None and out.suffix:
        name, origin = out.suffix[1:].lower(), f"the suffix of {out.name}"
    else:
        name, origin = "jsonl", ""
    if name not in known:
        raise UsageError(f"{origin} is no known format", f"known are {', '.join(known)} (--format)")
    return name
