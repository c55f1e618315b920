"""The commands' signatures into completion scripts for bash, zsh and fish.

Typer's own scripts start `vit` at every TAB and offer no file names. These are plain text that
the shell reads once. `make completions` writes them; a test compares them with the app.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

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
    """One subcommand; the name of one within another has both words."""

    name: str
    help: str
    options: tuple[Option, ...]

    @property
    def words(self) -> list[str]:
        return self.name.split()


_ZSH_FILES = "            '*:inputs:_files' ;;"
HELP = Option(("-h", "--help"), "Show this message and exit.")


def commands() -> list[Command]:
    """What the app offers, read from the functions that Typer itself reads."""
    found = [_command(registered.callback) for registered in app.registered_commands]
    for group in app.registered_groups:
        nested = group.typer_instance
        assert nested is not None and nested.registered_callback is not None
        found.append(_command(nested.registered_callback.callback))
        found += [_command(inner.callback, found[-1]) for inner in nested.registered_commands]
    return found


def _command(function: Callable[..., object] | None, within: Command | None = None) -> Command:
    assert function is not None and function.__doc__ is not None
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    options = (*filter(None, map(_option, parameters)), HELP)
    name = f"{within.name} {function.__name__}" if within else function.__name__
    return Command(name, function.__doc__.split("\n")[0], options)


def _option(parameter: inspect.Parameter) -> Option | None:
    """An annotated parameter; None for an argument."""
    kind, info, *_ = *get_args(parameter.annotation), None, None
    if not isinstance(info, OptionInfo):
        return None
    types = [kind, *get_args(kind)]
    spellings = (info.default, *(info.param_decls or ()))  # Annotated: no default stands there
    names = tuple(name for text in spellings for name in str(text).split("/"))
    return Option(
        names,
        info.help or "",
        takes_value=bool not in types,
        takes_file=Path in types or info.metavar in FILE_METAVARS,
        choices=tuple(c for t in types if get_origin(t) is Literal for c in get_args(t)),
    )


def bash() -> str:
    """For `/usr/share/bash-completion/completions/vit`."""
    outer, inner = _split(commands())
    names = " ".join(command.name for command in outer)
    lines = [
        "# bash completion for vit. Made by `make completions`.",
        "_vit() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        "    COMPREPLY=()",
        "    if (( COMP_CWORD == 1 )); then",
        f'        COMPREPLY=($(compgen -W "{names} --help --version" -- "$cur"))',
        "        return",
        "    fi",
        '    local command="${COMP_WORDS[1]}"',
    ]
    for name, nested in inner.items():
        words = " ".join(command.words[-1] for command in nested)
        lines += [
            f'    if (( COMP_CWORD == 2 )) && [[ "$command" == {name} && "$cur" != -* ]]; then',
            f'        COMPREPLY=($(compgen -W "{words}" -- "$cur"))',
            "        return",
            "    fi",
        ]
        lines += [
            f'    [[ "$command ${{COMP_WORDS[2]}}" == "{c.name}" ]] && command="{c.name}"'
            for c in nested
        ]
    lines += ['    case "$command $prev" in']
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
    lines += ["    esac", '    case "$command" in']
    for command in commands():
        words = " ".join(name for option in command.options for name in option.names)
        lines.append(f'        {_pattern(command)}) words="{words}" ;;')
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


def _split(found: list[Command]) -> tuple[list[Command], dict[str, list[Command]]]:
    """The commands of one word, and those within each of them."""
    inner: dict[str, list[Command]] = {}
    for command in found:
        if len(command.words) > 1:
            inner.setdefault(command.words[0], []).append(command)
    return [command for command in found if len(command.words) == 1], inner


def _pattern(command: Command) -> str:
    return f'"{command.name}"' if len(command.words) > 1 else command.name


def zsh() -> str:
    """For a folder of `fpath`, as `_vit`."""
    outer, inner = _split(commands())
    lines = ["#compdef vit", "# zsh completion for vit. Made by `make completions`.", "_vit() {"]
    lines += ["    local -a commands", "    commands=("]
    lines += [f"        {_quoted(f'{c.name}:{c.help}')}" for c in outer]
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
    ]
    for command in (c for nested in inner.values() for c in nested):
        lines += [
            f'    if [[ "$command ${{words[2]}}" == "{command.name}" ]] && (( CURRENT > 2 )); then',
            f'        command="{command.name}"',
            "        shift words",
            "        (( CURRENT-- ))",
            "    fi",
        ]
    lines += ['    case "$command" in']
    for command in commands():
        lines.append(f"        {_pattern(command)}) _arguments \\")
        lines += [f"            {_zsh_option(option)} \\" for option in command.options]
        nested = " ".join(c.words[-1] for c in inner.get(command.name, []))
        lines += [f"            '1:command:({nested})' ;;" if nested else _ZSH_FILES]
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
        *before, name = command.words
        when = _quoted(f"{_seen(before)}; and not {_seen([name])}") if before else first
        lines.append(f"complete -c vit -f -n {when} -a {name} -d {_quoted(command.help)}")
    lines.append(f"complete -c vit -n {first} -l version -d {_quoted('Print the version.')}")
    lines.append(f"complete -c vit -s h -l help -d {_quoted(HELP.help)}")
    for command in commands():
        for option in command.options[:-1]:
            lines.append(" ".join(_fish_words(command, option)))
    return "\n".join(lines) + "\n"


def _fish_words(command: Command, option: Option) -> Iterator[str]:
    yield f"complete -c vit -n '{_seen(command.words)}'"
    for name in option.names:
        yield f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
    if option.choices:
        yield f"-x -a {_quoted(' '.join(option.choices))}"
    elif option.takes_value:
        yield "-r" if option.takes_file else "-x"
    yield f"-d {_quoted(option.help)}"


def _seen(words: list[str]) -> str:
    return "; and ".join(f"__fish_seen_subcommand_from {word}" for word in words)


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
