"""Write TOML: the values that options have."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vitcli.errors import hidden, is_utf8

MAX_LISTED, MAX_TEXT = 1000, 200_000  # values of a list, such as inputs, and their characters


def value_text(value: Any) -> str | None:
    """The TOML of a value of an option; None for one that TOML does not have or that is secret."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str() | Path():
            text = str(value)
            is_fit = is_utf8(text) and hidden(text) == text
            return (
                json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") if is_fit else None
            )
        case list() | tuple():
            items = [value_text(item) for item in value]
            text = f"[{', '.join(filter(None, items))}]"
            is_short = len(items) <= MAX_LISTED and len(text) <= MAX_TEXT
            return text if is_short and None not in items else None
    return None


def why_not(value: Any) -> str:
    """Why `value_text` has no text for a value."""
    if value is None:
        return "not set"
    items = list(value) if isinstance(value, list | tuple) else [value]
    if len(items) > MAX_LISTED or sum(map(len, map(str, items))) > MAX_TEXT:
        return f"{len(items):,} values, too many for this file"
    if all(is_utf8(str(item)) for item in items):
        return "left out: it has a secret, such as the password of a URL"
    return "left out: its name is not UTF-8"


def aligned(lines: Iterable[tuple[str, str]], most: int = 44) -> list[str]:
    """Lines with their comments in one column, unless they are longer than `most`."""
    pairs = list(lines)
    width = max((len(line) for line, _ in pairs if len(line) <= most), default=0)
    return [f"{line:<{width}}  # {comment}" if comment else line for line, comment in pairs]
