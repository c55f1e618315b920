"""Rows into files: one class for each format, chosen by the suffix of the output.

A new format is one class and one row in `PREDICTIONS` or `EMBEDDINGS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vitcli.errors import UsageError, hidden
from vitcli.sinks.arrays import NpySink, NpzSink, SafetensorsSink
from vitcli.sinks.parquet import ParquetEmbeddingSink, ParquetSink
from vitcli.sinks.paths import PathsSink
from vitcli.sinks.sink import FileSink
from vitcli.sinks.text import CsvSink, JsonlSink, TsvSink, VectorJsonlSink
from vitcli.stores import Place

Formats = Mapping[str, type[FileSink]]

PREDICTIONS: Formats = {
    "jsonl": JsonlSink,
    "csv": CsvSink,
    "tsv": TsvSink,
    "parquet": ParquetSink,
}

EMBEDDINGS: Formats = {
    "npy": NpySink,
    "npz": NpzSink,
    "safetensors": SafetensorsSink,
    "jsonl": VectorJsonlSink,
    "parquet": ParquetEmbeddingSink,
}

FORMATS: Mapping[str, Formats] = {
    "classify": {**PREDICTIONS, "paths": PathsSink},  # --paths-only
    "embed": EMBEDDINGS,
    "attention": {"jsonl": JsonlSink},
}
"""The formats of each command, by name."""


def is_sealed(out: Path) -> bool:
    """Whether the suffix is that of a sealed format."""
    name = out.suffix[1:].lower()
    return any(name in known and known[name].is_sealed for known in FORMATS.values())


def choose_format(
    out: Place | None, asked: str | None, known: Formats, *, has_page: bool = False
) -> str:
    """The name in `asked`, else the suffix of the output, else JSONL. has_page: the command has
    --html. Raises UsageError."""
    if asked is not None:
        name, origin = asked, f"--format {asked}"
    elif out is not None and (path := PurePosixPath(str(out))).suffix:
        shown = PurePosixPath(hidden(str(out))).name
        name, origin = path.suffix[1:].lower(), f"the suffix of {shown}"
    else:
        name, origin = "jsonl", ""
    if name not in known:
        page = "; --html FILE writes a page" if has_page and name == "html" else ""
        raise UsageError(
            f"{origin} is not a known format", f"known are {', '.join(known)} (--format){page}"
        )
    return name
