"""Write the manual: a page for `vit` and one for each command, for man(1).

`make completions` writes the pages; a test compares them with the app.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from vitcli import __version__
from vitcli.cli.inventory import Command, commands, root
from vitcli.cli.options.declare import Declared

# A page has no date: the version of vitcli is in its last line.

# Characters that roff would read as its own, or print as others. An ASCII hyphen is a minus sign,
# which can be pasted into a shell.
ROFF = str.maketrans(
    {"\\": r"\(rs", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
)
MARKED = re.compile(r"`([^`]+)`|(?<![\w-])(--?[a-z][\w-]*)")  # what is bold in a text

WIDTH = 78  # columns of the source
EXIT_STATUS = {
    "0": "Success: every image is done.",
    "1": "An error ended the run. A line on standard error says what happened, where, and what to"
    " do.",
    "2": "Wrong usage.",
    "3": "The run has finished, and some images have failed.",
    "129, 130, 143": "SIGHUP, SIGINT or SIGTERM ended the run; `--resume` continues it.",
    "141": "The reader of the output has closed the pipe.",
}
ENVIRONMENT = {
    "VIT_CACHE": "The folder for exports, vectors of texts, features, rates, hashes and outputs on"
    " their way; vit-cache(1) lists it. The default is ~/.cache/vitcli.",
    "VIT_CONFIG": "A config file for all runs, as `--config` names one for a single run.",
    "VIT_DEBUG": "If it is set, an error shows its traceback.",
    "HF_HOME, HF_HUB_OFFLINE, HF_TOKEN": "The settings for models of the hub, as huggingface_hub"
    " reads them.",
}
FILES = {
    "vit.toml": "Options, in a table for each command, read from the working folder. An option on"
    " the command line counts more than its variable, and that more than the file.",
}


def pages() -> dict[str, str]:
    """The text of each page, by the name of its file."""
    vit, found = root(), commands()
    return {_file(command): "\n".join(_page(command, found)) + "\n" for command in (vit, *found)}


def _name(command: Command) -> str:
    """The name of a page: `vit-models-pull`."""
    return "-".join(["vit", *command.words])


def _file(command: Command) -> str:
    return f"{_name(command)}.1"


def _page(command: Command, found: list[Command]) -> Iterator[str]:
    is_root = not command.words
    summary = command.help.rstrip(".")
    within = [one for one in found if one.words[:-1] == command.words]
    others = [one for one in found if one not in within and one is not command]
    yield r".\" Made by `make completions`."
    yield f'.TH {_plain(_name(command)).upper()} 1 "" "vitcli {__version__}" "vitcli"'
    yield ".nh"  # no hyphens: a word broken at one could not be searched for
    yield ".ad l"
    yield ".SH NAME"
    yield rf"{_plain(_name(command))} \- {_plain(summary[0].lower() + summary[1:])}"
    yield ".SH SYNOPSIS"
    options = command.usage.removeprefix(command.full_name).strip()
    yield rf"\fB{_plain(command.full_name)}\fR {_plain(options)}"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(command.paragraphs)
    if within:
        yield ".SH COMMANDS"
        yield from _items((f"{_name(one)}(1)", one.help) for one in within)
    yield ".SH OPTIONS"
    for group, members in command.groups():
        yield f".SS {_plain(group)}"
        for option in members:
            yield from _option(option)
    yield ".SH EXIT STATUS"
    yield from _items(EXIT_STATUS.items())
    if is_root:
        yield ".SH ENVIRONMENT"
        yield "The page of a command names the variable of each option. Besides them:"
        yield from _items(ENVIRONMENT.items())
        yield ".SH FILES"
        yield from _items(FILES.items())
    yield ".SH EXAMPLES" if len(command.examples) > 1 else ".SH EXAMPLE"
    yield ".EX"
    yield from map(_line, command.examples)
    yield ".EE"
    if not is_root:
        yield ".SH SEE ALSO"
        names = ["vit", *map(_name, within), *map(_name, _near(command, others))]
        yield ",\n".join(rf"\fB{_plain(name)}\fR(1)" for name in names)


def _near(command: Command, others: list[Command]) -> list[Command]:
    """The commands that the text of another one names, and the one that it is within."""
    text = " ".join((*command.paragraphs, *(one.help for one in command.options)))
    outer = command.words[:-1]
    return [
        one
        for one in others
        if (outer and one.words == outer) or re.search(rf"\b{one.full_name}\b", text)
    ]


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        yield from [".PP"] * (number > 0)
        yield _text(text)


def _items(items: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of words, each with its text."""
    for word, text in items:
        yield ".TP"
        yield rf"\fB{_plain(word)}\fR"
        yield _text(text)


def _option(option: Declared) -> Iterator[str]:
    """How an option is typed, what it does, its default and its variable."""
    names = ", ".join(rf"\fB{_plain(name)}\fR" for name in option.names)
    value = rf"\fI{_plain(option.metavar)}\fR" if option.metavar else ""
    facts = [
        "Required." if option.is_required and option.names else "",
        f"Default: `{option.default}`." if option.default else "",
        f"Variable: `{option.variable}`." if option.variable else "",
    ]
    yield ".TP"
    yield " ".join(filter(None, (names, value)))
    yield _text(" ".join(filter(None, (option.help, *facts))))


def _text(text: str) -> str:
    """Prose, in lines. Options and code in it are bold."""
    parts, end = [], 0
    for match in MARKED.finditer(text):
        parts += [_plain(text[end : match.start()]), rf"\fB{_plain(match[1] or match[2])}\fR"]
        end = match.end()
    marked = "".join([*parts, _plain(text[end:])])
    lines = textwrap.wrap(marked, WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(_guarded, lines))


def _line(text: str) -> str:
    """A line of code."""
    return _guarded(_plain(text))


def _plain(text: str) -> str:
    """Characters as roff prints them."""
    text = text.translate(ROFF)
    return "".join(c if c.isascii() else rf"\[u{ord(c):04X}]" for c in text)


def _guarded(line: str) -> str:
    r"""A line that roff does not take for a request: \& prints nothing."""
    return rf"\&{line}" if line.startswith(".") else line


def write(folder: Path) -> None:
    """Write the pages, and remove those of commands that are gone."""
    written = pages()
    folder.mkdir(exist_ok=True)
    for file in folder.glob("*.1"):
        if file.name not in written:
            file.unlink()
    for name, text in written.items():
        (folder / name).write_text(text, encoding="ascii")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
