"""The commands of the app as plain data, for what describes them: completions, reference, manual.

They are read from the parser that the command line uses, so they cannot differ from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from vitcli.cli.app import app
from vitcli.cli.options.declare import Declared, Group, declared
from vitcli.cli.options.help import HELP, HELP_ALL, parts_of


@dataclass(frozen=True, slots=True)
class Command:
    """A command. The name of a nested one has two words, that of `vit` itself none. `options` has
    the options of its help; `nested` the last words of the commands within it."""

    name: str
    usage: str
    paragraphs: tuple[str, ...]
    examples: tuple[str, ...]
    arguments: tuple[Declared, ...]
    options: tuple[Declared, ...]
    nested: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        return self.name.split()

    @property
    def full_name(self) -> str:
        """`vit models pull`."""
        return " ".join(["vit", *self.words])

    @property
    def help(self) -> str:
        """The line that says what it does."""
        return self.paragraphs[0]

    def groups(self) -> Iterator[tuple[Group, list[Declared]]]:
        """Yield the groups of the help, each with its arguments and options."""
        for group in Group:
            members = [one for one in (*self.arguments, *self.options) if one.group is group]
            if members:
                yield group, members


def root() -> Command:
    """`vit` itself."""
    return _command(typer.main.get_command(app), [])


def commands() -> list[Command]:
    """All commands in the order of the help; one that has commands comes before them."""
    return list(_within(typer.main.get_command(app), []))


def _within(parser: Any, outer: list[str]) -> Iterator[Command]:
    for name, inner in parser.commands.items():
        yield _command(inner, [*outer, name])
        if hasattr(inner, "commands"):
            yield from _within(inner, [*outer, name])


def _command(parser: Any, words: list[str]) -> Command:
    paragraphs, examples = parts_of(parser.help)
    shown = [one for one in declared(parser.callback) if not one.is_hidden]
    return Command(
        name=" ".join(words),
        usage=" ".join(["vit", *words, *parser.collect_usage_pieces(None)]),
        paragraphs=tuple(paragraphs),
        examples=tuple(examples),
        arguments=tuple(one for one in shown if not one.names),
        options=(*(one for one in shown if one.names), HELP, HELP_ALL),
        nested=tuple(getattr(parser, "commands", ())),
    )
