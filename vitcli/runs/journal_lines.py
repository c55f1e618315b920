"""The lines of a journal, and the checks on lines that are read.

A journal may come from anywhere: a clone, a download, a shared disk. Nothing in it is trusted: a
line that no run writes raises Damaged, and a file name counts only if it is one of the output's.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vitcli.files import open_regular
from vitcli.runs.fingerprint import Fingerprint
from vitcli.sinks.files import PartialFile

NOWHERE = (-1, 0)  # the stamp of a file that does not exist
CHUNK = 1 << 20
MAX_COUNT = 1 << 53  # of bytes, rows and inputs
MAX_TIME = 1 << 63  # nanoseconds
MAX_ROW_BYTES = 1 << 31
DTYPES = ("float32", "float16")


class Damaged(ValueError):
    """The line is not one that a run writes."""


class Entry(NamedTuple):
    """An input and its row: `length` bytes of text at `start`. `row` is the number of the row among
    those that have not failed, or None if the image failed.

    `stamp` is (size, mtime in ns) of the file when it was listed. `place` is the index among all
    inputs. It never decreases: a row kept for a deleted file repeats the previous place.
    """

    place: int
    path: str
    stamp: tuple[int, int]
    start: int
    length: int
    row: int | None

    @staticmethod
    def of(line: bytes) -> Entry:
        """Parse a line. Raises Damaged."""
        try:
            place, path, (size, mtime), start, length, row = parse(line)
            numbers = (place, size, start, length, 0 if row is None else row)
            is_right = (
                all(type(number) is int and -1 <= number < MAX_COUNT for number in numbers)
                and min(start, length, numbers[4]) >= 0
                and type(mtime) is int
                and -MAX_TIME <= mtime < MAX_TIME
                and type(path) is str
                and (path.isascii() or os.fsencode(path) is not None)
            )
        except (TypeError, ValueError):
            is_right = False
        if not is_right:
            raise Damaged("an input")
        return Entry(place, path, (size, mtime), start, length, row)


class Whole(NamedTuple):
    """A file of a finished run: its `partial` and its final `name`, relative to the folder of the
    journal; its size; the CRC-32 of its first `head` bytes, and that of the rest; its mtime in ns,
    and its inode."""

    partial: str
    name: str
    size: int
    head: int
    head_crc: int
    crc: int
    mtime: int
    inode: int

    @staticmethod
    def of(file: PartialFile, folder: Path) -> Whole:
        """Describe a complete file before it takes its name."""
        status, seal = file.stat(), file.seal
        return Whole(
            os.path.relpath(file.partial, folder),
            os.path.relpath(file.real, folder),
            status.st_size,
            seal.head,
            seal.head_crc,
            seal.crc,
            status.st_mtime_ns,
            status.st_ino,
        )

    @staticmethod
    def read(value: object) -> Whole:
        """Parse the JSON list that describes a file. Raises Damaged."""
        if not isinstance(value, list) or len(value) != len(Whole._fields):
            raise Damaged("a file")
        whole = Whole(*value)
        names, numbers = whole[:2], (whole.size, whole.head, whole.head_crc, whole.crc, whole.inode)
        is_right = all(type(name) is str and name for name in names) and all(
            type(number) is int and 0 <= number < 1 << 64 for number in (*numbers, whole.mtime)
        )
        if not is_right or whole.head > whole.size:
            raise Damaged("a file")
        return whole

    def is_at(self, path: Path, *, until: int | None = None) -> bool:
        """Whether the file at `path` is this one.

        Its content is not read if its inode and mtime are the same and its ctime is not after
        `until`, the time in ns at which the run had named all its files.
        """
        try:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                if status.st_size != self.size:
                    return False
                stamps = status.st_mtime_ns, status.st_ino
                if until is not None and stamps == self[-2:] and status.st_ctime_ns <= until:
                    return True
                return (crc_of(file, self.head), crc_of(file)) == (self.head_crc, self.crc)
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a journal, which describes the run.

    `weights` comes from describe_weights. `meta` is the description that the output's files carry;
    it has `row_shape` and `array_dtype` if there is an array. `takes_over` says whether the run
    takes over rows of an earlier output.
    """

    fingerprint: Fingerprint
    meta: Mapping[str, Any] = field(default_factory=dict)
    weights: Sequence[Mapping[str, Any]] = ()
    takes_over: bool = False

    def line(self) -> bytes:
        """The first line of the journal."""
        described = {
            "fingerprint": self.fingerprint.values,
            "defaults": self.fingerprint.defaults,
            "takes_over": self.takes_over,
            "meta": self.meta,
            "weights": self.weights,
        }
        return json_bytes(described)

    @staticmethod
    def of(line: bytes) -> Header:
        """Parse the line. Raises Damaged."""
        value = parse(line)
        if not isinstance(value, dict) or not line.endswith(b"\n"):
            raise Damaged("no header")
        header = Header(
            Fingerprint(_current_form(value.get("fingerprint")), value.get("defaults", {})),
            value.get("meta", {}),
            value.get("weights", []),
            value.get("takes_over", False),
        )
        is_right = (
            isinstance(header.fingerprint.values, dict)
            and isinstance(header.fingerprint.defaults, dict)
            and isinstance(header.meta, dict)
            and isinstance(header.weights, list)
            and type(header.takes_over) is bool
        )
        if not is_right or not _is_array(header.meta) or not all(map(_is_model, header.weights)):
            raise Damaged("the header")
        return header


def _current_form(values: Any) -> Any:
    """The values of a fingerprint as they are written now: the format and its options are values of
    their own. The first version wrote them in one text: `paths -0`, `csv and html`."""
    format = values.get("--format") if isinstance(values, dict) else None
    name, _, option = format.partition(" ") if isinstance(format, str) else ("", "", "")
    if option not in ("-0", "and html"):
        return values
    return {**values, "--format": name, "--null" if option == "-0" else "--html": True}


def _is_array(meta: Mapping[str, Any]) -> bool:
    """Whether the row shape and the dtype in a meta, if it has them, are valid."""
    shape, dtype = meta.get("row_shape", []), meta.get("array_dtype", DTYPES[0])
    if not isinstance(shape, list) or dtype not in DTYPES or len(shape) > 8:
        return False
    if any(type(side) is not int or not 0 < side < MAX_ROW_BYTES for side in shape):
        return False
    return math.prod(shape) * 4 < MAX_ROW_BYTES


def _is_model(value: object) -> bool:
    """Whether a value has the form of an item that describe_weights returns."""
    if not isinstance(value, dict) or not isinstance(value.get("files"), list):
        return False
    hashes = (value.get("sha256"), value.get("config"))
    return all(isinstance(name, str) and len(name) == 64 for name in hashes)


def json_bytes(value: object) -> bytes:
    """Return a line of JSON. It is ASCII: a path that is not UTF-8 keeps its surrogates."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _refuse(constant: str) -> None:
    raise Damaged(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # NaN and infinity are not JSON


def parse(line: bytes) -> Any:
    """Return the value of a line of JSON. Raises Damaged."""
    try:
        return _DECODER.decode(line.decode("ascii"))
    except (ValueError, RecursionError):
        raise Damaged("no JSON") from None


def crc_of(file: BinaryIO, size: int | None = None) -> int:
    """The CRC-32 of the rest of a file, or of its next `size` bytes."""
    crc = 0
    while data := file.read(CHUNK if size is None else min(CHUNK, size)):
        crc = zlib.crc32(data, crc)
        size = None if size is None else size - len(data)
    return crc
