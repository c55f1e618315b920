"""Read and check the rows of a table of labels (CSV, TSV, JSONL): image files, labels and parts.

An invalid row is refused with its line number; it never becomes an image or a class.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from vitcli.errors import is_utf8, printable
from vitcli.images.within import is_within
from vitcli.stores import is_remote
from vitcli.training.columns import UNDERSTOOD, Header, record_fields
from vitcli.training.parts import DataPart, part_named
from vitcli.training.table_file import OPEN_QUOTE, TableFile

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line of a table: its image, its label (or `labels`, of any number) and its part of the
    data."""

    line: int
    path: str
    label: str
    part: DataPart | None = None
    labels: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, whatever their number."""
        return (self.label,) if self.labels is None else self.labels


@dataclass(frozen=True, slots=True)
class LabelTable:
    """A table and how to read it. `suffixes` are those of images; a table may omit them. With
    `several`, an image may have any number of labels, and a label may be a number."""

    path: str
    suffixes: Collection[str]
    is_labelled: bool = True
    allow_outside: bool = False
    note: Callable[[str], None] = lambda text: None
    several: bool = False
    _stems: dict[str, dict[str, list[str]]] = field(default_factory=dict, init=False)

    @property
    def file(self) -> TableFile:
        return TableFile(self.path)

    def rows(self) -> list[TableRow]:
        """Read the rows, without repeats of an image in a part. Raises InputError with the line at
        fault."""
        kept: list[TableRow] = []
        first: dict[str, TableRow] = {}
        seen: set[tuple[str, DataPart | None]] = set()
        repeated = shared = 0
        for row in self._read():
            key = row.path if is_remote(row.path) else os.path.abspath(row.path)
            earlier = first.setdefault(key, row)
            if earlier.names != row.names:
                now, before = (", ".join(map(printable, r.names)) for r in (row, earlier))
                raise self.file.fault(
                    row.line,
                    f": {printable(row.path)} is {now}, in line {earlier.line} it is {before}",
                    "name all labels in one line, in a column labels"
                    if self.several and earlier.labels is not None
                    else "an image has one label: leave out one of the lines",
                )
            if (key, row.part) in seen:
                repeated += 1
            else:
                seen.add((key, row.part))
                kept.append(row)
                shared += earlier is not row
        name = printable(self.path)
        if shared:
            self.note(
                f"{name}: {shared:,} images are in several parts, so scores on them mean little"
            )
        if repeated:
            self.note(f"{name}: {repeated:,} lines repeat an earlier one: left out")
        return kept

    def _read(self) -> Iterator[TableRow]:
        file = self.file
        if file.is_json:
            for line, record in file.records():
                yield self._row(line, record_fields(record, several=self.several))
        else:
            header = Header(
                file, self.is_labelled, self._is_image, self._has_suffix, self.note, self.several
            )
            for line, fields in header.rows():
                yield self._row(line, fields)

    def _row(self, line: int, fields: Mapping[str, object]) -> TableRow:
        path, label, split = (fields.get(name) for name in ("path", "label", "split"))
        if not isinstance(path, str) or not path.strip():
            raise self.file.fault(line, " has no path", UNDERSTOOD)
        labels = None
        if self.several and isinstance(label, list):
            labels = tuple(self._label(line, value) for value in label)
            label = labels[0] if len(labels) == 1 else ""
        else:
            label = self._label(line, label)
        part = None
        if split is not None and split != "":
            part = part_named(split) if isinstance(split, str) else None
            if part is None:
                raise self.file.fault(
                    line,
                    f": the split is {_shown(split)}",
                    "expected train, val or test, or no split",
                )
        return TableRow(line, self._path(line, path), label, part, labels)

    def _label(self, line: int, value: object) -> str:
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or (isinstance(value, str) and not value.strip()):
            if self.is_labelled:
                raise self.file.fault(line, " has no label", UNDERSTOOD)
            return ""
        if not isinstance(value, str | int) and not (self.several and isinstance(value, float)):
            what = f": the label is {_shown(value)}"
            raise self.file.fault(line, what, "expected a name or a number")
        label = unicodedata.normalize("NFC", str(value).strip())
        self._check_one_line(line, "label", label)
        if not is_utf8(label):
            raise self.file.fault(
                line,
                f": the label {printable(label[:50])} is not UTF-8",
                "save the table as UTF-8: a model's labels are UTF-8",
            )
        return label

    def _check_one_line(self, line: int, what: str, text: str) -> None:
        if any(letter in text for letter in "\n\r\0"):
            raise self.file.fault(line, f": the {what} spans several lines", OPEN_QUOTE)

    def _path(self, line: int, named: str) -> str:
        """The file that a row names. Raises InputError for one outside of the table's folder."""
        self._check_one_line(line, "path", named)
        try:
            os.fsencode(named)
        except UnicodeEncodeError:
            what = f": {printable(named[:50])} is not the name of a file"
            raise self.file.fault(line, what) from None
        text = named.strip()
        if is_remote(text):
            path = text
        else:
            files = self._files(named)
            if len(files) > 1:
                names = " or ".join(printable(os.path.basename(file)) for file in files[:3])
                what = f": {printable(os.path.basename(text))} may be {names}"
                raise self.file.fault(line, what)
            path = files[0] if files else os.path.join(self.file.folder, text)
        if not self.allow_outside and not is_within(path, self.file.folder):
            raise self.file.fault(
                line,
                f": {printable(text[:200])} lies outside of the folder of the table",
                "--allow-outside (VIT_ALLOW_OUTSIDE=1) opens such files and URLs, too",
            )
        return path

    def _is_image(self, named: str) -> bool:
        """Whether a cell names an existing file."""
        try:
            return bool(named.strip()) and bool(self._files(named))
        except ValueError:  # NUL, or not Unicode
            return False

    def _has_suffix(self, named: str) -> bool:
        return os.path.splitext(named.strip())[1].lower() in self.suffixes

    def _files(self, named: str) -> list[str]:
        """The existing files that `named` may mean: the name as written or as another system
        spells it, else every image with this name before its suffix."""
        text = named.strip()
        forms = (unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
        spellings = dict.fromkeys((text, named, text.replace("\\", "/"), *forms))
        paths = [os.path.join(self.file.folder, spelling) for spelling in spellings]
        if existing := next(filter(os.path.lexists, paths), None):
            return [existing]
        if self._has_suffix(text):
            return []
        folder, name = os.path.split(paths[0])
        return [os.path.join(folder, file) for file in self._images_by_stem(folder).get(name, ())]

    def _images_by_stem(self, folder: str) -> dict[str, list[str]]:
        """The images of a folder by their names without suffixes."""
        if folder not in self._stems:
            stems = self._stems[folder] = {}
            try:
                names = sorted(os.listdir(folder or "."))
            except OSError:
                names = []
            for name in filter(self._has_suffix, names):
                stems.setdefault(os.path.splitext(name)[0], []).append(name)
        return self._stems[folder]


def _shown(value: object) -> str:
    """The first characters of a JSON value."""
    text = printable(json.dumps(value, ensure_ascii=True))
    return text if len(text) <= 50 else f"{text[:50]}..."
