"""Print the tables of `vit bench` on a terminal, a line for each candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vitcli.bar import console
from vitcli.errors import printable

if TYPE_CHECKING:
    from vitcli.tasks.bench.bench import Bench
    from vitcli.tasks.bench.verdict import Advice, BenchRow

LAST_COLUMNS = ("MB", "cosine", "top-1", "limit")


@contextmanager
def status(*, is_shown: bool) -> Iterator[Callable[[str], None]]:
    """Show the current step at the bottom of a terminal; elsewhere, show nothing."""
    out = console(stderr=True)
    if not is_shown or not out.is_terminal:
        yield lambda text: None
        return
    with out.status(Text("starting")) as shown:
        yield lambda text: shown.update(Text(text))


def print_bench(result: Bench) -> None:
    """Print the measurements and the best commands."""
    out = console()
    limits = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in result.limits.items())
    out.print(
        f"{printable(result.model)} on {result.device}, {result.threads} threads; "
        f"{printable(result.images)}; {result.gflops:.3g} GFLOPs an image",
        soft_wrap=True,
    )
    out.print(f"maximum rate of matrix products, in GFLOP/s: {limits}\n", soft_wrap=True)
    ready = [row for row in result.rows if row.workers is None]
    if ready:
        names = ("images/s, decoded images", "b", ready, lambda row: str(row.candidate))
        out.print(_rates(*names, lambda row: row.batch_size, "ms", _latency))
    read = [row for row in result.rows if row.workers is not None]
    if read:
        out.print()
        names = ("images/s, from files", "j", read, lambda row: f"{row.candidate}, {row.decode}")
        out.print(
            _rates(*names, lambda row: row.workers or 0, "batch", lambda row: str(row.batch_size))
        )
    for command, group in _by_command(result.advice).items():
        out.print()
        for advice in group:
            out.print(Text(f"{advice.words}: {_figure(advice)}", style="bold"))
        out.print(f"  {printable(command)}", soft_wrap=True)


def _by_command(advice: Sequence[Advice]) -> dict[str, list[Advice]]:
    """The advice by command: one command may be the best for several purposes."""
    by_command: dict[str, list[Advice]] = {}
    for item in advice:
        by_command.setdefault(item.row.command, []).append(item)
    return by_command


def _figure(advice: Advice) -> str:
    match advice.purpose:
        case "latency":
            return f"{advice.row.latency_ms or 0:,.1f} ms"
        case "memory":
            return f"{_megabytes(advice.row)} MB"
        case _:
            return f"{_rate(advice.row)} images/s"


def _rates(
    title: str,
    prefix: str,
    rows: Sequence[BenchRow],
    name_of: Callable[[BenchRow], str],
    size_of: Callable[[BenchRow], int],
    extra: str,
    extra_of: Callable[[BenchRow], str],
) -> Table:
    """The images per second of each candidate by size; the last columns describe the best size."""
    sizes = sorted({size_of(row) for row in rows})
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(title)
    for column in (*(f"{prefix}{size}" for size in sizes), extra, *LAST_COLUMNS):
        table.add_column(column, justify="right", no_wrap=True)
    for name, group in groupby(rows, key=name_of):
        by_size = {size_of(row): row for row in group}
        best = max(by_size.values(), key=lambda row: row.images_per_second)
        share = "" if best.limit_share is None else f"{best.limit_share:.0%}"
        cells = (_cell(by_size.get(size), best) for size in sizes)
        table.add_row(name, *cells, extra_of(best), _megabytes(best), *_likeness(best), share)
    return table


def _latency(row: BenchRow) -> str:
    return "" if row.latency_ms is None else f"{row.latency_ms:,.1f}"


def _cell(row: BenchRow | None, best: BenchRow) -> Text:
    return Text("-" if row is None else _rate(row), style="bold green" if row is best else "")


def _rate(row: BenchRow) -> str:
    rate = row.images_per_second
    return f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}"


def _megabytes(row: BenchRow) -> str:
    """The peak memory of the GPU if there is one, else of the process."""
    count = row.peak if row.device_peak is None else row.device_peak
    return "" if count is None else f"{count / 1e6:,.0f}"


def _likeness(row: BenchRow) -> tuple[str, str]:
    like = row.likeness
    if like is None:
        return "", ""
    return f"{like.cosine:.4f}", "" if like.agreement is None else f"{like.agreement:.1%}"
