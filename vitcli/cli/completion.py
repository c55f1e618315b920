"""Write completion scripts for bash, zsh and fish.

Typer's own scripts start `vit` at every TAB and do not complete file names. The shell reads these
scripts once. `make completions` writes them; a test compares them with the app.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from vitcli.cli.inventory import Command, commands
from vitcli.cli.options.declare import Declared
from vitcli.cli.options.help import HELP


def bash() -> str:
    """The script for `/usr/share/bash-completion/completions/vit`."""
    found = commands()
    names = " ".join(command.name for command in found if len(command.words) == 1)
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
    for name, nested in ((command.name, command.nested) for command in found if command.nested):
        lines += [
            f'    if (( COMP_CWORD == 2 )) && [[ "$command" == {name} && "$cur" != -* ]]; then',
            f'        COMPREPLY=($(compgen -W "{" ".join(nested)}" -- "$cur"))',
            "        return",
            "    fi",
        ]
    for name in (command.name for command in found if len(command.words) > 1):
        lines.append(f'    [[ "$command ${{COMP_WORDS[2]}}" == "{name}" ]] && command="{name}"')
    lines += ['    case "$command $prev" in']
    for command in found:
        for option in filter(lambda option: option.takes_value, command.options):
            patterns = "|".join(f'"{command.name} {name}"' for name in option.names)
            choose = f'COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$cur"))'
            action = choose if option.choices else "compopt -o default"
            lines.append(f"        {patterns}) {action}; return ;;")
    lines += ["    esac", '    case "$command" in']
    for command in found:
        words = " ".join(name for option in command.options for name in option.names)
        lines.append(f'        "{command.name}") words="{words}" ;;')
    lines += [
        "    esac",
        '    if [[ "$cur" == -* ]]; then',
        '        COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "    else",
        "        compopt -o default",
        "    fi",
        "}",
        "complete -F _vit vit vitcli",
    ]
    return "\n".join(lines) + "\n"


def zsh() -> str:
    """The script `_vit` for a folder of `fpath`."""
    found = commands()
    lines = [
        "#compdef vit vitcli",
        "# zsh completion for vit. Made by `make completions`.",
        "_vit() {",
    ]
    lines += ["    local -a commands", "    commands=("]
    lines += [f"        {_quoted(f'{c.name}:{c.help}')}" for c in found if len(c.words) == 1]
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
    for name in (command.name for command in found if len(command.words) > 1):
        lines += [
            f'    if [[ "$command ${{words[2]}}" == "{name}" ]] && (( CURRENT > 2 )); then',
            f'        command="{name}"',
            "        shift words",
            "        (( CURRENT-- ))",
            "    fi",
        ]
    lines += ['    case "$command" in']
    for command in found:
        nested = f"1:command:({' '.join(command.nested)})"
        lines.append(f'        "{command.name}") _arguments \\')
        lines += [f"            {_zsh_option(option)} \\" for option in command.options]
        lines.append(f"            '{nested if command.nested else '*:inputs:_files'}' ;;")
    lines += ["    esac", "}", '_vit "$@"']
    return "\n".join(lines) + "\n"


def _zsh_option(option: Declared) -> str:
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
    """The script for `~/.config/fish/completions/vit.fish`."""
    lines = ["# fish completion for vit. Made by `make completions`."]
    first = "__fish_use_subcommand"
    found = commands()
    for command in found:
        *before, name = command.words
        when = _quoted(f"{_seen(before)}; and not {_seen([name])}") if before else first
        lines.append(f"complete -c vit -f -n {when} -a {name} -d {_quoted(command.help)}")
    lines.append(f"complete -c vit -n {first} -s V -l version -d {_quoted('Print the version.')}")
    lines.append(f"complete -c vit -s h -l help -d {_quoted(HELP.help)}")
    for command in found:
        for option in (one for one in command.options if one is not HELP):
            lines.append(" ".join(_fish_words(command, option)))
    lines.append("complete -c vitcli -w vit")
    return "\n".join(lines) + "\n"


def _fish_words(command: Command, option: Declared) -> Iterator[str]:
    yield f"complete -c vit -n '{_seen(command.words)}'"
    for name in option.names:
        dashes, word = name[: -len(name.lstrip("-"))], name.lstrip("-")
        yield f"-{'l' if dashes == '--' else 's' if len(word) == 1 else 'o'} {word}"
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
