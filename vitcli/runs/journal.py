"""How far a run has come: lines of JSON beside its output, a few for every batch.

    {"fingerprint":{…},"meta":{…},…}                       what the run is
    {"files":[[128,0],[0,0]]}                              the files behind their headers
    [0,"a.jpg",[1204,1700000000000000000],0,86,0]          an input and its row: see Entry
    [1,"b.jpg",[77,1700000000000000000],86,120,null]       one that failed
    {"files":[[384,2774023],[206,913]]}                    a batch is written: bytes, CRC-32
    {"finished":[["out.jsonl.partial","out.jsonl",206]]}   all is: (partial, name, bytes)

The lines of a batch are written after its rows, so the files may be ahead of the journal, never
behind it. What stands behind the last batch on which journal and files agree is cut off.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vitcli.sinks.files import Grown

JOURNAL = ".journal"
CHUNK = 1 << 20


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
        """Of a line that stands in the journal."""
        place, path, (size, mtime), start, length, row = json.loads(line)
        return Entry(place, path, (size, mtime), start, length, row)


@dataclass(frozen=True, slots=True)
class Commit:
    """A batch that is written: where its line ends in the journal, the inputs so far, how many of
    them failed, and how far each file had come."""

    end: int
    inputs: int
    failed: int
    files: tuple[Grown, ...]


def json_bytes(value: object) -> bytes:
    """A line. It is ASCII: a path that is not UTF-8 keeps its surrogates."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def read_header(journal: Path) -> dict[str, Any]:
    """The first line; nothing where there is none."""
    try:
        with journal.open("rb") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def read_finished(journal: Path) -> list[tuple[str, str, int]] | None:
    """(partial, name, bytes) of each file, where all of them are whole."""
    try:
        with journal.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - CHUNK))
            last = json.loads(file.read().splitlines(keepends=True)[-1])
    except (OSError, ValueError, IndexError):
        return None
    return last.get("finished") if isinstance(last, dict) else None


def journal_of(out: Path) -> Path:
    """The journal of a finished output, hidden beside it."""
    return out.with_name(f".{out.name}{JOURNAL}")


def read_commits(journal: Path) -> list[Commit]:
    """The batches of a journal, as far as it can be read."""
    commits: list[Commit] = []
    end = inputs = failed = 0
    with journal.open("rb") as file:
        for line in file:
            end += len(line)
            try:
                value = json.loads(line)
                if not line.endswith(b"\n"):
                    break
                if isinstance(value, list):
                    inputs += 1
                    failed += value[5] is None
                elif "files" in value:
                    files = tuple(Grown(size, crc) for size, crc in value["files"])
                    commits.append(Commit(end, inputs, failed, files))
            except (ValueError, TypeError, IndexError):
                break
    return commits


def read_entries(journal: Path, end: int, at_a_time: int = CHUNK) -> Iterator[Entry]:
    """The inputs up to a place in the journal. It is open only while so many bytes are read."""
    at = 0
    while at < end:
        with journal.open("rb") as file:
            file.seek(at)
            lines = file.readlines(at_a_time)
        if not lines:
            return
        for line in lines:
            if at < end and line.startswith(b"["):
                yield Entry.of(line)
            at += len(line)


def last_agreed(commits: Sequence[Commit], files: Sequence[Path]) -> Commit | None:
    """The last batch after which every file held what the journal says, down to its bytes."""
    if not commits or any(len(commit.files) != len(files) for commit in commits):
        return None
    good = len(commits)
    for number, path in enumerate(files):
        try:
            with path.open("rb") as file:
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


def difference(old: Mapping[str, object], new: Mapping[str, object]) -> str | None:
    """The first field in which two fingerprints differ, with both of its values."""
    for name in (*new, *(name for name in old if name not in new)):
        if old.get(name) != new.get(name):
            return f"{name} {_short(old.get(name))} (now {_short(new.get(name))})"
    return None


def _short(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_short, value)) or "none"
    if value is None:
        return "none"
    text = str(value)
    return text[:12] + "…" if len(text) == 64 else text
