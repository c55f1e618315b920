"""Lay out names and values in two columns: the pages of `vit info`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from vitcli.cli.screen.exit import line_width
from vitcli.errors import printable

MIN_WIDTH, WIDTH = 60, 80  # characters of a line on a narrow terminal, and without a terminal
NAME_WIDTH = 14
STEP_WIDTH = 34  # of a preprocessing step; its source follows


def facts_as_text(facts: Iterable[tuple[str, str]]) -> str:
    """Write each name and its value, which may have several lines, in the width of the terminal."""
    width = max(MIN_WIDTH, line_width() or WIDTH)
    return "\n".join(line for name, text in facts for line in lines_of(name, text, width))


def lines_of(name: str, text: str, width: int) -> Iterator[str]:
    """Yield the name and the text next to it, in lines of a width; long words stay whole."""
    for part in map(printable, text.split("\n")):
        column = STEP_WIDTH if part[STEP_WIDTH - 2 : STEP_WIDTH] == "  " else 0
        yield from textwrap.wrap(
            part,
            width,
            initial_indent=f"{name:<{NAME_WIDTH}}",
            subsequent_indent=" " * (NAME_WIDTH + column),
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        name = ""
