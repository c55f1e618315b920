"""Tables of labels: the rows of a CSV, TSV or JSONL into paths, labels and parts, by line.

Headers are those that people write. What is not understood is refused with its line, never taken
for a picture or a class.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice

from vitcli.errors import InputError, is_utf8, printable
from vitcli.images.within import is_within
from vitcli.stores import is_remote
from vitcli.training.folders import Kind, kind_of

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
PATHS = (
    *("path", "file", "file_name", "filename", "image_path", "image"),
    *("filepath", "file_path", "img_path", "img", "image_file", "image_name", "img_name"),
    *(
        "imagename",
        "images",
        "paths",
        "filepaths",
        "files",
        "filenames",
        "photo",
        "picture",
        "fname",
    ),
    *("image_id", "imageid", "img_id", "id", "name"),
)
NAMED = ("class_name", "label_name", "category_name", "target_name", "classname", "labelname")
LABELS = (
    *("label", "class", "category", *NAMED, "labels", "target", "targets", "breed", "species"),
    *("class_label", "classes", "cls", "tag", "variety", "y", "class_id", "label_id"),
)
SPLITS = ("split",)
PERHAPS_SPLITS = ("set", "data_set", "dataset", "subset", "partition")  # where all say so
UNDERSTOOD = (
    "columns that are understood: path, filename, image_id or the like; "
    "label, class, target or the like; and split"
)
LONGEST_LINE = 16 << 20  # characters

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a table: the image as it is named and the file that is meant."""

    line: int
    path: str
    label: str
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class LabelTable:
    """A table and how it is read. `suffixes` are those that an image's id may lack."""

    file: str
    suffixes: Collection[str]
    is_labelled: bool = True
    allow_outside: bool = False
    note: Note = field(default=lambda text: None)

    def rows(self) -> list[Listed]:
        """The lines, each image once. Raises InputError with the line that is at fault."""
        is_json = self.file.lower().endswith(("jsonl", "ndjson"))
        read = self._json_rows() if is_json else self._csv_rows()
        _stems.cache_clear()
        kept: list[Listed] = []
        lines: dict[str, Listed] = {}
        parts: set[tuple[str, Kind | None]] = set()
        repeated = shared = 0
        for row in map(self._listed, read):
            key = row.path if is_remote(row.path) else os.path.abspath(row.path)
            earlier = lines.setdefault(key, row)
            if earlier.label == row.label and (key, row.kind) not in parts:
                parts.add((key, row.kind))
                kept.append(row)
                shared += earlier is not row
            elif earlier.label != row.label:
                raise InputError(
                    f"{self._where(row.line)}: {printable(row.path)} is {printable(row.label)}, "
                    f"in line {earlier.line} it is {printable(earlier.label)}",
                    "an image has one label: leave out one of the lines",
                )
            else:
                repeated += 1
        if shared:
            self.note(
                f"{printable(self.file)}: {shared:,} images are in several parts: what is "
                "measured on them says little"
            )
        if repeated:
            self.note(f"{printable(self.file)}: {repeated:,} lines repeat an earlier one: left out")
        return kept

    def _where(self, line: int) -> str:
        return f"{printable(self.file)}, line {line}"

    def _fault(self, line: int, what: str, hint: str | None = None) -> InputError:
        return InputError(f"{self._where(line)}{what}", hint)

    def _listed(self, row: tuple[int, Mapping[str, object]]) -> Listed:
        line, fields = row
        found, said, split = (fields.get(name) for name in ("path", "label", "split"))
        if not isinstance(found, str) or not found.strip():
            raise self._fault(line, " has no path", UNDERSTOOD)
        label = self._label(line, said)
        kind = None
        if split is not None and split != "":
            kind = kind_of(split) if isinstance(split, str) else None
            if kind is None:
                raise self._fault(
                    line,
                    f": the split is {_shown(split)}",
                    "expected train, val or test, or no split",
                )
        return Listed(line, self._path(line, found), label, kind)

    def _label(self, line: int, said: object) -> str:
        if isinstance(said, bool):
            said = str(said).lower()
        elif isinstance(said, float) and said.is_integer():
            said = int(said)
        if said is None or (isinstance(said, str) and not said.strip()):
            if self.is_labelled:
                raise self._fault(line, " has no label", UNDERSTOOD)
            return ""
        if not isinstance(said, str | int):
            raise self._fault(line, f": the label is {_shown(said)}", "expected a name or a number")
        label = unicodedata.normalize("NFC", str(said).strip())
        if "\n" in label or "\r" in label or "\0" in label:
            raise self._fault(
                line, ": the label goes over several lines", "is a quote not closed there?"
            )
        if not is_utf8(label):
            raise self._fault(
                line,
                f": the label {printable(label[:50])} is not UTF-8",
                "save the table as UTF-8: a model's labels are UTF-8",
            )
        return label

    def _path(self, line: int, named: str) -> str:
        """The file that is meant: as it is named, else as another system would spell it."""
        if "\n" in named or "\r" in named or "\0" in named:
            raise self._fault(line, ": the path goes over several lines", "is a quote not closed?")
        try:
            os.fsencode(named)
        except UnicodeEncodeError:
            raise self._fault(line, f": {printable(named[:50])} names no file") from None
        folder = os.path.dirname(self.file)
        stripped = named.strip()
        if is_remote(stripped):
            whole = stripped
        else:
            spelled = (
                stripped,
                named,
                stripped.replace("\\", "/"),
                unicodedata.normalize("NFC", stripped),
                unicodedata.normalize("NFD", stripped),
            )
            places = [os.path.join(folder, text) for text in dict.fromkeys(spelled)]
            whole = next(filter(os.path.lexists, places), None) or self._by_id(line, places[0])
        if not self.allow_outside and not is_within(whole, folder):
            raise self._fault(
                line,
                f": {printable(stripped[:200])} lies outside of the folder of the table",
                "--allow-outside (VIT_ALLOW_OUTSIDE=1) opens such files and URLs, too",
            )
        return whole

    def _by_id(self, line: int, whole: str) -> str:
        """The one image whose name is this, but for the suffix."""
        folder, name = os.path.split(whole)
        if os.path.splitext(name)[1].lower() in self.suffixes:
            return whole
        found = _stems(folder, frozenset(self.suffixes)).get(name, ())
        if len(found) > 1:
            raise self._fault(
                line, f": {printable(name)} may be {' or '.join(map(printable, found[:3]))}"
            )
        return os.path.join(folder, found[0]) if found else whole

    def _csv_rows(self) -> Iterator[tuple[int, Mapping[str, object]]]:
        first = next(self._cells(), None)
        if first is None:
            return
        columns, has_header = self._columns(*first)
        for line, cells in islice(self._cells(), int(has_header), None):
            yield line, columns(line, cells)

    def _body(self) -> Iterator[list[str]]:
        """What follows the first row, where somebody has to look ahead."""
        return (cells for _, cells in islice(self._cells(), 1, None))

    def _columns(
        self, line: int, first: Sequence[str]
    ) -> tuple[Callable[[int, Sequence[str]], Mapping[str, object]], bool]:
        """What reads a row, and whether the first one is the header."""
        names = [plain_name(cell) for cell in first]
        path, label, split = (_place(names, known) for known in (PATHS, LABELS, SPLITS))
        second = next(self._body(), None)
        perhaps = _place(names, PERHAPS_SPLITS)
        if None not in (path, label, perhaps) and split is None:
            split = perhaps if self._all(perhaps, lambda cell: kind_of(cell) is not None) else None
        if path is not None and label is None and self.is_labelled and second:
            one_hot = [
                n for n in range(len(names)) if n not in (path, split) and self._is_binary(n)
            ]
            if len(one_hot) > 1 and len(one_hot) >= len(names) - 2:
                told = ", ".join(printable(first[n].strip()) for n in one_hot[:5])
                more = ", ..." if len(one_hot) > 5 else ""
                self.note(f"{printable(self.file)}: one column for each class: {told}{more}")
                return lambda at, cells: self._one_hot(at, cells, first, path, one_hot), True
            rest = [n for n in range(len(names)) if n not in (path, split)]
            if len(rest) == 1 and not self._is_file(first[path]):
                label = rest[0]
                self.note(
                    f"{printable(self.file)}: the labels are column {printable(first[label])}"
                )
        if label is not None and path is None and second:
            rest = [n for n in range(len(names)) if n not in (label, split)]
            if len(rest) == 1 and rest[0] < len(second) and self._is_file(second[rest[0]]):
                path = rest[0]
                self.note(f"{printable(self.file)}: the images are column {printable(first[path])}")
        if path is not None and (label is not None or not self.is_labelled):
            chosen = {"path": path, "label": label, "split": split}
            return lambda at, cells: {
                name: cells[n] for name, n in chosen.items() if n is not None and n < len(cells)
            }, True
        self._check_no_header(line, first, second)
        names = ["path", "label", "split"]
        return lambda at, cells: dict(zip(names, cells, strict=False)), False

    def _all(self, column: int | None, is_so: Callable[[str], bool]) -> bool:
        """Whether every row has a cell there of which something is so."""
        return column is not None and all(
            column < len(cells) and is_so(cells[column]) for cells in self._body()
        )

    def _is_binary(self, column: int) -> bool:
        return self._all(column, lambda cell: _flag(cell) is not None)

    def _check_no_header(
        self, line: int, first: Sequence[str], second: Sequence[str] | None
    ) -> None:
        """Raises InputError where the first row is a header that is not understood."""
        suffix = os.path.splitext(first[0].strip())[1].lower()
        if suffix in self.suffixes or self._is_file(first[0]):
            return
        known = any(plain_name(cell) in (*PATHS, *LABELS) for cell in first)
        label = first[1].strip() if len(first) > 1 else ""
        alone = second is not None and not any(
            len(cells) > 1 and cells[1].strip() == label for cells in self._body()
        )
        if known or (alone and second and self._is_file(second[0])):
            told = ", ".join(printable(cell.strip()[:50]) for cell in first[:6])
            more = ", ..." if len(first) > 6 else ""
            raise self._fault(
                line,
                f": the header is not understood: {told}{more}",
                f"{UNDERSTOOD}; if it is no header, there is no such file",
            )
        if alone and label:
            raise self._fault(
                line,
                f": there is no file {printable(first[0].strip()[:100])}, "
                f"and no other image is {printable(label[:100])}",
                f"if this is a header: {UNDERSTOOD}",
            )

    def _is_file(self, named: str) -> bool:
        text = named.strip()
        if not text or "\0" in text:
            return False
        try:
            whole = os.path.join(os.path.dirname(self.file), text)
            if os.path.lexists(whole) or os.path.lexists(whole.replace("\\", "/")):
                return True
            forms = (unicodedata.normalize(form, whole) for form in ("NFC", "NFD"))
            if any(map(os.path.lexists, forms)):
                return True
            folder, name = os.path.split(whole)
            return name in _stems(folder, frozenset(self.suffixes))
        except ValueError:
            return False

    def _one_hot(
        self,
        line: int,
        cells: Sequence[str],
        header: Sequence[str],
        path: int,
        columns: Sequence[int],
    ) -> Mapping[str, object]:
        on = [header[n].strip() for n in columns if n < len(cells) and _flag(cells[n])]
        if len(on) != 1:
            raise self._fault(
                line,
                f" sets {len(on)} of the columns {', '.join(printable(header[n]) for n in columns)}"
                if len(columns) <= 6
                else f" sets {len(on)} of {len(columns)} columns of classes",
                "an image has one label",
            )
        return {"path": cells[path] if path < len(cells) else "", "label": on[0]}

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        """The rows that are not empty, with the lines that they begin in."""
        lines = self._lines()
        head = next(lines, "")
        separator, skip = self._separator(head), head.lower().startswith("sep=")
        reader = csv.reader(
            _again("" if skip else head, lines), delimiter=separator, skipinitialspace=True
        )
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                long = "field limit" in str(error)
                raise self._fault(
                    line,
                    f": a field of more than {csv.field_size_limit():,} characters"
                    if long
                    else f": {error}",
                    "is a quote not closed there?" if long else None,
                ) from None
            if cells is None:
                return
            if any(cell.strip() for cell in cells):
                yield line, cells

    def _separator(self, head: str) -> str:
        if self.file.lower().endswith(".tsv"):
            return "\t"
        if head.lower().startswith("sep=") and len(head.strip()) == 5:
            return head.strip()[4]
        for separator in (",", ";", "\t"):
            names = [plain_name(cell) for cell in head.split(separator)]
            if _place(names, PATHS) is not None and len(names) > 1:
                return separator
        return next((s for s in (",", ";", "\t") if s in head), ",")

    def _json_rows(self) -> Iterator[tuple[int, Mapping[str, object]]]:
        for line, text in enumerate(self._lines(), start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise self._fault(line, " is no JSON object", "expected a path and a label a line")
            names = [plain_name(name) for name in row]
            values = list(row.values())
            found = {"path": PATHS, "label": LABELS, "split": SPLITS}
            places = {name: _place(names, known) for name, known in found.items()}
            yield line, {name: values[n] for name, n in places.items() if n is not None}

    def _lines(self) -> Iterator[str]:
        """With their ends. Raises InputError for what is no text."""
        name = printable(self.file)
        try:
            if not stat.S_ISREG(os.stat(self.file).st_mode):
                raise InputError(f"{name} is not a regular file")
            with open(self.file, "rb") as file:
                head = file.read(4)
                file.seek(0)
                encoding = _encoding(head)
                if encoding is None:
                    raise InputError(f"{name} is not UTF-8 text", "save the table as UTF-8")
                errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
                with io.TextIOWrapper(file, encoding, errors, newline="") as text:
                    for number in range(1, 1 << 62):
                        line = text.readline(LONGEST_LINE + 1)
                        if not line:
                            return
                        if len(line) > LONGEST_LINE:
                            raise self._fault(
                                number, f": a line of more than {LONGEST_LINE:,} characters"
                            )
                        if "\0" in line:
                            raise self._fault(number, " holds a NUL byte", "save it as UTF-8 text")
                        yield line
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror}") from None
        except UnicodeError:
            raise InputError(
                f"{name} is not {encoding} text to its end", "save the table as UTF-8"
            ) from None


