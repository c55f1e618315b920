"""The names of the rows: the paths of images, or texts. They are looked up where they are."""

from __future__ import annotations

import base64
import json
import mmap
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, Literal, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import InputError, printable
from vitcli.indexes.arrays import Stored, check_size, read_member

Kind = Literal["path", "text"]
ROW = b'{"row":'  # how each line of an index begins
MAX_FIRST = 1 << 16
_FIRST = re.compile(rb'\{"row":(\d+|null),"(path|text)":"')
SCANNED = 16 << 20  # bytes of an index that are looked through at a time
AT_ONCE = 4096  # names that are decoded at a time


class Names(Protocol):
    """The names of the rows of one file, in order."""

    @property
    def kind(self) -> Kind: ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> str: ...

    def __iter__(self) -> Iterator[str]: ...

    def find(self, name: str) -> int | None:
        """The first row of this name, exactly as it is written; None if there is none."""


@dataclass(frozen=True, slots=True)
class ListNames:
    """Names in memory."""

    names: Sequence[str]
    kind: Kind = "path"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> str:
        return self.names[row]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def find(self, name: str) -> int | None:
        with suppress(ValueError):
            return self.names.index(name)
        return None


def name_in(record: Mapping[str, Any]) -> tuple[str, Kind]:
    """The name in a record of an index: its path, byte for byte, or its text. Raises KeyError,
    TypeError, ValueError for a record of another kind."""
    if "text" in record:
        return checked_name(record["text"], "text"), "text"
    if record.get("path_bytes") is not None:
        raw = base64.b64decode(record["path_bytes"], validate=True)
        return checked_name(os.fsdecode(raw), "path"), "path"
    return checked_name(record["path"], "path"), "path"


def checked_name(name: object, kind: Kind) -> str:
    """A name that can be written, or opened. Raises TypeError, ValueError for another one."""
    if not isinstance(name, str):
        raise TypeError("it is not a text")
    if not name.isascii():
        name.encode("utf-8", "surrogateescape" if kind == "path" else "strict")
    if kind == "path" and "\0" in name:
        raise ValueError("it has a character NUL")
    return name


def names_in_lines(file: str, handle: BinaryIO) -> Names:
    """The names in `feats.index.jsonl`. Lines that another program wrote, with spaces or in another
    order of fields, are all parsed. Raises InputError for another kind of file."""
    first = handle.readline(MAX_FIRST)
    handle.seek(0)
    if not first or _FIRST.match(first):
        return LineNames(file, handle)
    names: list[str] = []
    kind: Kind = "path"
    for number, line in enumerate(handle, start=1):
        try:
            record = json.loads(line)
            if record["row"] is None:
                continue
            if record["row"] != len(names):
                raise ValueError
            name, its = name_in(record)
            if names and its != kind:
                raise ValueError
            kind = its
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                f"{printable(file)}, line {number}, is not a line of an index",
                'each is {"row": 0, "path": "a.jpg"}, and rows count from 0',
            ) from None
        names.append(name)
    return ListNames(names, kind)


class LineNames:
    """The names in `feats.index.jsonl`, which has a line for each input. Those of failed images,
    whose row is null, do not count."""

    def __init__(self, file: str, handle: BinaryIO) -> None:
        """Find the lines of the rows. Raises InputError for lines of another kind."""
        self._file = file
        size = os.fstat(handle.fileno()).st_size
        self._text: Any = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        ends = self._line_ends()
        if size and (not len(ends) or ends[-1] != size - 1):
            raise InputError(f"{printable(file)} has been cut off", "write it again: vit embed")
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64) if len(ends) else ends
        view = np.frombuffer(self._text, np.uint8)
        first = view[np.minimum(starts + len(ROW), max(size - 1, 0))] if size else view
        del view
        self._starts = starts[first != ord("n")]
        self._size = size

    def _line_ends(self) -> NDArray[np.int64]:
        found = [np.empty(0, np.int64)]
        for start in range(0, len(self._text), SCANNED):
            some = np.frombuffer(self._text[start : start + SCANNED], np.uint8)
            found.append(np.flatnonzero(some == ord("\n")) + start)
        return np.concatenate(found)

    @cached_property
    def kind(self) -> Kind:
        return self._record(0)[1] if len(self) else "path"

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: int) -> str:
        name, kind = self._record(row)
        if kind != self.kind:
            self._refuse(row)
        return name

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def _record(self, row: int) -> tuple[str, Kind]:
        start = int(self._starts[row])
        line = self._text[start : self._text.find(b"\n", start)]
        try:
            record = json.loads(line)
            if record["row"] == row:
                return name_in(record)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        self._refuse(row)

    def _refuse(self, row: int) -> NoReturn:
        raise InputError(
            f"{printable(self._file)} has no line for row {row} where it should be",
            "it has been changed; write it again: vit embed --overwrite",
        )

    def find(self, name: str) -> int | None:
        try:
            raw = os.fsencode(name)
        except UnicodeEncodeError:  # a surrogate that stands for no byte
            return None
        shown = raw.decode("utf-8", "replace")
        spelled = {
            json.dumps(shown, ensure_ascii=ascii_only).encode() for ascii_only in (False, True)
        }
        found = (self._find(b":" + quoted, name) for quoted in spelled)
        return min((row for row in found if row is not None), default=None)

    def _find(self, written: bytes, name: str) -> int | None:
        """The first row of a name that is written in this way."""
        start = 0
        while (at := self._text.find(written, start)) >= 0:
            row = int(np.searchsorted(self._starts, at, side="right")) - 1
            if row >= 0 and self[row] == name:
                return row
            start = at + 1
        return None


@dataclass(frozen=True, slots=True)
class UnicodeNames:
    """The array `paths` or `texts` of an `.npz` file: characters of four bytes, one length."""

    file: str
    array: Stored
    kind: Kind

    def __len__(self) -> int:
        return self.array.shape[0]

    def __getitem__(self, row: int) -> str:
        return self._read(row, row + 1)[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), AT_ONCE):
            yield from self._read(start, min(len(self), start + AT_ONCE))

    def _read(self, start: int, stop: int) -> list[str]:
        size, descriptor = self.array.dtype.itemsize, self.array.handle.fileno()
        data = os.pread(descriptor, (stop - start) * size, self.array.offset + start * size)
        try:
            names: list[str] = np.frombuffer(data, self.array.dtype, stop - start).tolist()
            return [checked_name(name, self.kind) for name in names]
        except ValueError:  # cut off, or no Unicode
            raise InputError(
                f"{printable(self.file)} has damaged {self.kind}s",
                "write it again: vit embed --overwrite",
            ) from None

    def find(self, name: str) -> int | None:
        for row, other in enumerate(self):
            if other == name:
                return row
        return None


def names_in_npz(file: str, handle: BinaryIO) -> Names:
    """The names in an `.npz` file of `vit embed`. Raises InputError if it has none, ValueError."""
    kinds: tuple[Kind, ...] = ("path", "text")
    with zipfile.ZipFile(handle) as archive:
        for kind in kinds:
            if f"{kind}s.npy" not in archive.namelist():
                continue
            array = read_member(archive, handle, f"{kind}s.npy")
            if array.dtype.kind != "U" or not array.dtype.itemsize or len(array.shape) != 1:
                raise InputError(f"{printable(file)}: {kind}s is not an array of texts")
            check_size(file, array.end - array.offset, array.shape, array.dtype)
            return UnicodeNames(file, array, kind)
    raise InputError(f"{printable(file)} has no array paths, which names the rows")
