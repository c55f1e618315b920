"""An index: the rows of several files of one space, their names, and what they were made with."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitcli.errors import InputError, printable
from vitcli.indexes.files import INDEX, beside, open_if_there, opened, suffix_of
from vitcli.indexes.lines import read_vector_lines
from vitcli.indexes.meta import SPACE, check_shape, read_meta, shown
from vitcli.indexes.names import Kind, ListNames, Names, names_in_lines
from vitcli.indexes.parts import ArrayPart, Part, Vectors, copied
from vitcli.indexes.read import names_inside, read_part
from vitcli.indexes.specs import Note, files_of
from vitcli.indexes.tables import TableNames, TablePart
from vitcli.stores import is_remote


@dataclass(frozen=True, slots=True)
class Index:
    """Vectors (N, D) and the name of each. Rows are counted through all parts.

    meta: the fields of the first part's meta file; empty for an array of Python.
    """

    parts: tuple[Part, ...]
    named: tuple[Names, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def width(self) -> int:
        return self.parts[0].width

    @property
    def names(self) -> Kind:
        """The kind of name of a row: the path of an image, or a text."""
        return self.named[0].kind

    @property
    def files(self) -> list[str]:
        """The files of the parts."""
        return [part.file for part in self.parts]

    @property
    def label(self) -> str:
        """The index in a message."""
        more = f" and {len(self.parts) - 1:,} more" if len(self.parts) > 1 else ""
        return printable(self.parts[0].file) + more

    @property
    def maker(self) -> str:
        """The model of the vectors, for a heading; empty if no meta file says it."""
        model = self.meta.get("model")
        return f"model {printable(model)}" if isinstance(model, str) else ""

    def _starts(self) -> list[int]:
        return [0, *accumulate(part.count for part in self.parts)]

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The parts that hold the rows from `start` to `stop`: (part, first row in it, end)."""
        starts = self._starts()
        for number, first in enumerate(starts[:-1]):
            low, high = max(start, first), min(stop, starts[number + 1])
            if low < high:
                yield number, low - first, high - first

    def name(self, row: int) -> str:
        """The path or the text of a row."""
        starts = self._starts()
        number = bisect_right(starts, row) - 1
        return self.named[number][row - starts[number]]

    def iter_names(self) -> Iterator[str]:
        """The names of all rows, in order."""
        return chain.from_iterable(self.named)

    def row_of(self, name: str) -> int | None:
        """The first row of a text, or of a path, which may be spelled in another way: relative,
        absolute, with `./`. None if there is none."""
        starts = self._starts()
        for spelled in _spellings(name) if self.names == "path" else [name]:
            for first, names in zip(starts, self.named, strict=False):
                if (row := names.find(spelled)) is not None:
                    return first + row
        return None

    def fill(self, out: Vectors, start: int) -> None:
        """Read the rows from `start` on into `out` (n, D)."""
        done = 0
        for number, low, high in self.spans(start, start + len(out)):
            with np.errstate(over="ignore"):  # fp64 beyond fp32 is infinity
                self.parts[number].fill(out[done : done + high - low], low)
            done += high - low

    def view(self, start: int, stop: int) -> Vectors | None:
        """The rows from `start` to `stop` without a copy; None where that cannot be."""
        match list(self.spans(start, stop)):
            case [(number, low, high)]:
                return self.parts[number].view(low, high)
        return None

    def read(self, start: int, stop: int) -> Vectors:
        """Rows as they are stored, in fp32.  -> (n, D)

        Raises InputError for NaN or infinity.
        """
        out = np.empty((stop - start, self.width), np.float32)
        self.fill(out, start)
        check_finite(self, out, start)
        return out

    def gather(self, rows: Sequence[int] | NDArray[np.int64]) -> Vectors:
        """Single rows as they are stored, in fp32.  -> (n, D)"""
        out = np.empty((len(rows), self.width), np.float32)
        for number, row in enumerate(rows):
            out[number] = self.read(int(row), int(row) + 1)[0]
        return out


def check_finite(index: Index, vectors: Vectors, start: int) -> None:
    """Raise InputError for NaN or infinity in the rows from `start` on."""
    with np.errstate(invalid="ignore"):
        if np.isfinite(vectors.sum(dtype=np.float64)):
            return
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        row = start + int(bad[0])
        raise InputError(
            f"row {row:,} of {index.label} holds NaN or infinity ({printable(index.name(row))})",
            "write it again: vit embed --overwrite",
        )


def _spellings(path: str) -> Iterator[str]:
    """The ways to write a path: as it is, without `./` and `..`, absolute, from this folder."""
    yield path
    if is_remote(path):
        return
    plain = os.path.normpath(path)
    for spelled in (plain, f"./{plain}", os.path.abspath(path)):  # noqa: PTH100  # text
        if spelled != path:
            yield spelled
    with suppress(ValueError):
        yield os.path.relpath(path)


