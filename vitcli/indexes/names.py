"""The names of the rows: the paths of images, or texts. They are looked up where they are."""

from __future__ import annotations

import base64
import json
import mmap
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import InputError, printable
from vitcli.indexes.parts import COLUMN, TablePart, member_start

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


def name_in(record: dict[str, Any]) -> tuple[str, Kind]:
    """The name in a record of an index: its path, byte for byte, or its text."""
    if "text" in record:
        return str(record["text"]), "text"
    if "path_bytes" in record and record["path_bytes"] is not None:
        return os.fsdecode(base64.b64decode(record["path_bytes"])), "path"
    return str(record["path"]), "path"


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
            name, kind = name_in(record)
        except (ValueError, KeyError, TypeError):
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
        return name_in(self._record(0))[1] if len(self) else "path"

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: int) -> str:
        return name_in(self._record(row))[0]

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def _record(self, row: int) -> dict[str, Any]:
        start = int(self._starts[row])
        line = self._text[start : self._text.find(b"\n", start)]
        try:
            record = json.loads(line)
            if record["row"] == row and ("path" in record or "text" in record):
                return dict(record)
        except (ValueError, KeyError, TypeError):
            pass
        raise InputError(
            f"{printable(self._file)} has no line for row {row} where it should be",
            "it has been changed; write it again: vit embed --overwrite",
        )

    def find(self, name: str) -> int | None:
        raw = os.fsencode(name) if not name.isascii() else name.encode()
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

    handle: BinaryIO
    offset: int
    count: int
    dtype: np.dtype[Any]
    kind: Kind

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> str:
        return str(self._read(row, row + 1)[0])

    def __iter__(self) -> Iterator[str]:
        for start in range(0, self.count, AT_ONCE):
            yield from map(str, self._read(start, min(self.count, start + AT_ONCE)))

    def _read(self, start: int, stop: int) -> NDArray[np.str_]:
        size = self.dtype.itemsize
        data = os.pread(self.handle.fileno(), (stop - start) * size, self.offset + start * size)
        return np.frombuffer(data, self.dtype)

    def find(self, name: str) -> int | None:
        for row, other in enumerate(self):
            if other == name:
                return row
        return None


def names_in_npz(file: str, handle: BinaryIO) -> Names:
    """The names in an `.npz` file of `vit embed`. Raises InputError if it has none."""
    kinds: tuple[Kind, ...] = ("path", "text")
    with zipfile.ZipFile(handle) as archive:
        for kind in kinds:
            name = f"{kind}s.npy"
            if name not in archive.namelist():
                continue
            entry = archive.getinfo(name)
            if entry.compress_type != zipfile.ZIP_STORED:
                with archive.open(entry) as inside:
                    read = np.lib.format.read_array(inside, allow_pickle=False)
                return ListNames(read.tolist(), kind)
            handle.seek(member_start(handle, entry))
            np.lib.format.read_magic(handle)
            shape, _, dtype = np.lib.format.read_array_header_1_0(handle)
            if dtype.kind != "U" or len(shape) != 1:
                raise InputError(f"{printable(file)}: {kind}s is not an array of texts")
            return UnicodeNames(handle, handle.tell(), shape[0], dtype, kind)
    raise InputError(f"{printable(file)} has no array paths, which names the rows")


class TableNames:
    """The column `path` or `text` of a Parquet file, where it has a vector."""

    def __init__(self, part: TablePart) -> None:
        columns = [c for c in ("path", "path_bytes", "text") if c in part.table.schema_arrow.names]
        if not columns or columns == ["path_bytes"]:
            raise InputError(f"{printable(part.file)} has no column path, which names the rows")
        self.kind: Kind = "path" if "path" in columns else "text"
        self._table: Any = None
        for group in range(part.table.num_row_groups):
            read = part.table.read_row_group(group, columns=[*columns, COLUMN])
            named = read.filter(read.column(COLUMN).is_valid()).select(columns)
            self._table = _joined(self._table, named)

    def __len__(self) -> int:
        return 0 if self._table is None else int(self._table.num_rows)

    def __getitem__(self, row: int) -> str:
        return self._names(self._table.slice(row, 1))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), AT_ONCE):
            yield from self._names(self._table.slice(start, AT_ONCE))

    def _names(self, table: Any) -> list[str]:
        names: list[str] = table.column(self.kind).to_pylist()
        if "path_bytes" in table.column_names:
            raw = table.column("path_bytes").to_pylist()
            names = [os.fsdecode(r) if r else n for r, n in zip(raw, names, strict=True)]
        return names

    def find(self, name: str) -> int | None:
        for row, other in enumerate(self):
            if other == name:
                return row
        return None


def _joined(table: Any, more: Any) -> Any:
    import pyarrow as pa

    return more if table is None else pa.concat_tables([table, more])
