"""Write the help of a command: the short one on one screen, and the whole one with every option.

Typer's own help is a flat list, which shows types of Python and cuts summaries.
"""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from vitcli.cli.options.declare import Declared, Group, declared
from vitcli.errors import UsageError

HELP_NAMES, ALL_NAMES = ("-h", "--help"), ("-hh", "--help-all")
NAME_WIDTH, WIDE_NAME_WIDTH = 26, 34  # of the column of options, and of it on a wide terminal
WIDE = 100  # columns
FEW = 14  # options: all of them fit on a screen
IS_WHOLE = "vitcli.help.is_whole"  # in the context of the parser
HELP_TEXT = "Show this help and exit."
HELP = Declared("help", HELP_NAMES, HELP_TEXT, Group.TALK, brief=HELP_TEXT)


def help_all(count: int) -> Declared:
    """The option that shows all `count` options of a command."""
    text = f"Show all {count} options, and their environment variables."
    return Declared("help_all", ALL_NAMES, text, Group.TALK, brief=text)


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
        return "\n".join(self._lines(ctx, shutil.get_terminal_size().columns))

    def _lines(self, ctx: Any, width: int) -> Iterator[str]:
        paragraphs, examples = parts_of(self.help or "")
        options = [one for one in declared(self.callback) if not one.is_hidden]
        is_whole = ctx.meta.get(IS_WHOLE, False) or len(options) <= FEW
        usage = " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)])
        yield from textwrap.wrap(f"Usage: {usage}", width, subsequent_indent=" " * 7)
        for paragraph in paragraphs if is_whole else paragraphs[:1]:
            yield ""
            yield from _filled(paragraph, width)
        yield from _section("Examples" if len(examples) > 1 else "Example", examples)
        yield from self._listed(ctx, width)
        shown = [one for one in options if is_whole or one.brief]
        more = [help_all(len(options))] if len(options) > FEW else []
        yield from _groups([*shown, HELP, *more], width, is_whole=is_whole)

    def _listed(self, ctx: Any, width: int) -> Iterator[str]:
        """Yield the list of the commands within this one."""
        yield from ()


class Command(Helped, TyperCommand):
    """A command. It refuses a second model if it takes one: the parser would take the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        models = [option for option in order if option.name == "model"]
        count = len(models) + isinstance(values.get("positional"), str)
        if count > 1 and models and not getattr(models[0], "multiple", False):
            raise UsageError(
                f"{count} models are given, and vit {self.name} takes one",
                "vit classify and vit evaluate average several",
            )
        return super().parse_args(ctx, args)


class CommandGroup(Helped, TyperGroup):
    """A command that has commands."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        is_optional = self.invoke_without_command
        return ["[OPTIONS]", "[COMMAND]" if is_optional else "COMMAND [ARGS]..."]

    def _listed(self, ctx: Any, width: int) -> Iterator[str]:
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        rows = [(name, (command.help or "").split("\n")[0]) for name, command in commands]
        column = 2 + max(len(name) for name, _ in rows)
        yield from _section("Commands", ())
        yield from _rows(rows, width, column)


def parts_of(text: str) -> tuple[list[str], list[str]]:
    """The paragraphs of a docstring, and its examples, which follow `Example:`."""
    described, _, rest = inspect.cleandoc(text).partition("\nExample")
    examples = [line.strip() for line in rest.removeprefix("s").removeprefix(":").split("\n")]
    paragraphs = [" ".join(part.split()) for part in described.split("\n\n")]
    return list(filter(None, paragraphs)), list(filter(None, examples))


def _groups(options: Sequence[Declared], width: int, *, is_whole: bool) -> Iterator[str]:
    """Yield the options, group by group."""
    column = WIDE_NAME_WIDTH if width >= WIDE else NAME_WIDTH
    longest = max(len(one.spelling) for one in options)
    for group in Group:
        rows = [
            (one.spelling, _described(one, is_whole=is_whole))
            for one in options
            if one.group is group
        ]
        if rows:
            yield from _section(group, ())
            yield from _rows(rows, width, min(column, longest + 2))


def _described(option: Declared, *, is_whole: bool) -> str:
    """The help of an option, with its default, and in the whole help its variable."""
    facts = []
    if option.variable is not None and is_whole:
        facts.append(f"env: {option.variable}")
    if option.default:
        facts.append(f"default: {option.default}")
    if option.is_required and option.names:
        facts.append("required")
    text = option.help if is_whole else option.brief
    return text + (f" [{'; '.join(facts)}]" if facts else "")


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


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