def plain_name(cell: object) -> str:
    """How a column is called, without what does not matter in it."""
    return "_".join(str(cell).strip().strip("\"'").casefold().replace("-", " ").split())


def _flag(cell: str) -> bool | None:
    """What a cell of a column of 0 and 1 says; None where it is no such column."""
    plain = re.sub(r"(?<=[01])\.0*$", "", cell.strip()).casefold()
    return {"0": False, "false": False, "1": True, "true": True}.get(plain)


def _place(names: Sequence[str], known: Sequence[str]) -> int | None:
    """The column whose name comes first in `known`; the names of classes before their numbers."""
    found = [name for name in known if name in names]
    if known is LABELS and (named := [name for name in found if name in NAMED]):
        found = named
    return names.index(found[0]) if found else None


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first or "\n"
    yield from rest


def _encoding(head: bytes) -> str | None:
    """Told by the first bytes; None for what is no text that is read."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return None if b"\0" in head else "utf-8-sig"


@cache
def _stems(folder: str, suffixes: frozenset[str]) -> dict[str, list[str]]:
    """The images of a folder by their names without suffixes."""
    found: dict[str, list[str]] = {}
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError:
        return {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes:
            found.setdefault(stem, []).append(name)
    return found


def _shown(value: object) -> str:
    """A value of JSON in few letters."""
    text = printable(json.dumps(value, ensure_ascii=True))
    return text if len(text) <= 50 else f"{text[:50]}..."
