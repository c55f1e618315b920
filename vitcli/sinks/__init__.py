"""Rows into files: one class a format, chosen by suffix, final only when the run has finished.

A new format is one class and one row in `PREDICTIONS` or `EMBEDDINGS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Protocol, TypeAlias

from vitcli.errors import OutputError, UsageError, check_installed, hidden
from vitcli.records import ImageRef, Row, Sink
from vitcli.sinks import parquet
from vitcli.sinks.arrays import INDEX, ArraySink, NpySink, NpzSink, SafetensorsSink
from vitcli.sinks.files import Target
from vitcli.sinks.page import PAGE, Page, PageSink
from vitcli.sinks.paths import PathsSink
from vitcli.sinks.text import (
    META,
    CsvSink,
    EchoedJsonlSink,
    JsonlSink,
    LineSink,
    TsvSink,
    VectorJsonlSink,
)
from vitcli.stores import Place


class FileSink(Sink, Protocol):
    """A sink that says how many bytes of text it has made of each row."""

    def write(self, rows: Sequence[Row]) -> list[int]: ...


PREDICTIONS: dict[str, Callable[[Target], FileSink]] = {
    "jsonl": JsonlSink,
    "csv": CsvSink,
    "tsv": TsvSink,
    "parquet": parquet.ParquetSink,
}

ATTENTION: dict[str, Callable[[Target], FileSink]] = {
    "jsonl": JsonlSink,
    "jsonl, echoed": EchoedJsonlSink,
}

RowShape: TypeAlias = tuple[int, ...]

EMBEDDINGS: dict[str, Callable[[Target, RowShape, str], FileSink]] = {
    "npy": NpySink,
    "npz": NpzSink,
    "safetensors": SafetensorsSink,
    "jsonl": VectorJsonlSink,
    "parquet": parquet.ParquetEmbeddingSink,
}


@dataclass(frozen=True, slots=True)
class Form:
    """What a command writes: how it is opened, which files stand beside it, and, of an array,
    where its rows begin. The meta of an embedding says `row_shape` and `array_dtype`. Rows that are
    sealed cannot be taken over by a later run, nor merged, once the file is whole. `has_files` says
    whether the files that the text of a row names are there."""

    open: Callable[[Target, Mapping[str, Any]], FileSink]
    suffixes: tuple[str, ...] = ()
    data_start: Callable[[BinaryIO], int] | None = None
    is_sealed: bool = False
    has_files: Callable[[ImageRef, bytes], bool] | None = None


def form_of(command: str, format: str) -> Form:
    """`paths` and `paths -0` are what `vit classify --paths-only` writes."""
    if format.startswith("paths"):
        return Form(lambda target, meta: PathsSink(target, null=format.endswith("-0")))
    is_sealed = format == "parquet"
    if is_sealed:
        check_installed("Parquet", "pyarrow", extra="parquet", error=OutputError)
    if command == "attention":
        return Form(lambda target, meta: ATTENTION[format](target))
    if command == "classify":
        return Form(lambda target, meta: PREDICTIONS[format](target), is_sealed=is_sealed)
    kind = EMBEDDINGS[format]
    is_array = isinstance(kind, type) and issubclass(kind, ArraySink)
    return Form(
        lambda target, meta: kind(target, tuple(meta["row_shape"]), meta["array_dtype"]),
        (INDEX, META) if is_array else (META,),
        kind.data_start if isinstance(kind, type) and issubclass(kind, ArraySink) else None,
        is_sealed,
    )


def with_page(form: Form | None, page: Callable[[Mapping[str, Any]], Page]) -> Form:
    """The page that is made of the meta, and beside it the lines of `form`, if there is one."""

    def opened(target: Target, meta: Mapping[str, Any]) -> FileSink:
        beside = None if form is None else form.open(target, meta)
        assert beside is None or isinstance(beside, LineSink)
        return PageSink(target, page(meta), beside)

    return Form(opened, () if form is None else (PAGE,))


def choose_format(out: Place | None, asked: str | None, known: dict[str, object]) -> str:
    """The format asked for, else the one the suffix says, else JSONL. Raises UsageError."""
    if asked is not None:
        name, origin = asked, f"--format {asked}"
    elif out is not None and (path := PurePosixPath(str(out))).suffix:
        shown = PurePosixPath(hidden(str(out))).name
        name, origin = path.suffix[1:].lower(), f"the suffix of {shown}"
    else:
        name, origin = "jsonl", ""
    if name not in known:
        raise UsageError(f"{origin} is no known format", f"known are {', '.join(known)} (--format)")
    return name
