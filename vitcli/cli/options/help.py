"""Write the help of a command: the short one on one screen, and the whole one with every option.

Typer's own help is a flat list, which shows types of Python and cuts summaries.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from typer.core import TyperCommand, TyperGroup

from vitcli.cli.options.declare import Declared, Group, declared

HELP_NAMES, ALL_NAMES = ("-h", "--help"), ("-hh", "--help-all")
NAME_WIDTH, WIDE_NAME_WIDTH = 26, 34  # of the column of options, and of it on a wide terminal
WIDE = 100  # columns
DEFAULT_WIDTH, MIN_WIDTH = 80, 50
FEW = 14  # options: all of them fit on a screen
IS_WHOLE = "vitcli.help.is_whole"  # in the context of the parser
HELP_TEXT = "Show this help and exit."
HELP = Declared("help", HELP_NAMES, HELP_TEXT, Group.TALK, brief=HELP_TEXT)
HELP_ALL = Declared("help_all", ALL_NAMES, "Show all options and their variables.", Group.TALK)


class Helped:
    """A command whose help is in groups."""

    name: str | None
    help: str | None
    callback: Any

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[IS_WHOLE] = not set(ALL_NAMES).isdisjoint(args)
        rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words after the command's name in its usage."""
        arguments = [one for one in declared(self.callback) if not one.names]
        return ["[OPTIONS]", *(a.metavar if a.is_required else f"[{a.metavar}]" for a in arguments)]

    def get_help(self, ctx: Any) -> str:
        """The short help, or the whole help if that is asked for."""
        return "\n".join(self._lines(ctx, _width()))

    def _lines(self, ctx: Any, width: int) -> Iterator[str]:
        paragraphs, examples = parts_of(self.help or "")
        options = [one for one in declared(self.callback) if not one.is_hidden]
        is_whole = ctx.meta.get(IS_WHOLE, False) or len(options) <= FEW
        usage = " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)])
        yield from textwrap.wrap(f"Usage: {usage}", width, subsequent_indent=" " * 7)
        for paragraph in paragraphs if is_whole else paragraphs[:1]:
            yield ""
            yield from _filled(paragraph, width)
        lines = [line for example in examples for line in _broken(example, width - 2)]
        yield from _section("Examples" if len(examples) > 1 else "Example", lines)
        yield from self._listed(ctx, width)
        shown = [one for one in options if is_whole or one.brief]
        count = sum(bool(one.names) for one in options)
        more = replace(HELP_ALL, help=f"Show all {count} options and their variables.")
        helps = [HELP] if len(options) <= FEW else [HELP, more]
        yield from _groups([*shown, *helps], width, is_whole=is_whole)

    def _listed(self, ctx: Any, width: int) -> Iterator[str]:
        """Yield the list of the commands within this one."""
        yield from ()


class HelpedCommand(Helped, TyperCommand):
    """A command with help in groups."""


class HelpedGroup(Helped, TyperGroup):
    """A command that has commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] == ["help"]:  # vit help classify
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        is_optional = self.invoke_without_command
        return ["[OPTIONS]", "[COMMAND]" if is_optional else "COMMAND [ARGS]..."]

    def _listed(self, ctx: Any, width: int) -> Iterator[str]:
        rows = [(name, self.summary_of(name)) for name in self.list_commands(ctx)]
        column = 2 + max(len(name) for name, _ in rows)
        yield from _section("Commands", ())
        yield from _rows(rows, width, column)

    def summary_of(self, name: str) -> str:
        """The line that says what a command within it does."""
        return first_line(self.commands[name].help)


def first_line(text: str | None) -> str:
    return (text or "").split("\n")[0]


def _width() -> int:
    """The columns of the terminal, also if the help goes through a pager."""
    wide = DEFAULT_WIDTH
    with suppress(OSError, ValueError):
        wide = os.get_terminal_size(2).columns
    return max(MIN_WIDTH, shutil.get_terminal_size((wide or DEFAULT_WIDTH, 24)).columns)


def parts_of(text: str) -> tuple[list[str], list[str]]:
    """The paragraphs of a docstring, and its examples, which follow `Example:`."""
    described, _, rest = inspect.cleandoc(text).partition("\nExample")
    examples = [line.strip() for line in rest.removeprefix("s").removeprefix(":").split("\n")]
    paragraphs = [" ".join(part.split()) for part in described.split("\n\n")]
    return list(filter(None, paragraphs)), list(filter(None, examples))


def _groups(options: Sequence[Declared], width: int, *, is_whole: bool) -> Iterator[str]:
    """Yield the options, group by group."""
    column = WIDE_NAME_WIDTH if width >= WIDE else NAME_WIDTH
    room = column - 2, width - column - 2
    row = _whole if is_whole else partial(_brief, room=room)
    rows = [(one.group, *row(one)) for one in options]
    column = min(column, 2 + max(len(name) for _, name, _ in rows))
    for group in Group:
        of_group = [(name, text) for its, name, text in rows if its is group]
        if of_group:
            yield from _section(group, ())
            yield from _rows(of_group, width, column)


def _whole(option: Declared) -> tuple[str, str]:
    """How an option is typed; its help, variable and default."""
    variable = f"env: {option.variable}" if option.variable else ""
    return option.spelling, _with_facts(option, option.help, variable, option.default)


def _brief(option: Declared, room: tuple[int, int]) -> tuple[str, str]:
    """How an option is typed, and its help with a default of one word. `room` are the widths of
    the columns: the short text stands for a help that has no room in one line, and for a list of
    choices that has none."""
    default = option.default if " " not in option.default else ""
    text = _with_facts(option, option.help, default=default)
    has_room = len(option.spelling) <= room[0]
    if has_room and len(text) <= room[1]:
        return option.spelling, text
    spelling = option.spelling
    if not has_room and option.names:
        *_, name = option.names
        spelling = f"{', '.join(option.names)} {name.lstrip('-').replace('-', '_').upper()}"
    return spelling, _with_facts(option, option.brief, default=default)


def _with_facts(option: Declared, text: str, variable: str = "", default: str = "") -> str:
    required = "required" if option.is_required and option.names else ""
    facts = "; ".join(filter(None, (variable, default and f"default: {default}", required)))
    return text + f" [{facts}]" * bool(facts)


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield ""
    yield f"{title}:"
    yield from (f"  {line}" for line in lines)


def _rows(rows: Sequence[tuple[str, str]], width: int, column: int) -> Iterator[str]:
    """Yield names, and next to each its text; a name that is too long has a line of its own."""
    for name, text in rows:
        lines = textwrap.wrap(text, max(20, width - column - 2), break_on_hyphens=False)
        if len(name) > column - 2:
            yield f"  {name}"
            name = ""
        for line in lines:
            yield f"  {name:<{column}}{line}"
            name = ""


def _broken(example: str, width: int) -> Iterator[str]:
    """Yield a command in lines that a shell joins again, broken before options."""
    line = ""
    for part in re.split(r" (?=-)", example):
        if line and len(f"{line} {part} \\") > width:
            yield f"{line} \\"
            line = "   "
        line += f" {part}" if line else part
    yield line


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
