"""The tables of `vit bench` on a terminal: a line for each way to run the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitcli.errors import printable

if TYPE_CHECKING:
    from vitcli.tasks.bench.bench import Bench
    from vitcli.tasks.bench.verdict import Advice, BenchRow


@contextmanager
def status(*, is_shown: bool) -> Iterator[Callable[[str], None]]:
    """Show the current step at the bottom of a terminal, and nothing elsewhere."""
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    if not is_shown or not console.is_terminal:
        yield lambda text: None
        return
    with console.status(Text("starting")) as shown:
        yield lambda text: shown.update(Text(text))


def print_bench(found: Bench) -> None:
    """Print the measurements and the best commands."""
    console = Console(markup=False, highlight=False, emoji=False)
    limits = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in found.limits.items())
    console.print(
        f"{printable(found.model)} on {found.device}, {found.threads} threads; "
        f"{printable(found.images)}; {found.gflops:.3g} GFLOPs an image",
        soft_wrap=True,
    )
    console.print(f"maximum rate of matrix products, in GFLOP/s: {limits}\n", soft_wrap=True)
    ready = [row for row in found.rows if row.workers is None]
    if ready:
        console.print(_ready(ready))
    read = [row for row in found.rows if row.workers is not None]
    if read:
        console.print()
        console.print(_read(read))
    for command, group in _by_command(found.advice).items():
        console.print()
        for advice in group:
            console.print(Text(f"{advice.words}: {_figure(advice)}", style="bold"))
        console.print(f"  {printable(command)}", soft_wrap=True)


def _by_command(advice: Sequence[Advice]) -> dict[str, list[Advice]]:
    """The advice for each command: one command may be the best for several purposes."""
    found: dict[str, list[Advice]] = {}
    for one in advice:
        found.setdefault(one.row.command, []).append(one)
    return found


def _figure(advice: Advice) -> str:
    match advice.purpose:
        case "latency":
            return f"{advice.row.latency_ms or 0:,.1f} ms"
        case "memory":
            return f"{_megabytes(advice.row)} MB"
        case _:
            return f"{_rate(advice.row)} images/s"


def _ready(rows: Sequence[BenchRow]) -> Table:
    """Images per second for each batch size; the other columns belong to the best one."""
    sizes = sorted({row.batch_size for row in rows})
    table = _table("images/s, decoded images", [f"b{size}" for size in sizes])
    for name in ("ms", "MB", "cosine", "top-1", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, group in groupby(rows, key=lambda row: row.candidate):
        by_size = {row.batch_size: row for row in group}
        best = max(by_size.values(), key=lambda row: row.images_per_second)
        share = "" if best.limit_share is None else f"{best.limit_share:.0%}"
        latency = "" if best.latency_ms is None else f"{best.latency_ms:,.1f}"
        table.add_row(
            str(best.candidate),
            *(_cell(by_size.get(size), best) for size in sizes),
            latency,
            _megabytes(best),
            *_likeness(best),
            share,
        )
    return table


def _read(rows: Sequence[BenchRow]) -> Table:
    """Images per second for each number of workers."""
    counts = sorted({row.workers for row in rows if row.workers is not None})
    table = _table("images/s, from files", [f"j{count}" for count in counts])
    for name in ("batch", "MB", "cosine", "top-1", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, group in groupby(rows, key=lambda row: (row.candidate, row.decode)):
        by_count = {row.workers: row for row in group}
        best = max(by_count.values(), key=lambda row: row.images_per_second)
        table.add_row(
            f"{best.candidate}, {best.decode}",
            *(_cell(by_count.get(count), best) for count in counts),
            str(best.batch_size),
            _megabytes(best),
            *_likeness(best),
            "" if best.limit_share is None else f"{best.limit_share:.0%}",
        )
    return table


def _table(first: str, numbers: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cell(row: BenchRow | None, best: BenchRow) -> Text:
    return Text("-" if row is None else _rate(row), style="bold green" if row is best else "")


def _rate(row: BenchRow) -> str:
    rate = row.images_per_second
    return f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}"


def _megabytes(row: BenchRow) -> str:
    """The peak memory: of the GPU, if there is one."""
    count = row.peak if row.device_peak is None else row.device_peak
    return "" if count is None else f"{count / 1e6:,.0f}"


def _likeness(row: BenchRow) -> tuple[str, str]:
    like = row.likeness
    if like is None:
        return "", ""
    return f"{like.cosine:.4f}", "" if like.agreement is None else f"{like.agreement:.1%}"
