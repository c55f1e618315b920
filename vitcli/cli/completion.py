"""The commands' signatures into completion scripts for bash, zsh and fish.

Typer's own scripts start `vit` at every TAB and offer no file names. These are plain text that
the shell reads once. `make completions` writes them; a test compares them with the app.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import EnumType
from pathlib import Path
from types import NoneType
from typing import get_args

from typer.models import OptionInfo

from vitcli.cli.app import app

FILE_METAVARS = ("FILE", "MODEL")


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its spellings, what it says, and what may follow it."""

    names: tuple[str, ...]
    help: str
    takes_value: bool = False
    takes_file: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand."""

    name: str
    help: str
    options: tuple[Option, ...]


HELP = Option(("-h", "--help"), "Show this message and exit.")


def commands() -> list[Command]:
    """What the app offers, read from the functions that Typer itself reads."""
    found = []
    for registered in app.registered_commands:
        function = registered.callback
        assert function is not None and function.__doc__ is not None
        parameters = inspect.signature(function, eval_str=True).parameters.values()
        options = (*filter(None, map(_option, parameters)), HELP)
        help = function.__doc__.split("\n")[0]
        found.append(Command(registered.name or function.__name__, help, options))
    return found


def _option(parameter: inspect.Parameter) -> Option | None:
    """An annotated parameter; None for an argument."""
    kind, info = get_args(parameter.annotation)[:2]
    if not isinstance(info, OptionInfo):
        return None
    types = [t for t in get_args(kind) or (kind,) if t is not NoneType]
    spellings = (info.default, *(info.param_decls or ()))  # Annotated: no default stands there
    names = tuple(name for text in spellings for name in str(text).split("/"))
    return Option(
        names,
        info.help or "",
        takes_value=bool not in types,
        takes_file=Path in types or info.metavar in FILE_METAVARS,
        choices=tuple(str(c) for t in types if isinstance(t, EnumType) for c in t),  # type: ignore[var-annotated]
    )


def bash() -> str:
    """For `/usr/share/bash-completion/completions/vit`."""
    names = " ".join(command.name for command in commands())
    lines = [
        "# bash completion for vit. Made by `make completions`.",
        "_vit() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        "    COMPREPLY=()",
        "    if (( COMP_CWORD == 1 )); then",
        f'        COMPREPLY=($(compgen -W "{names} --help --version" -- "$cur"))',
        "        return",
        "    fi",
        '    case "${COMP_WORDS[1]} $prev" in',
    ]
    for command in commands():
        for option in command.options:
            if option.takes_value:
                patterns = "|".join(f'"{command.name} {name}"' for name in option.names)
                action = (
                    f'COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$cur"))'
                    if option.choices
                    else "compopt -o default"
                )
                lines.append(f"        {patterns}) {action}; return ;;")
    lines += ["    esac", '    case "${COMP_WORDS[1]}" in']
    for command in commands():
        words = " ".join(name for option in command.options for name in option.names)
        lines.append(f'        {command.name}) words="{words}" ;;')
    lines += [
        "    esac",
        '    if [[ "$cur" == -* ]]; then',
        '        COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "    else",
        "        compopt -o default",
        "    fi",
        "}",
        "complete -F _vit vit",
    ]
    return "\n".join(lines) + "\n"


def zsh() -> str:
    """For a folder of `fpath`, as `_vit`."""
    lines = ["#compdef vit", "# zsh completion for vit. Made by `make completions`.", "_vit() {"]
    lines += ["    local -a commands", "    commands=("]
    lines += [f"        {_quoted(f'{c.name}:{c.help}')}" for c in commands()]
    lines += [
        "    )",
        "    if (( CURRENT == 2 )); then",
        "        _describe command commands",
        "        _arguments '--help[Show this message and exit.]' '--version[Print the version.]'",
        "        return",
        "    fi",
        '    local command="${words[2]}"',
        "    shift words",
        "    (( CURRENT-- ))",
        '    case "$command" in',
    ]
    for command in commands():
        lines.append(f"        {command.name}) _arguments \\")
        lines += [f"            {_zsh_option(option)} \\" for option in command.options]
        lines += ["            '*:inputs:_files' ;;"]
    lines += ["    esac", "}", '_vit "$@"']
    return "\n".join(lines) + "\n"


def _zsh_option(option: Option) -> str:
    text = "".join(f"\\{c}" if c in "[]:\\" else c for c in option.help)
    value = ""
    if option.takes_value:
        action = "_files" if option.takes_file else f"({' '.join(option.choices)})"
        value = f":{option.names[-1].lstrip('-')}:{action if action != '()' else ''}"
    described = _quoted(f"[{text}]{value}")
    if len(option.names) == 1:
        return option.names[0] + described
    return "{" + ",".join(option.names) + "}" + described


def fish() -> str:
    """For `~/.config/fish/completions/vit.fish`."""
    lines = ["# fish completion for vit. Made by `make completions`."]
    first = "__fish_use_subcommand"
    for command in commands():
        lines.append(f"complete -c vit -f -n {first} -a {command.name} -d {_quoted(command.help)}")
    lines.append(f"complete -c vit -n {first} -l version -d {_quoted('Print the version.')}")
    lines.append(f"complete -c vit -s h -l help -d {_quoted(HELP.help)}")
    for command in commands():
        for option in command.options[:-1]:
            lines.append(" ".join(_fish_words(command, option)))
    return "\n".join(lines) + "\n"


def _fish_words(command: Command, option: Option) -> Iterator[str]:
    yield f"complete -c vit -n '__fish_seen_subcommand_from {command.name}'"
    for name in option.names:
        yield f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
    if option.choices:
        yield f"-x -a {_quoted(' '.join(option.choices))}"
    elif option.takes_value:
        yield "-r" if option.takes_file else "-x"
    yield f"-d {_quoted(option.help)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


SCRIPTS = {"vit.bash": bash, "_vit": zsh, "vit.fish": fish}


def write(folder: Path) -> None:
    """Write the three scripts."""
    folder.mkdir(exist_ok=True)
    for name, script in SCRIPTS.items():
        (folder / name).write_text(script(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
