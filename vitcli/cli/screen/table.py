"""Predictions as a table on a terminal, printed batch by batch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitcli.checkpoints.catalogue import CatalogueEntry
from vitcli.errors import in_bytes, printable, shortened
from vitcli.records import Classified, Failure, Row, image_of
from vitcli.sinks.memory import NoSink
from vitcli.tasks.cache.entries import Entry

MAX_NAME = 200  # bytes of a label
BAR = 12  # characters of a full bar
EIGHTHS = " ▏▎▍▌▋▊▉"


class TableSink(NoSink):
    """Prints a line for each prediction. The first one of an image has the path."""

    def __init__(self, *, bars: bool = True) -> None:
        self._console = Console(markup=False, highlight=False, emoji=False)
        self._bars = bars
        self._is_empty = True

    def write(self, rows: Sequence[Row]) -> None:
        table = Table(box=None, show_header=self._is_empty, padding=(0, 2, 0, 0), expand=True)
        table.add_column("image", ratio=4, overflow="fold", header_style="bold")
        table.add_column("score", min_width=7, justify="right", no_wrap=True, header_style="bold")
        if self._bars:
            table.add_column("", width=BAR)
        table.add_column("label", ratio=5, overflow="fold", header_style="bold")
        for row in rows:
            self._add(table, row)
        self._is_empty = False
        self._console.print(table)

    def _add(self, table: Table, row: Row) -> None:
        path = Text(printable(image_of(row).path))
        if isinstance(row, Failure):
            reason = Text(f"{row.type}: {printable(shortened(row.message))}", style="red")
            table.add_row(path, "", *([""] * self._bars), reason)
        elif isinstance(row, Classified):
            for rank, p in enumerate(row.predictions):
                cells = [Text(bar(p.score) if row.are_shares else "", style="cyan")] * self._bars
                name = Text(
                    printable(shortened(p.label, MAX_NAME)), style="bold" if rank == 0 else ""
                )
                table.add_row(path if rank == 0 else "", Text(f"{p.score:.4f}"), *cells, name)
            if not row.predictions:
                table.add_row(
                    path, "", *([""] * self._bars), Text("(below the threshold)", style="dim")
                )


class ResultsTable:
    """Prints the nearest rows of each query; the first has the query."""

    def __init__(self) -> None:
        self._console = Console(markup=False, highlight=False, emoji=False)
        self._is_empty = True

    def __call__(self, records: Iterable[Mapping[str, Any]]) -> None:
        table = Table(box=None, show_header=self._is_empty, padding=(0, 2, 0, 0), expand=True)
        table.add_column("query", ratio=3, overflow="fold", header_style="bold")
        table.add_column("score", min_width=7, justify="right", no_wrap=True, header_style="bold")
        table.add_column("", width=BAR)
        table.add_column("found", ratio=5, overflow="fold", header_style="bold")
        for record in records:
            query = Text(printable(record["query"]))
            if "error" in record:
                error = record["error"]
                reason = f"{error['type']}: {printable(shortened(error['message']))}"
                table.add_row(query, "", "", Text(reason, style="red"))
                continue
            for rank, found in enumerate(record["results"]):
                score, name = found["score"], found.get("path", found.get("text", ""))
                cells = Text(f"{score:.4f}"), Text(bar(score), style="cyan")
                style = "bold" if rank == 0 else ""
                table.add_row(query if rank == 0 else "", *cells, Text(printable(name), style))
            if not record["results"]:
                table.add_row(query, "", "", Text("(nothing reaches the threshold)", style="dim"))
        self._is_empty = False
        self._console.print(table)


def bar(score: float) -> str:
    """Draw a probability as a bar of up to BAR characters."""
    eighths = round(max(0.0, min(1.0, score)) * BAR * 8)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def print_models(entries: Sequence[CatalogueEntry]) -> None:
    """Print the catalogue. A narrow terminal gets fewer columns; TSV and JSON have all."""
    console = Console(markup=False, highlight=False, emoji=False)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("model", overflow="fold", ratio=1)
    for name in ("params", "GFLOPs", "px", "acc"):
        table.add_column(name, justify="right", no_wrap=True)
    extra = [(None, "of"), (92, "gated"), (106, "advice"), (124, "licence"), (190, "source")]
    shown = [name for width, name in extra if width is None or console.width >= width]
    for name in shown:
        table.add_column(name, no_wrap=True)
    for e in entries:
        of = {"zero-shot": "0-shot"}.get(e.measure, e.measure)
        cells = {"of": of, "gated": "gated" if e.is_gated else "open", "advice": e.advice}
        cells |= {"licence": e.licence, "source": e.source}
        table.add_row(
            e.id,
            _millions(e.parameters),
            f"{e.gflops:.1f}",
            str(e.image),
            "-" if e.accuracy is None else f"{e.accuracy:.1f}",
            *(cells[name] for name in shown),
        )
    console.print(table)


def _millions(count: int) -> str:
    """A count in millions: 86.6M, 304M, 1136M."""
    millions = count / 1e6
    return f"{millions:.1f}M" if millions < 100 else f"{millions:.0f}M"


def print_cache(entries: Sequence[Entry]) -> None:
    """Print what the cache holds, and how long each entry has not been used."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("kind", no_wrap=True)
    table.add_column("name", overflow="fold", ratio=3)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("unused for", justify="right", no_wrap=True)
    table.add_column("about", overflow="fold", ratio=2)
    now = time.time()
    for entry in entries:
        outcome = "" if entry.outcome == "kept" else entry.outcome
        about = ", ".join(filter(None, (outcome, entry.about)))
        size, age = in_bytes(entry.bytes), _age(now - entry.used)
        table.add_row(entry.kind, printable(entry.name), size, age, printable(about))
    Console(markup=False, highlight=False, emoji=False).print(table)


def _age(seconds: float) -> str:
    """A time in its largest unit: 12 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
