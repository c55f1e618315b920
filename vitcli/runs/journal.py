"""How far a run has come: lines of JSON beside its output, a few for every batch.

    {"fingerprint":{…},"defaults":{…},"meta":{…},…}    the run: see Header
    {"files":[[128,0],[0,0]],"crc":3735928559}             the files behind their headers
    [0,"a.jpg",[1204,1700000000000000000],0,86,0]          an input and its row: see Entry
    [1,"b.jpg",[77,1700000000000000000],86,120,null]       one that failed
    {"files":[[384,2774023],[206,913]],"crc":195936478}    a batch is written: bytes, CRC-32
    {"finished":[["out.jsonl.partial","out.jsonl",206,…]],"crc":7}    all is: see Whole

The lines of a batch are written after its rows, so the files may be ahead of the journal, never
behind it. What stands behind the last batch on which journal and files agree is cut off. `crc` is
the CRC-32 of the journal up to that line.

A journal may come from anywhere: a clone, a download, a shared disk. Nothing that it says is
trusted: what is not as a run writes it raises Damaged, and whoever reads names compares them.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vitcli.files import open_regular
from vitcli.runs.fingerprint import Fingerprint
from vitcli.sinks.files import Grown, PartialFile

JOURNAL = ".journal"
CHUNK = 1 << 20
LONGEST_LINE = 16 << 20  # bytes: the header, or a path
MOST = 1 << 53  # of bytes, rows and inputs
TIMES = 1 << 63  # nanoseconds
MOST_ROW_BYTES = 1 << 31
DTYPES = ("float32", "float16")


class Damaged(ValueError):
    """A journal that no run has left like this."""


class Entry(NamedTuple):
    """An input and its row: `length` bytes of text from `start`, and the number of its row among
    the good ones, None where it failed. `stamp` is the file's (bytes, mtime in ns) when it was
    listed. `place` is that among all inputs: it grows, but for rows that are kept of files that
    are gone, which have that of the input before them."""

    place: int
    path: str
    stamp: tuple[int, int]
    start: int
    length: int
    row: int | None

    @staticmethod
    def of(line: bytes) -> Entry:
        """Read a line of the journal. Raises Damaged."""
        try:
            place, path, (size, mtime), start, length, row = parse(line)
            numbers = (place, size, start, length, 0 if row is None else row)
            is_right = (
                all(type(number) is int and -1 <= number < MOST for number in numbers)
                and min(start, length, numbers[4]) >= 0
                and type(mtime) is int
                and -TIMES <= mtime < TIMES
                and type(path) is str
                and (path.isascii() or os.fsencode(path) is not None)
            )
        except (TypeError, ValueError):
            is_right = False
        if not is_right:
            raise Damaged("an input")
        return Entry(place, path, (size, mtime), start, length, row)


class Whole(NamedTuple):
    """A file of a run that has come to its end: its names before and after, seen from the folder of
    the journal, and its `size`; the CRC-32 of its first `head` bytes, and that of the rest; when it
    was written, in ns, and its inode."""

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
        """Describe a file that is written but not yet named."""
        found, seal = file.stat(), file.seal
        return Whole(
            os.path.relpath(file.partial, folder),
            os.path.relpath(file.real, folder),
            found.st_size,
            seal.head,
            seal.head_crc,
            seal.crc,
            found.st_mtime_ns,
            found.st_ino,
        )

    @staticmethod
    def read(value: object) -> Whole:
        """Read the JSON list of a file. Raises Damaged."""
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
        """Whether a file is this one. It is not read where its inode and times say so: the last
        change was not after `until`, in ns, when the run had named its files."""
        try:
            with open_regular(path) as file:
                found = os.fstat(file.fileno())
                if found.st_size != self.size:
                    return False
                stamps = found.st_mtime_ns, found.st_ino
                if until is not None and stamps == self[-2:] and found.st_ctime_ns <= until:
                    return True
                return (crc_of(file, self.head), crc_of(file)) == (self.head_crc, self.crc)
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Header:
    """What a run is: `weights` as describe_weights gives them; `meta` is what its files tell, with
    `row_shape` and `array_dtype` where they hold an array; `takes_over` says whether rows of an
    earlier output are taken over."""

    fingerprint: Fingerprint
    meta: Mapping[str, Any] = field(default_factory=dict)
    weights: Sequence[Mapping[str, Any]] = ()
    takes_over: bool = False

    @staticmethod
    def of(line: bytes) -> Header:
        """Read the first line. Raises Damaged."""
        value = parse(line)
        if not isinstance(value, dict) or not line.endswith(b"\n"):
            raise Damaged("no header")
        header = Header(
            Fingerprint(value.get("fingerprint"), value.get("defaults", {})),  # type: ignore[arg-type]
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


def _is_array(meta: Mapping[str, Any]) -> bool:
    """Whether what it says of an array, if there is one, can be."""
    shape, dtype = meta.get("row_shape", []), meta.get("array_dtype", DTYPES[0])
    if not isinstance(shape, list) or dtype not in DTYPES or len(shape) > 8:
        return False
    if any(type(side) is not int or not 0 < side < MOST_ROW_BYTES for side in shape):
        return False
    return math.prod(shape) * 4 < MOST_ROW_BYTES


def _is_model(value: object) -> bool:
    """Whether it is what describe_weights says of a model."""
    if not isinstance(value, dict) or not isinstance(value.get("files"), list):
        return False
    hashes = (value.get("sha256"), value.get("config"))
    return all(isinstance(name, str) and len(name) == 64 for name in hashes)


@dataclass(frozen=True, slots=True)
class Commit:
    """A batch that is written: where its line ends in the journal, the inputs so far, how many of
    them failed, how far each file had come, and the CRC-32 of the journal."""

    end: int
    inputs: int
    failed: int
    files: tuple[Grown, ...]
    crc: int = 0


def json_bytes(value: object) -> bytes:
    """A line. It is ASCII: a path that is not UTF-8 keeps its surrogates."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _refuse(constant: str) -> None:
    raise Damaged(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # NaN and infinity are no JSON


def parse(line: bytes) -> Any:
    """What a line says. Raises Damaged."""
    try:
        return _DECODER.decode(line.decode("ascii"))
    except (ValueError, RecursionError):
        raise Damaged("no JSON") from None


def read_header(journal: Path) -> Header | None:
    """The first line; nothing where there is none, or none of a run."""
    try:
        with open_regular(journal) as file:
            return Header.of(readline(file))
    except (OSError, Damaged):
        return None


def read_finished(journal: Path) -> list[Whole] | None:
    """Each file, where all of them are whole, and the journal is too."""
    try:
        with open_regular(journal) as file:
            tail_at = max(0, file.seek(0, 2) - CHUNK)
            file.seek(tail_at)
            tail = file.read(CHUNK)
            start = tail.rfind(b"\n", 0, -1) + 1
            last = parse(tail[start:]) if tail.endswith(b"\n") and (start or not tail_at) else None
            if not isinstance(last, dict) or not isinstance(last.get("finished"), list):
                return None
            found = [Whole.read(value) for value in last["finished"]]
            file.seek(0)
            is_whole = last.get("crc") == crc_of(file, tail_at + start)
            return found if found and is_whole else None
    except (OSError, Damaged):
        return None


def journal_of(out: Path) -> Path:
    """The journal of a finished output, hidden beside it."""
    return out.with_name(f".{out.name}{JOURNAL}")


def read_commits(journal: Path) -> list[Commit]:
    """The batches of a journal, as far as it can be read."""
    commits: list[Commit] = []
    end = inputs = good = crc = 0
    at = None  # where the text of the next row begins
    try:
        with open_regular(journal) as file:
            while (line := readline(file)).endswith(b"\n"):
                if line.startswith(b"["):
                    entry = Entry.of(line)
                    number = None if entry.row is None else good
                    if at is None or (entry.start, entry.row) != (at, number):
                        break
                    at += entry.length
                    inputs, good = inputs + 1, good + (entry.row is not None)
                elif b'"files"' in line[:10]:
                    files = _files(parse(line), crc, commits)
                    at = files[-1].size if at is None else at
                    if at != files[-1].size:
                        break
                    failed = inputs - good
                    ends = end + len(line)
                    commits.append(Commit(ends, inputs, failed, files, zlib.crc32(line, crc)))
                end, crc = end + len(line), zlib.crc32(line, crc)
    except (OSError, Damaged):
        pass
    return commits


def _files(value: Any, crc: int, earlier: Sequence[Commit]) -> tuple[Grown, ...]:
    """How far the files have come. Raises Damaged."""
    try:
        found = tuple(Grown(size, crc) for size, crc in value["files"])
        numbers = [number for grown in found for number in (grown.size, grown.crc)]
        is_right = all(type(number) is int and 0 <= number < MOST for number in numbers)
        before = earlier[-1].files if earlier else found
        grows = len(before) == len(found) and all(
            old.size <= new.size for old, new in zip(before, found, strict=True)
        )
        if not found or not is_right or not grows or value["crc"] != crc:
            raise Damaged("a batch")
    except (TypeError, ValueError, KeyError):
        raise Damaged("a batch") from None
    return found


def read_entries(journal: Path, end: int, at_a_time: int = CHUNK) -> Iterator[Entry]:
    """The inputs up to a place in the journal. It is open only while so many bytes are read.
    Raises Damaged."""
    at = 0
    while at < end:
        lines, taken = [], 0
        with open_regular(journal) as file:
            file.seek(at)
            while taken < at_a_time and (line := readline(file)):
                lines.append(line)
                taken += len(line)
        if not lines:
            return
        for line in lines:
            if at < end and line.startswith(b"["):
                yield Entry.of(line)
            at += len(line)


def readline(file: BinaryIO) -> bytes:
    """The next line, of a length that a run may write. Raises Damaged."""
    line = file.readline(LONGEST_LINE)
    if len(line) == LONGEST_LINE:
        raise Damaged("a line without end")
    return line


def last_agreed(commits: Sequence[Commit], files: Sequence[Path]) -> Commit | None:
    """The last batch after which every file held what the journal says, down to its bytes."""
    if not commits or any(len(commit.files) != len(files) for commit in commits):
        return None
    good = len(commits)
    for number, path in enumerate(files):
        try:
            with open_regular(path) as file:
                good = min(good, _count_good(file, [commit.files[number] for commit in commits]))
        except OSError:
            return None
    return commits[good - 1] if good else None


def _count_good(file: BinaryIO, states: Sequence[Grown]) -> int:
    """How many of the states, one behind the other, the bytes of the file bear out."""
    at, crc = states[0].size, 0
    if file.seek(0, 2) < at:
        return 0
    file.seek(at)
    for count, state in enumerate(states):
        while at < state.size:
            data = file.read(min(CHUNK, state.size - at))
            if not data:
                return count
            at += len(data)
            crc = zlib.crc32(data, crc)
        if (at, crc) != (state.size, state.crc):
            return count
    return len(states)


def crc_of(file: BinaryIO, size: int | None = None) -> int:
    """The CRC-32 of what follows in a file, or of so many bytes."""
    crc = 0
    while data := file.read(CHUNK if size is None else min(CHUNK, size)):
        crc = zlib.crc32(data, crc)
        size = None if size is None else size - len(data)
    return crc
