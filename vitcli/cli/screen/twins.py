"""Groups of twins as a table on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from vitcli.bar import console
from vitcli.cli.screen.columns import GAP, MIN_WIDTH, columns, folded, width_of
from vitcli.errors import printable

if TYPE_CHECKING:  # it imports numpy
    from vitcli.tasks.dedupe.twin import Twin

TITLES = ("group", "kind", "score", "image", "why")


def print_twins(groups: Iterable[Sequence[Twin]]) -> None:
    """Print a line for each member; the kept one of a group is bold."""
    members = [twin for group in groups for twin in group]
    rows = list(map(_cells, members))
    out = console()
    if not rows:
        out.print("no twins")
        return
    widths = [width_of(column) for column in zip(TITLES, *rows, strict=True)]
    room = max(MIN_WIDTH, out.width - sum(widths) + widths[3] - GAP * (len(TITLES) - 1))
    table = columns()
    for title in TITLES:
        table.add_column(
            title, justify="right" if title in ("group", "score") else "left", no_wrap=True
        )
    for twin, (*numbers, image, why) in zip(members, rows, strict=True):
        path = Text("\n".join(folded(image, room)), style="bold" if twin.keep else "")
        table.add_row(*numbers, path, Text(why, style="green" if twin.keep else ""))
    out.print(table)


def _cells(twin: Twin) -> tuple[str, ...]:
    """The cells of a member, one for each title. The kept one names its group and the reason."""
    path = printable(twin.path)
    if twin.keep:
        return str(twin.group), "", "", path, f"kept: {twin.why}"
    return "", twin.kind, f"{twin.score:.4f}", path, twin.why
