"""Read class names by number from a file in any of the usual formats.

These are: one name a line, with or without a number or a synset; a list, or an object by number or
by name, in JSON or Python; a table with a header; `names` in YAML. Any other format is refused, so
that its source text does not become labels.
"""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitcli.checkpoints.resolve import read_bounded
from vitcli.errors import CheckpointError
from vitcli.files import instead_of

KEYS = ("id2label", "idx_to_class", "idx2label", "label_names", "labels", "names", "classes",
        "class_names", "categories", "class_to_idx", "label2id", "class2idx")  # fmt: skip
INDEX = ("index", "idx", "id", "number", "class_id", "classid", "class_index", "class_idx",
         "label_id", "target")  # fmt: skip
NAME = ("label", "name", "class", "class_name", "classname", "label_name", "display_name",
        "category", "description")  # fmt: skip
HINT = "give one name a line, in the order of the outputs; or JSON, a list or an object by number"

_NUMBERED = re.compile(r"(\d{1,9})(?:\s*(?:[:,;=|\t]|[-=]>)\s*|[.)]\s+|\s+-+\s+|\s+)(.+)")
_NAME_FIRST = re.compile(r"(.+?)\s*[,:;=|\t]\s*(\d{1,9}),?")
_NAME_THEN_NUMBER = re.compile(r"(.+?)\s+(\d{1,9})")
_SYNSET = re.compile(r"n\d{8}[\s,]+(.+)")
_QUOTED = re.compile(r"""(["'])(.*)\1,?""")
_COMMENT = re.compile(r"\s+#.*$")  # in YAML
_FOREIGN = (
    (r"<(!doctype|html|\?xml|(ul|ol|table|div|body|annotation)\b)", "a web page or XML"),
    (r"item\s*\{", "a label map of TensorFlow's (.pbtxt)"),
    (r"(import|from) \w+|def \w+\(|\"\"\"|#!", "Python source"),
    (r"(module\.)?exports\b|(export|const|let|var|static|#include)\s.*[\[{(<]", "source code"),
    (r"\|.*\|\s*\n\|[-: |]+\|", "a table of Markdown"),
    (r"PK\x03\x04|\x89PNG|%PDF", "a binary file"),
)


def names_from(file: Path) -> dict[int, str]:
    """Read the names by number. Raises CheckpointError, with a description of the file."""
    text = _text(file).strip()
    for sign, what in _FOREIGN:
        if re.match(sign, text, re.IGNORECASE):
            raise _refused(file, f"looks like {what}")
    if file.suffix.lower() == ".json" or re.match(r"[\[{]|\w+\s*=\s*[\[{(]", text):
        return by_number(_parsed(text, file), f"{file} (--labels)")
    return _from_lines([line.rstrip() for line in text.splitlines() if line.strip()], file)


def by_number(value: object, source: str) -> dict[int, str]:
    """Read names by number from a list, or from an object by number or by name."""
    if isinstance(value, Mapping):
        inner = next((value[key] for key in KEYS if isinstance(value.get(key), list | dict)), None)
        if inner is not None:
            return by_number(inner, source)
        if value and all(type(number) is int for number in value.values()):
            return _turned(value, source)
        try:
            return {int(key): _name(name, source) for key, name in value.items()}
        except (ValueError, TypeError):
            raise CheckpointError(f"{source} has keys that are not numbers", HINT) from None
    if isinstance(value, Sequence) and not isinstance(value, str):
        names = [_name(name, source) for name in value]
        return _by_id(value, names, source) or dict(enumerate(names))
    raise CheckpointError(f"{source} is {type(value).__name__}: expected names by number", HINT)


def _by_id(entries: Sequence[object], names: Sequence[str], source: str) -> dict[int, str] | None:
    """Read `[{"id": 2, "name": "cat"}, ...]`; None if the ids are in order, repeated or missing."""
    numbers = [entry.get("id") for entry in entries if isinstance(entry, Mapping)]
    pairs = [(n, name) for n, name in zip(numbers, names, strict=False) if type(n) is int]
    if len(pairs) < len(names) or len(dict(pairs)) < len(pairs) or pairs == sorted(pairs):
        return None
    table = _numbered(pairs)
    if table is None:
        raise CheckpointError(f"{source} has ids that are neither in order nor 0 to K-1", HINT)
    return table


def _turned(numbers: Mapping[Any, int], source: str) -> dict[int, str]:
    """Invert `class_to_idx`, which maps names to numbers."""
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise CheckpointError(
            f"{source} gives names numbers that are not 0 to {len(numbers) - 1}, each once", HINT
        )
    return {number: str(name) for name, number in numbers.items()}


def _name(value: object, source: str) -> str:
    """Read a name: text, a number, `["n01440764", "tench"]` or `{"name": "tench"}`."""
    match value:
        case str() | int() | float() | None:
            return str(value)
        case [str(synset), str(name)] if re.fullmatch(r"n\d+", synset):
            return name
        case {"name": str(name)}:
            return name
    raise CheckpointError(f"{source} has {str(value)[:60]} in the place of a name", HINT)


def _text(file: Path) -> str:
    try:
        raw = read_bounded(file)
    except FileNotFoundError:
        raise CheckpointError(f"no such file: {file} (--labels)", instead_of(file)) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {file} (--labels): {error.strerror}") from None
    is_utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise CheckpointError(f"{file} (--labels) is not UTF-8 text") from None
    if "\0" in text:
        raise CheckpointError(f"{file} (--labels) is not UTF-8 text: it holds NUL bytes")
    return text


