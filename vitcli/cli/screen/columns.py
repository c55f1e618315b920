"""Fit the columns of tables into the width of the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len, chop_cells
from rich.table import Table

GAP = 2  # characters between two columns
MIN_WIDTH = 4  # characters of a column, however narrow the terminal
BREAKS = ("/ ", "_-.,:")  # the characters after which a line may end, the better ones first


def columns(*, gap: int = GAP, shows_header: bool = True) -> Table:
    """Return a table without lines and without a margin."""
    padding = (0, gap, 0, 0)
    return Table(
        box=None, show_header=shows_header, padding=padding, pad_edge=False, header_style="bold"
    )


def width_of(texts: Iterable[str]) -> int:
    """Return the width of the longest text in characters of a terminal."""
    return max(map(cell_len, texts), default=0)


def shares(room: int, left: int, right: int) -> tuple[int, int]:
    """Divide a width between two columns that need `left` and `right`. The left one gets what it
    needs if the other leaves it or has half, the right one the rest."""
    left = max(MIN_WIDTH, min(left, max(room // 2, room - right)))
    return left, max(MIN_WIDTH, room - left)


def folded(text: str, width: int) -> list[str]:
    """Fold a text into lines of at most `width`, after a slash, a space or a separator in the
    second half of the line where there is one. Nothing is left out."""
    lines = []
    while cell_len(text) > width:
        head = chop_cells(text, width)[0]
        ends = (max(head.rfind(one) for one in ones) + 1 for ones in BREAKS)
        cut = next((end for end in ends if end > len(head) // 2), len(head))
        lines.append(text[:cut])
        text = text[cut:]
    return [*lines, text]
