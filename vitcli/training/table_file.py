"""Read the file of a table (CSV, TSV, JSONL) as cells or records, with line numbers."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from vitcli.errors import InputError, printable
from vitcli.files import instead_of

MAX_LINE = 16 << 20  # characters
OPEN_QUOTE = "is a quote not closed there?"


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table. Every method reads it from the beginning, and raises InputError with the line at
    fault."""

    path: str

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path)

    @property
    def is_json(self) -> bool:
        return self.path.lower().endswith(("jsonl", "ndjson"))

    def fault(self, line: int, what: str, hint: str | None = None) -> InputError:
        """Return an error that names a line."""
        return InputError(f"{printable(self.path)}, line {line}{what}", hint)

    def records(self) -> Iterator[tuple[int, dict[str, object]]]:
        """Yield the line number and the object of each line of a JSONL file."""
        for line, text in enumerate(self.lines(), start=1):
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise self.fault(
                    line,
                    " is not a JSON object",
                    "expected one object with path and label per line",
                )
            yield line, record

    def rows(
        self, separator: Callable[[str], str], start: int = 0
    ) -> Iterator[tuple[int, list[str]]]:
        """Yield the first line number and the cells of each row of a CSV that is not empty.
        `separator` returns the separator for the first line of the file."""
        return islice(self._rows(separator), start, None)

    def _rows(self, separator: Callable[[str], str]) -> Iterator[tuple[int, list[str]]]:
        lines = self.lines()
        head = next(lines, "")
        text = chain(["\n" if not head or head.lower().startswith("sep=") else head], lines)
        reader = csv.reader(text, delimiter=separator(head), skipinitialspace=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if "field limit" in str(error):
                    limit = f"{csv.field_size_limit():,}"
                    raise self.fault(
                        line, f": a field of more than {limit} characters", OPEN_QUOTE
                    ) from None
                raise self.fault(line, f": {error}") from None
            if cells is None:
                return
            if any(cell.strip() for cell in cells):
                yield line, cells

    def lines(self) -> Iterator[str]:
        """Yield the lines of text, with their line ends."""
        name = printable(self.path)
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise InputError(f"{name} is not a regular file")
            with open(self.path, "rb") as file:
                encoding = _encoding(file.peek(4)[:4])
                if encoding is None:
                    raise InputError(f"{name} is not UTF-8 text", "save the table as UTF-8")
                errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
                with io.TextIOWrapper(file, encoding, errors, newline="") as text:
                    number = 0
                    while line := text.readline(MAX_LINE + 1):
                        number += 1
                        if len(line) > MAX_LINE:
                            raise self.fault(
                                number, f": a line of more than {MAX_LINE:,} characters"
                            )
                        if "\0" in line:
                            raise self.fault(number, " holds a NUL byte", "save it as UTF-8 text")
                        yield line
        except FileNotFoundError:
            raise InputError(f"no such file: {name}", instead_of(self.path)) from None
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror}") from None
        except UnicodeError:
            raise InputError(
                f"{name} is not {encoding} text to its end", "save the table as UTF-8"
            ) from None


def _encoding(head: bytes) -> str | None:
    """The encoding, found in the first bytes; None for binary data."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return None if b"\0" in head else "utf-8-sig"