def _parsed(text: str, file: Path) -> object:
    """Parse JSON, or the text of a Python list or dict."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error)
    try:
        return ast.literal_eval(re.sub(r"^\w+\s*=\s*", "", text))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise _refused(file, f"is not JSON: {reason}") from None


def _from_lines(lines: list[str], file: Path) -> dict[int, str]:
    if re.search(r"^names\s*:", "\n".join(lines), re.MULTILINE):
        lines = _names_block(lines, file)
        if len(lines) == 1 and lines[0][0] in "[{":
            return by_number(_parsed(lines[0], file), f"{file} (--labels)")
    elif file.suffix.lower() in (".yaml", ".yml") and not all(
        re.match(r"- |\d+\s*:", line) for line in lines
    ):
        raise _refused(file, "is YAML without names:")
    if (table := _from_table(lines, file)) is not None:
        return table
    lines = [line.strip() for line in lines]
    if lines and all(line.startswith("- ") for line in lines):
        lines = [line[2:].strip() for line in lines]
    if lines and all(_QUOTED.fullmatch(line) for line in lines):
        lines = [_unquoted(line) for line in lines]
    for pattern, number, name in (
        (_NUMBERED, 1, 2),
        (_NAME_FIRST, 2, 1),
        (_NAME_THEN_NUMBER, 2, 1),
    ):
        matches = [pattern.fullmatch(line) for line in lines]
        pairs = [(int(match[number]), _unquoted(match[name])) for match in matches if match]
        if pattern is _NAME_THEN_NUMBER and len({name for _, name in pairs}) < len(pairs):
            continue  # "class 1", "class 2"
        if len(pairs) == len(lines) > 1 and (table := _numbered(pairs)) is not None:
            return table
    if len(lines) > 1 and all(re.match(r"\d+\s*[:\t]", line) for line in lines):
        raise _refused(file, "has numbers before its names that do not count from 0, each once")
    synsets = [_SYNSET.fullmatch(line) for line in lines]
    if lines and all(synsets):
        names = [match[1].strip() for match in synsets if match]
        if all(re.match(r"\d+\s", name) for name in names):
            raise _refused(file, "numbers the synsets in the order of ILSVRC, not of the outputs")
        return dict(enumerate(names))
    return dict(enumerate(lines))


def _numbered(pairs: list[tuple[int, str]]) -> dict[int, str] | None:
    """The names by number, if the numbers are 0 to K-1 or 1 to K, each once."""
    numbers = sorted(number for number, _ in pairs)
    if numbers == list(range(len(pairs))):
        return dict(pairs)
    if numbers == list(range(1, len(pairs) + 1)):
        return {number - 1: name for number, name in pairs}
    return None


def _unquoted(name: str) -> str:
    """Remove the quotes around a name, or the synset before it."""
    match = _QUOTED.fullmatch(name) or _SYNSET.fullmatch(name)
    return match[match.lastindex or 0].strip() if match else name.strip()


def _names_block(lines: list[str], file: Path) -> list[str]:
    """The lines under `names:` in YAML, or the rest of its line."""
    start = next(i for i, line in enumerate(lines) if re.match(r"names\s*:", line))
    inline = lines[start].partition(":")[2].strip()
    if inline:
        rest = [inline, *(line.strip() for line in lines[start + 1 :])]
        end = next((i for i, line in enumerate(rest) if line.endswith(("]", "}"))), 0)
        return [" ".join(rest[: end + 1])]
    block = []
    for line in lines[start + 1 :]:
        if not re.match(r"\s|- ", line):
            break
        if not line.lstrip().startswith("#"):
            block.append(_COMMENT.sub("", line))
    if not block:
        raise _refused(file, "has nothing under names:")
    return block


def _from_table(lines: list[str], file: Path) -> dict[int, str] | None:
    """Read the rows under a header that names the columns; None without such a header."""
    is_csv = file.suffix.lower() in (".csv", ".tsv")
    if not lines:
        return None
    comma = max("\t;,", key=lines[0].count)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=comma)]
    except csv.Error as error:
        if is_csv:
            raise _refused(file, f"is not a table ({error})") from None
        return None
    head = [cell.lower().replace(" ", "_") for cell in rows[0]]
    name_columns = [i for i, cell in enumerate(head) if cell in NAME]
    number_columns = [i for i, cell in enumerate(head) if cell in INDEX]
    if len(head) > 1 and number_columns and name_columns:
        number, name = number_columns[0], name_columns[0]
        if any(
            len(row) <= max(number, name) or not re.fullmatch(r"\d{1,9}", row[number])
            for row in rows[1:]
        ):
            raise _refused(file, f"has rows without {head[number]} and {head[name]}")
        table = _numbered([(int(row[number]), row[name]) for row in rows[1:]])
        if table is None:
            raise _refused(file, f"has a column {head[number]} that does not count from 0")
        return table
    if is_csv and {len(row) for row in rows} == {1}:
        cells = [row[0] for row in rows]
        return dict(enumerate(cells[1:] if head[0] in NAME else cells))
    if is_csv and not all(row[0].isdecimal() for row in rows if row):
        raise _refused(file, f"has the columns {', '.join(head)[:80]}: expected index and label")
    return None


def _refused(file: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{file} (--labels) {why}", HINT)