def open_index(specs: Sequence[str], note: Note = lambda text: None) -> Index:
    """Open what `vit embed` has written: paths, patterns, names with braces, shards, URLs. note: is
    told of a shard that is read alone.

    Raises InputError for files of another kind, for missing shards, and for files of different
    spaces, naming what differs.
    """
    return open_files(files_of(specs, note))


def open_files(files: Sequence[str]) -> Index:
    """Open files as one index. Raises InputError as `open_index` does, but not for shards."""
    parts: list[Part] = []
    named: list[Names] = []
    metas: list[dict[str, Any]] = []
    for file in files:
        handle = opened(file)
        meta = read_meta(file)
        part, names = _read(file, handle, meta)
        if len(names) != part.count:
            raise InputError(
                f"{printable(file)} has {part.count:,} rows, and its index names {len(names):,}",
                "they do not belong together: write both again with vit embed --overwrite",
            )
        check_shape(file, meta, part.count, part.width)
        parts.append(part)
        named.append(names)
        metas.append(meta)
    filled = [n for n, part in enumerate(parts) if part.count] or [0]
    first = filled[0]
    for part, meta, names in zip(parts, metas, named, strict=True):
        _check_space(parts[first], metas[first], part, meta)
        if part.count and named[first].kind != names.kind:
            raise InputError(
                f"{printable(part.file)} names {names.kind}s, and {printable(parts[first].file)} "
                f"{named[first].kind}s",
                "search them one after the other",
            )
    return Index(tuple(parts[n] for n in filled), tuple(named[n] for n in filled), metas[first])


def _read(file: str, handle: BinaryIO, meta: Mapping[str, Any]) -> tuple[Part, Names]:
    """The rows of a file, and their names."""
    if suffix_of(file) == ".jsonl" and not file.endswith(INDEX):
        return read_vector_lines(file, handle, meta)
    part = read_part(file, handle)
    return part, _names(part, handle, file)


def _names(part: Part, handle: BinaryIO, file: str) -> Names:
    """The names of the rows of a file: next to it, or else in it."""
    if isinstance(part, TablePart):
        return TableNames(part)
    name = beside(file, INDEX)
    lines = open_if_there(name)
    if lines is not None:
        return names_in_lines(name, lines)
    inside = names_inside(file, handle)
    if inside is not None:
        return inside
    raise InputError(
        f"{printable(file)} has no {printable(name)} next to it, which names its rows",
        "vit embed writes both; move them together. In Python, give an array and paths=",
    )


def _check_space(first: Part, one: Mapping[str, Any], part: Part, other: Mapping[str, Any]) -> None:
    """Raise InputError if two files are of different spaces."""
    if part.width != first.width:
        raise InputError(
            f"{printable(part.file)} has {part.width} numbers a row, and "
            f"{printable(first.file)} {first.width}",
            "they are not of one model",
        )
    if bool(one) != bool(other):
        without = part.file if one else first.file
        raise InputError(
            f"{printable(without)} has no meta file, so it may be of another model",
            "move feats.meta.json with feats.npy",
        )
    for name, origin in SPACE.items():
        if one.get(name) != other.get(name):
            raise InputError(
                f"{printable(part.file)} and {printable(first.file)} differ in {origin}: "
                f"{shown(other.get(name))} and {shown(one.get(name))}",
                "an index is of one model and one set of options",
            )


def index_of(array: ArrayLike, paths: Sequence[str | os.PathLike[str]] | None = None) -> Index:
    """The index of an array (N, D) in Python. Without `paths` its rows are named by their numbers.

    Raises InputError for an array of another kind or shape, and for more or fewer paths than rows.
    """
    try:
        values = np.asarray(array)
    except (ValueError, TypeError, RuntimeError):  # rows of several lengths; a tensor on a GPU
        raise InputError(
            "the index cannot be read as an array of NumPy", "give floats (N, D)"
        ) from None
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise InputError("the index has masked numbers", "give floats (N, D)")
    if values.ndim != 2 or values.dtype.kind != "f" or not values.shape[1]:
        raise InputError(
            f"an array of {values.dtype} {values.shape} is not an index", "give floats (N, D)"
        )
    names = [os.fspath(path) for path in (range_names(len(values)) if paths is None else paths)]
    if len(names) != len(values):
        raise InputError(f"{len(values):,} rows and {len(names):,} paths", "give a path a row")
    return Index((ArrayPart(values),), (ListNames(names),))


def range_names(count: int) -> list[str]:
    """Names for rows that have none: their numbers."""
    return [str(row) for row in range(count)]


@contextmanager
def mapped(index: Index) -> Iterator[Index]:
    """The same index, whose rows can be read many times in any order: Parquet is copied into a
    temporary file once."""
    yield replace(index, parts=tuple(p if p.is_raw else copied(p) for p in index.parts))
