"""Expand names with braces: `train-{000..099}.tar`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise, product

_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})(?:\.\.(\d{1,9}))?")


def expanded(text: str) -> Iterator[str]:
    """Expand `train-{000..099}.tar` and `{a,b}/*.jpg` as a shell and WebDataset do, with nested
    braces and leading zeros; return the name of an existing file unchanged."""
    braces = None if os.path.lexists(text) else _first_braces(text)
    if braces is None:
        yield text
        return
    before, choices, after = braces
    for choice, rest in product(choices, expanded(after)):
        yield from (before + middle + rest for middle in expanded(choice))


def _first_braces(text: str) -> tuple[str, Iterable[str], str] | None:
    """Return the text before the first choice in braces, the choices, and the text after it."""
    for brace in re.finditer("{", text):
        depth, cuts = 0, [brace.start()]
        for place in range(brace.start(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                cuts.append(place)
                choices = [text[start + 1 : end] for start, end in pairwise(cuts)]
                numbers = _RANGE.fullmatch(choices[0])
                if len(choices) > 1 or numbers:
                    names = _numbers(*numbers.groups("1")) if numbers else choices
                    return text[: cuts[0]], names, text[place + 1 :]
                break
            if depth == 1 and text[place] == ",":
                cuts.append(place)
    return None


def _numbers(first: str, last: str, step: str) -> Iterator[str]:
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    start, stop, by = int(first), int(last), int(step) or 1
    numbers = range(start, stop + 1, by) if start <= stop else range(start, stop - 1, -by)
    return (f"{number:0{width}}" for number in numbers)
