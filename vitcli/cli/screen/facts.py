"""Lay out names and values in two columns: the pages of `vit info`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from vitcli.errors import printable

WIDTH = 80
NAME_WIDTH = 14
STEP_WIDTH = 34  # of a preprocessing step; its source follows


def facts_as_text(facts: Iterable[tuple[str, str]]) -> str:
    """Write each name and its value, which may have several lines."""
    return "\n".join(line for name, text in facts for line in _lines(name, text))


def _lines(name: str, text: str) -> Iterator[str]:
    """Yield the name and the text next to it, in lines of up to WIDTH; long words stay whole."""
    for part in map(printable, text.split("\n")):
        column = STEP_WIDTH if part[STEP_WIDTH - 2 : STEP_WIDTH] == "  " else 0
        yield from textwrap.wrap(
            part,
            WIDTH,
            initial_indent=f"{name:<{NAME_WIDTH}}",
            subsequent_indent=" " * (NAME_WIDTH + column),
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        name = ""
