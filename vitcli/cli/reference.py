"""Write a page on each command for `docs/reference/`: usage, description, examples, every option.

`make completions` writes the pages; a test compares them with the app.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from vitcli.cli.inventory import Command, commands, root
from vitcli.cli.options.declare import Declared
from vitcli.render.markdown import code, with_code

INDEX = "index.md"
INTRODUCTION = """\
The page of a command lists all its options, in the groups of its help, each with its default and \
the environment variable that sets it, if there is one. An option on the command line counts more \
than its variable, and the variable more than the [config file](../config.md). \
[Exit codes](../errors.md#exit-codes) mean the same for every command.

On the command line, `vit classify --help` lists the usual options, and `vit classify --help-all` \
lists all of them."""


def pages() -> dict[str, str]:
    """The text of each page, by the name of its file."""
    found = commands()
    by_name = {command.name: command for command in found}
    return {INDEX: _index(root(), found)} | {
        _file(command): "\n\n".join(_page(command, by_name)) + "\n" for command in found
    }


def _file(command: Command) -> str:
    return "-".join(command.words) + ".md"


def _index(vit: Command, found: list[Command]) -> str:
    parts = ["# Every command", _block("text", vit.usage), with_code(vit.help), INTRODUCTION]
    parts += [_table(found), "## Options of vit itself", *map(_described, vit.options)]
    return "\n\n".join(parts) + "\n"


def _page(command: Command, by_name: dict[str, Command]) -> Iterator[str]:
    yield f"# {command.full_name}"
    yield with_code(command.help)
    yield _block("text", command.usage)
    yield from map(with_code, command.paragraphs[1:])
    yield "## Examples" if len(command.examples) > 1 else "## Example"
    yield _block("sh", *command.examples)
    if command.nested:
        yield "## Commands"
        yield _table([by_name[f"{command.name} {name}"] for name in command.nested])
    for group, members in command.groups():
        yield f"## {group}"
        yield from map(_described, members)


def _block(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _table(listed: list[Command]) -> str:
    rows = [f"| [{code(c.full_name)}]({_file(c)}) | {with_code(c.help)} |" for c in listed]
    return "\n".join(["| command | |", "|---|---|", *rows])


def _described(option: Declared) -> str:
    """An item of a list: how an option is typed, what it does, its default and its variable. Its
    place in the page has its long name."""
    long = [name for name in option.names if name.startswith("--")]
    place = f'<a id="{long[0]}"></a>' if long else ""
    facts = [
        "Required." if option.is_required else "",
        f"Default: {code(option.default)}." if option.default else "",
        f"Variable: {code(option.variable)}." if option.variable else "",
    ]
    text = " ".join([with_code(option.help), *filter(None, facts)])
    return f"- {place}{code(option.spelling)}\n\n    {text}"


def write(folder: Path) -> None:
    """Write the pages, and remove those of commands that are gone."""
    written = pages()
    folder.mkdir(exist_ok=True)
    for file in folder.glob("*.md"):
        if file.name not in written:
            file.unlink()
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
