"""Groups of twins as a table on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitcli.errors import printable

if TYPE_CHECKING:  # it imports numpy
    from vitcli.tasks.dedupe.twin import Twin


def print_twins(groups: Iterable[Sequence[Twin]]) -> None:
    """Print a line for each member; the kept one of a group is bold."""
    console = Console(markup=False, highlight=False, emoji=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("group", "kind", "score"):
        table.add_column(name, justify="right" if name != "kind" else "left", no_wrap=True)
    table.add_column("image", overflow="fold", ratio=1)
    table.add_column("why", no_wrap=True)
    for group in groups:
        for twin in group:
            why = f"kept: {twin.why}" if twin.keep else twin.why
            table.add_row(
                str(twin.group) if twin.keep else "",
                "" if twin.keep else twin.kind,
                "" if twin.keep else f"{twin.score:.4f}",
                Text(printable(twin.path), style="bold" if twin.keep else ""),
                Text(why, style="green" if twin.keep else ""),
            )
    console.print(table if table.row_count else "no twins")
