"""Tables on a terminal: predictions, the results of a search, the catalogue, the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from vitcli.bar import console
from vitcli.checkpoints.catalogue import CatalogueEntry
from vitcli.cli.screen.columns import GAP, MIN_WIDTH, columns, folded, shares, width_of
from vitcli.errors import in_bytes, printable, shortened
from vitcli.records import Classified, Failure, Row, image_of
from vitcli.sinks.memory import NoSink
from vitcli.tasks.cache.entries import Entry

MAX_NAME = 200  # bytes of a label
MAX_MESSAGE = 30  # characters of a message that keep the other columns narrower
MIN_SCORE = 6  # characters of the column of scores
BAR = 12  # characters of a full bar
EIGHTHS = " ▏▎▍▌▋▊▉"
EXTRAS = ("gated", "advice", "licence", "source")  # columns of a wide terminal, in order


@dataclass(frozen=True, slots=True)
class Line:
    """One of the results of an image or a query, or a message in their place, without a score.
    `share` is drawn as a bar, if it is a number."""

    text: str
    score: str = ""
    share: float | None = None
    style: str = ""

    @property
    def width(self) -> int:
        """The width that is needed: that of the text. A message may be folded."""
        width = cell_len(self.text)
        return width if self.score else min(width, MAX_MESSAGE)


class ResultTable:
    """Prints the results of images or queries in the width of the terminal. The name of each stands
    in its first line, and is continued in the next ones; bars are drawn if there is room."""

    def __init__(self, left: str, right: str, *, bars: bool = True) -> None:
        self._console = console()
        self._titles, self._bars = (left, right), bars
        self._left, self._score, self._right = width_of([left]), MIN_SCORE, width_of([right])
        self._is_empty = True

    def print(self, results: Sequence[tuple[str, Sequence[Line]]]) -> None:
        """Print the results of some names. The columns are as wide as the longest so far need."""
        lines = [line for _, of_name in results for line in of_name]
        self._left = max(self._left, width_of(name for name, _ in results))
        self._score = max(self._score, width_of(line.score for line in lines))
        self._right = max([self._right, *(line.width for line in lines)])
        room = self._console.width - self._score - 2 * GAP
        has_bars = self._bars and self._left + self._right + BAR + GAP <= room
        left, right = shares(room - (BAR + GAP) * has_bars, self._left, self._right)
        table = columns(shows_header=self._is_empty)
        table.add_column(self._titles[0], width=left)
        table.add_column("score", width=self._score, justify="right", no_wrap=True)
        if has_bars:
            table.add_column("", width=BAR)
        table.add_column(self._titles[1], width=right)
        for name, of_name in results:
            pieces = folded(name, left)
            for number, line in enumerate(of_name, 1):
                text = folded(line.text, right)
                here = len(pieces) if number == len(of_name) else len(text)
                share = "" if line.share is None else bar(line.share)
                table.add_row(
                    Text("\n".join(pieces[:here])),
                    line.score,
                    *[Text(share, style="cyan")] * has_bars,
                    Text("\n".join(text), style=line.style),
                )
                pieces = pieces[here:]
        self._is_empty = False
        self._console.print(table)


class TableSink(NoSink):
    """Prints a line for each prediction, batch by batch."""

    def __init__(self, *, bars: bool = True) -> None:
        self._table = ResultTable("image", "label", bars=bars)

    def write(self, rows: Sequence[Row]) -> None:
        self._table.print([(printable(image_of(row).path), self._lines(row)) for row in rows])

    def _lines(self, row: Row) -> list[Line]:
        if isinstance(row, Failure):
            return [Line(f"{row.type}: {printable(shortened(row.message))}", style="red")]
        assert isinstance(row, Classified)
        lines = [
            Line(
                printable(shortened(p.label, MAX_NAME)),
                f"{p.score:.4f}",
                p.score if row.are_shares else None,
                "" if rank else "bold",
            )
            for rank, p in enumerate(row.predictions)
        ]
        return lines or [Line("(below the threshold)", style="dim")]


class QueryTable:
    """Prints the nearest rows of each query. Calls `begin` before."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._table, self._begin = ResultTable("query", "found"), begin

    def __call__(self, records: Iterable[Mapping[str, Any]]) -> None:
        self._begin()
        self._table.print([(printable(r["query"]), self._lines(r)) for r in records])

    def _lines(self, record: Mapping[str, Any]) -> list[Line]:
        if "error" in record:
            error = record["error"]
            return [Line(f"{error['type']}: {printable(shortened(error['message']))}", style="red")]
        lines = [
            Line(
                printable(found.get("path", found.get("text", ""))),
                f"{found['score']:.4f}",
                found["score"],
                "" if rank else "bold",
            )
            for rank, found in enumerate(record["results"])
        ]
        return lines or [Line("(nothing reaches the threshold)", style="dim")]


def bar(score: float) -> str:
    """Draw a probability as a bar of up to BAR characters."""
    eighths = round(max(0.0, min(1.0, score)) * BAR * 8)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def print_models(entries: Sequence[CatalogueEntry]) -> None:
    """Print the catalogue, with as many columns as fit on the terminal; TSV and JSON have all."""
    rows = [_model_cells(entry) for entry in entries]
    widths = {name: width_of([name, *(row[name] for row in rows)]) for name in rows[0]}
    out = console()
    shown = [name for name in widths if name not in EXTRAS]
    for name in EXTRAS:
        if sum(widths[other] + 1 for other in (*shown, name)) > out.width + 1:
            break
        shown.append(name)
    width = out.width - sum(widths[name] + 1 for name in shown if name != "model")
    table = columns(gap=1)
    for name in shown:
        right = name in ("params", "GFLOPs", "px", "acc")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "model")
    for row in rows:
        row["model"] = "\n".join(folded(row["model"], max(MIN_WIDTH, width)))
        table.add_row(*(row[name] for name in shown))
    out.print(table)


def _model_cells(entry: CatalogueEntry) -> dict[str, str]:
    """The cells of a model by their column, EXTRAS last."""
    return {
        "model": entry.id,
        "params": _millions(entry.parameters),
        "GFLOPs": f"{entry.gflops:.1f}",
        "px": str(entry.image),
        "acc": "-" if entry.accuracy is None else f"{entry.accuracy:.1f}",
        "of": {"zero-shot": "0-shot"}.get(entry.measure, entry.measure),
        "gated": "gated" if entry.is_gated else "open",
        "advice": entry.advice,
        "licence": entry.licence,
        "source": entry.source,
    }


def _millions(count: int) -> str:
    """A count in millions: 86.6M, 304M, 1136M."""
    millions = count / 1e6
    return f"{millions:.1f}M" if millions < 100 else f"{millions:.0f}M"


def print_cache(entries: Sequence[Entry]) -> None:
    """Print what the cache holds, and how long each entry has not been used."""
    table = columns()
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
    console().print(table)


def _age(seconds: float) -> str:
    """A time in its largest unit: 12 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
