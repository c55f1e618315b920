"""The journal of a run: JSON lines next to the output, a few for each batch that is written.

    {"fingerprint":{…},"defaults":{…},"meta":{…},…}    the run: see Header
    {"files":[[128,0],[0,0]],"crc":3735928559}             the headers are written
    [0,"a.jpg",[1204,1700000000000000000],0,86,0]          an input and its row: see Entry
    [1,"b.jpg",[77,1700000000000000000],86,120,null]       an input that failed
    {"files":[[384,2774023],[206,913]],"crc":195936478}    a batch is written: bytes, CRC-32
    {"finished":[["out.jsonl.partial","out.jsonl",206,…]],"crc":7}    the run is finished: see Whole

`files` has the size and the CRC-32 of each file that grows with the rows; the last holds the rows'
text. The lines of a batch are written after its rows, so the files may be ahead of the journal, but
the journal is never ahead of the files. To resume, a run truncates the files to the last batch at
which they agree with the journal. `crc` is the CRC-32 of the journal before that line.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vitcli.files import PARTIAL, open_regular
from vitcli.runs.journal_lines import CHUNK, MAX_COUNT, Damaged, Entry, Header, Whole, crc_of, parse
from vitcli.sinks.files import Grown

JOURNAL = ".journal"
MAX_LINE = 16 << 20  # bytes, enough for a header or a path


def journal_of(out: Path) -> Path:
    """The path of a finished output's journal: a hidden file next to the output."""
    return out.with_name(f".{out.name}{JOURNAL}")


def journals_of(out: Path) -> tuple[Path, Path]:
    """The paths of the journals of an output: while it is written, and when it is finished."""
    return out.with_name(f"{out.name}{PARTIAL}{JOURNAL}"), journal_of(out)


@dataclass(frozen=True, slots=True)
class Commit:
    """A batch that the journal records as written: the offset `end` after its last line, the inputs
    and the failures so far, the state of each file, and the CRC-32 of the journal up to `end`."""

    end: int
    inputs: int
    failed: int
    files: tuple[Grown, ...]
    crc: int = 0


def read_header(journal: Path) -> Header | None:
    """The header; None if there is no journal, or its first line is not a header."""
    try:
        with open_regular(journal) as file:
            return Header.of(readline(file))
    except (OSError, Damaged):
        return None


def read_finished(journal: Path) -> list[Whole] | None:
    """The files of a finished run; None if the run has not finished or its journal is damaged."""
    try:
        with open_regular(journal) as file:
            tail_at = max(0, file.seek(0, 2) - CHUNK)
            file.seek(tail_at)
            tail = file.read(CHUNK)
            start = tail.rfind(b"\n", 0, -1) + 1
            last = parse(tail[start:]) if tail.endswith(b"\n") and (start or not tail_at) else None
            if not isinstance(last, dict) or not isinstance(last.get("finished"), list):
                return None
            files = [Whole.read(value) for value in last["finished"]]
            file.seek(0)
            is_whole = last.get("crc") == crc_of(file, tail_at + start)
            return files if files and is_whole else None
    except (OSError, Damaged):
        return None


def read_commits(journal: Path) -> list[Commit]:
    """Read the batches of a journal, up to the first damaged line."""
    commits: list[Commit] = []
    end = inputs = good = crc = 0
    at = None  # the offset of the next row's text
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
    """Parse the state of each file after a batch. Raises Damaged."""
    try:
        states = tuple(Grown(size, crc) for size, crc in value["files"])
        numbers = [number for grown in states for number in (grown.size, grown.crc)]
        is_right = all(type(number) is int and 0 <= number < MAX_COUNT for number in numbers)
        before = earlier[-1].files if earlier else states
        grows = len(before) == len(states) and all(
            old.size <= new.size for old, new in zip(before, states, strict=True)
        )
        if not states or not is_right or not grows or value["crc"] != crc:
            raise Damaged("a batch")
    except (TypeError, ValueError, KeyError):
        raise Damaged("a batch") from None
    return states


def read_entries(journal: Path, end: int, at_a_time: int = CHUNK) -> Iterator[Entry]:
    """Read the entries before the offset `end`. The journal is open only while `at_a_time` bytes
    are read. Raises Damaged."""
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
    """Read a line. Raises Damaged if it is longer than any line that a run writes."""
    line = file.readline(MAX_LINE)
    if len(line) == MAX_LINE:
        raise Damaged("a line without end")
    return line


def last_agreed(commits: Sequence[Commit], files: Sequence[Path]) -> Commit | None:
    """The last batch at which every file agrees with the journal."""
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
    """Count the states, from the first on, that agree with the bytes of the file."""
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
