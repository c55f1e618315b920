"""Write text into Markdown so that it is read as text, on GitHub, on the hub and on the site."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from vitcli.errors import printable
from vitcli.render.document import settings

if TYPE_CHECKING:
    from jinja2 import Environment

SPECIAL = re.compile(r"([\\`*_{}\[\]#])|([<>&|~])")
CODE = re.compile(r"(`[^`]+`)")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def render(name: str, **values: object) -> str:
    """Fill in a template of Markdown of the folder `templates`. All values but Markdown are
    escaped. The filter `code` makes a code span of a value, `table` a table of a header and rows.
    """
    return _environment().get_template(name).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment

    environment = Environment(autoescape=False, finalize=_finalized, **settings())
    environment.filters["code"] = code
    environment.globals["table"] = table
    return environment


def _finalized(value: object) -> str:
    return value if isinstance(value, Markdown) else escaped(str(value))


def escaped(text: str) -> str:
    """The text in one line, with no character that means something in Markdown, HTML or a table."""
    return SPECIAL.sub(_inert, printable(text))


def _inert(match: re.Match[str]) -> str:
    """A backslash escape, or an entity where not every reader of Markdown knows the escape."""
    return f"\\{match[1]}" if match[1] else f"&#{ord(match[2])};"


def code(text: str) -> Markdown:
    """A code span, with a longer fence for a text that contains one."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " * (text[:1] in ("`", "") or text[-1:] == "`")
    return Markdown(f"{fence}{pad}{text}{pad}{fence}")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """A table. Its cells are escaped unless they are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return Markdown("\n".join(f"| {' | '.join(map(_finalized, line))} |" for line in lines))


def with_code(text: str) -> str:
    """A text of ours, escaped but for its code spans."""
    return "".join(p if CODE.fullmatch(p) else escaped(p) for p in CODE.split(text))
