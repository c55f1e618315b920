"""Write text into Markdown so that it is read as text, on GitHub, on the hub and on the site."""

from __future__ import annotations

import re

from vitcli.errors import printable

SPECIAL = re.compile(r"([\\`*_{}\[\]#])|([<>&|~])")
CODE = re.compile(r"(`[^`]+`)")


def escaped(text: str) -> str:
    """The text in one line, with no character that means something in Markdown, HTML or a table."""
    return SPECIAL.sub(_inert, printable(text))


def _inert(match: re.Match[str]) -> str:
    """A backslash escape, or an entity where not every reader of Markdown knows the escape."""
    return f"\\{match[1]}" if match[1] else f"&#{ord(match[2])};"


def code(text: str) -> str:
    """A code span, with a longer fence for a text that contains one."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " * (text[:1] in ("`", "") or text[-1:] == "`")
    return f"{fence}{pad}{text}{pad}{fence}"


def with_code(text: str) -> str:
    """A text of ours, escaped but for its code spans."""
    return "".join(p if CODE.fullmatch(p) else escaped(p) for p in CODE.split(text))
