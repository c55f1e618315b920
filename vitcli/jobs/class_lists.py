"""Read classes in words from a text (`cat, dog`), a file (lines or JSON), or values of Python."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitcli.checkpoints.resolve import MAX_JSON
from vitcli.errors import UsageError
from vitcli.jobs.text_files import lines_of, read_text_file

OPTION = "--classes-file"
TABLES = (".csv", ".tsv", ".parquet", ".yaml", ".yml", ".jsonl")  # formats that are not read
MAX_SHOWN = 60  # characters of a text in a message
LINES = "give a class a line, `name: phrase, phrase`, or JSON"
SHAPES = 'give a list of names, or {"name": "phrase"} or {"name": ["phrase", "phrase"]}'
QUOTES = 'put a text with a comma or a colon in double quotes: "red, wet"'

QUOTED = 'write it in double quotes: "3"'

_LINE_END = re.compile(r"\r\n|\r|\n")
_CELL = re.compile(r'\s*+(?:"(?P<quoted>(?:[^"]|"")*)"\s*|(?P<plain>(?!")[^,]*))(?:(?P<more>,)|$)')
_QUOTED_NAME = re.compile(r'"(?P<name>(?:[^"]|"")*)"\s*(?:(?P<colon>:)(?P<rest>.*))?')


@dataclass(frozen=True, slots=True)
class WordClass:
    """A class: its label, and the phrases that describe it."""

    name: str
    phrases: tuple[str, ...]


def classes_in(texts: Sequence[str]) -> tuple[WordClass, ...]:
    """The classes in texts such as `cat, dog, "red, wet"`, each of which is its own phrase.

    Raises UsageError for a quote that does not end, or the name of a file.
    """
    names = [name for text in texts for name in split(text, "--classes")]
    if len(names) == 1 and Path(names[0]).suffix and _is_file(Path(names[0])):
        raise UsageError(f"--classes {names[0]} is a file", f"use --classes-file {names[0]}")
    return tuple(WordClass(name, (name,)) for name in names)


def read_classes(file: Path) -> tuple[WordClass, ...]:
    """Read a file of classes: one a line, as `name` or `name: phrase, phrase`; or JSON, a list of
    names or an object of phrases by name. Lines that begin with # are skipped.

    Raises InputError for a file that cannot be read or is too large, and UsageError, with the line,
    for a blank line and for other formats.
    """
    if file.suffix.lower() in TABLES:
        raise UsageError(f"{file} (--classes-file) is a {file.suffix.lower()} file", LINES)
    text = read_text_file(str(file), OPTION, MAX_JSON)
    if file.suffix.lower() == ".json" or text.lstrip().startswith(("{", "[")):
        classes = classes_of(_parsed(text, file), str(file))
    else:
        classes = _from_lines(text, file)
    if not classes:
        raise UsageError(f"{file} (--classes-file) names no classes", LINES)
    return classes


def split(text: str, where: str) -> list[str]:
    """Split a text at commas and at line ends. A text in double quotes may have commas, and quotes
    as "". Raises UsageError for other quotes at its beginning."""
    found = []
    for line in filter(str.strip, _LINE_END.split(text)):
        start, has_more = 0, True
        while has_more:
            cell = _CELL.match(line, start)
            plain = cell["plain"] if cell else None
            if cell is None or (plain is not None and plain.endswith("\\") and cell["more"]):
                raise UsageError(f"{where}: {shown(line[start:].strip())}", QUOTES)
            start, has_more = cell.end(), cell["more"] is not None
            found.append((cell["quoted"] or "").replace('""', '"') if plain is None else plain)
    return [text.strip() for text in found]


def _from_lines(text: str, file: Path) -> tuple[WordClass, ...]:
    whole = lines_of(text, f"{file} ({OPTION})", "remove it, or begin it with #")
    numbered = [(n, line.strip()) for n, line in enumerate(whole, start=1)]
    lines = [(n, line) for n, line in numbered if not line.startswith("#")]
    classes = tuple(_from_line(line, f"{file}, line {n}") for n, line in lines)
    if len(lines) == 1 and "," in lines[0][1] and classes[0].phrases == (lines[0][1],):
        raise UsageError(
            f"{file} has one line, with commas: {shown(lines[0][1])}",
            "give a class a line; a name with a comma may stand in double quotes",
        )
    return classes


def _from_line(line: str, where: str) -> WordClass:
    """The class in a line. Raises UsageError for a tab, and for a colon or a quote that can be read
    in two ways."""
    if "\t" in line:
        raise UsageError(f"{where}: {shown(line)} has a tab, as the lines of a table have", LINES)
    if line.startswith('"'):
        match = _QUOTED_NAME.fullmatch(line)
        if match is None:
            raise UsageError(f"{where}: {shown(line)} is not a text in quotes", QUOTES)
        name, colon, rest = match["name"].replace('""', '"'), match["colon"], match["rest"]
    else:
        name, colon, rest = line.partition(":")
    if not colon:
        return WordClass(name.strip(), (name.strip(),))
    if rest and not rest[0].isspace():
        raise UsageError(
            f"{where}: {shown(line)} has a colon without a space",
            "write `name: phrase`, or put a name with a colon in double quotes",
        )
    return WordClass(name.strip(), tuple(split(rest, where)))


def classes_of(values: object, source: str = "classes") -> tuple[WordClass, ...]:
    """The classes in a list of names or an object of phrases by name."""
    match values:
        case str():
            return classes_in([values])
        case Mapping():
            pairs: list[tuple[Any, Any]] = list(values.items())
        case Sequence():
            pairs = [(name, name) for name in values]
        case _:
            raise UsageError(f"{source} is {_described(values)}, not a list of names", SHAPES)
    classes = []
    for name, phrases in pairs:
        if not isinstance(name, str):
            raise UsageError(f"the name of a class in {source} is {_described(name)}", QUOTED)
        texts = [phrases] if isinstance(phrases, str) else phrases
        if isinstance(texts, bytes) or not isinstance(texts, Sequence):
            raise _wrong_phrase(source, name, texts)
        for text in texts:
            if not isinstance(text, str):
                raise _wrong_phrase(source, name, text)
        classes.append(WordClass(name.strip(), tuple(text.strip() for text in texts)))
    return tuple(classes)


def _wrong_phrase(source: str, name: str, value: object) -> UsageError:
    what = f"the phrase of the class {shown(name)} in {source} is {_described(value)}"
    return UsageError(what, QUOTED if isinstance(value, int | float) else SHAPES)


def _described(value: object) -> str:
    """Describe a value that is not a text."""
    match value:
        case None:
            return "null"
        case bool():
            return f"{str(value).lower()}, which is not a text"
        case int() | float():
            return f"a number, {value}"
        case bytes():
            return f"bytes, {shown(value.decode('utf-8', 'replace'))}"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
    return f"a Python {type(value).__name__}"


def _parsed(text: str, file: Path) -> object:
    """Parse JSON. Raises UsageError, also for a name that an object has twice."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        for name, times in Counter(name for name, _ in pairs).items():
            if times > 1:
                raise UsageError(
                    f"{file} has the class {shown(name)} {times} times", "name it once"
                )
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} (--classes-file) is not JSON: {error}", LINES) from None
    if isinstance(value, str):
        raise UsageError(f"{file} (--classes-file) is a text in JSON", SHAPES)
    return value


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long
        return False


def shown(text: str) -> str:
    """A text in quotes for a message, shortened."""
    return repr(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…")
