"""Join the outputs of all shards of a run into the output of the whole run."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vitcli.errors import OutputError, UsageError, listed
from vitcli.files import real
from vitcli.jobs.apart import check_apart, written_of
from vitcli.jobs.job import SILENT, Reporter, Summary
from vitcli.jobs.run import completing
from vitcli.records import ImageRef, Kept
from vitcli.runs.fingerprint import Fingerprint
from vitcli.runs.finished import Rows, unreadable
from vitcli.runs.journal import journal_of, read_entries, read_header
from vitcli.runs.journal_lines import CHUNK, Damaged, Entry, Header
from vitcli.runs.output import Output
from vitcli.runs.recording import Recording
from vitcli.runs.shard import Shard, parse_shard
from vitcli.runs.staging import brought, staged
from vitcli.sinks.format import Format
from vitcli.stores import Place

AT_A_TIME = 1024  # rows
AHEAD = 256 << 20  # bytes to read ahead, for the files of all shards together


@dataclass(frozen=True, slots=True)
class _Part:
    """A finished shard, and the header of its journal."""

    output: Output
    header: Header
    shard: Shard

    @property
    def path(self) -> Path:
        assert self.output.out is not None
        return self.output.out

    @property
    def journal(self) -> Path:
        return journal_of(real(self.path))

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the whole run."""
        own = self.header.fingerprint
        return replace(own, values={n: v for n, v in own.values.items() if n != "--shard"})

    def entries(self, ahead: int) -> Iterator[Entry]:
        try:
            yield from read_entries(self.journal, self.journal.stat().st_size, ahead)
        except Damaged:
            raise unreadable(real(self.path)) from None


def merge(
    shards: Sequence[Place],
    out: Place,
    *,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Summary:
    """Write every row of every shard, in the order of the inputs. A URL may be a pattern.

    Raises OutputError if a shard is missing, is named twice, or belongs to another run.
    """
    with (
        staged(out, overwrite=overwrite, note=reporter.note) as file,
        brought(shards) as files,
    ):
        assert file is not None
        return _merge(files, file, overwrite=overwrite, reporter=reporter)


def _merge(shards: Sequence[Path], out: Path, *, overwrite: bool, reporter: Reporter) -> Summary:
    started = time.monotonic()
    parts = _complete([_read(path) for path in shards])
    first = parts[0]
    format = first.output.format
    if first.output.kind.is_sealed:
        raise UsageError(
            f"{format.name} files are not merged",
            "read them together: a folder of them is one table",
        )
    if first.output.kind.has_suffix and out.suffix != first.path.suffix:
        raise UsageError(
            f"the shards are {format.name}", f"name the output {out.stem}{first.path.suffix}"
        )
    ahead = min(CHUNK, max(1, AHEAD // len(parts) // 3))  # journal, text and array
    key = _order(parts, ahead)
    output = Output(out=out, command=first.output.command, format=format, overwrite=overwrite)
    output.check()
    read = (path for part in parts for path in (*part.output.paths.values(), part.journal))
    check_apart(written_of(output.paths.values()), ((file, "a shard") for file in read))
    with Recording(replace(output, overwrite=True), lambda: iter(())) as record:
        record.plan(first.fingerprint)
        stores = [Rows(part.output, ahead) for part in parts]
        meta = first.header.meta
        merged = _rows(parts, stores, key, ahead)
        with completing(record.begin(meta, first.header.weights, reporter.progress)) as sink:
            while rows := list(islice(merged, AT_A_TIME)):
                sink.write(rows)
            progress, seconds = record.progress, time.monotonic() - started
            summary = Summary(progress.done, progress.failed, seconds)
            sink.finish({**meta, **summary.counts})
    return summary


def _read(path: Path) -> _Part:
    out = real(path)
    journal = journal_of(out)
    header = read_header(journal)
    if not out.exists():
        raise OutputError(f"there is no {path}", "if the shard was interrupted, --resume it first")
    if not journal.exists():
        raise OutputError(
            f"{path} has no record of its run, {journal.name}", "copy it along with the shard"
        )
    if header is None:
        raise unreadable(out)
    values = header.fingerprint.values
    if values.get("--shard") is None:
        raise OutputError(f"{path} is not a shard, but a whole output", "leave it out")
    try:
        output = Output(out=path, command=values["command"], format=Format.of(values))
        if output.format.page != "none":  # no shard has a page
            raise unreadable(out)
        output.kind.check_installed()
        return _Part(output, header, parse_shard(values["--shard"]))
    except (KeyError, TypeError, AttributeError, UsageError):
        raise unreadable(out) from None


def _complete(parts: Sequence[_Part]) -> list[_Part]:
    """Return the shards in order. Raises OutputError if one is missing or named twice, or if they
    belong to different runs."""
    by_number: dict[int, _Part] = {}
    for part in parts:
        differs = parts[0].fingerprint.difference(part.fingerprint)
        if differs is None and part.shard.count != parts[0].shard.count:
            differs = f"{parts[0].shard.count} shards (now {part.shard.count})"
        if differs is not None:
            raise OutputError(
                f"{part.path} is of another run than {parts[0].path}, which was made with {differs}"
            )
        earlier = by_number.setdefault(part.shard.number, part)
        if earlier is not part:
            raise OutputError(f"shard {part.shard} is given twice: {earlier.path} and {part.path}")
    count = parts[0].shard.count
    missing = [Shard(n, count) for n in range(1, count + 1) if n not in by_number]
    if missing:
        names = listed([str(shard) for shard in missing], 5)
        raise OutputError(f"shard {names} is missing", "give the outputs of all shards")
    return [by_number[number] for number in sorted(by_number)]


def _order(parts: Sequence[_Part], ahead: int) -> Callable[[Entry], Any]:
    """The key that sorts the rows of all shards like the inputs: the place of a row, or its path if
    the shards listed different inputs. Raises OutputError if a shard is not sorted by that path."""
    if _is_one_listing(parts, ahead):
        return lambda entry: entry.place
    for part in parts:
        last = b""
        for entry in part.entries(ahead):
            path = os.fsencode(entry.path)
            if path < last:
                raise OutputError(
                    "the shards listed different inputs, and not in the order of their paths",
                    "run each of them again, with --resume",
                )
            last = path
    return lambda entry: os.fsencode(entry.path)


def _is_one_listing(parts: Sequence[_Part], ahead: int) -> bool:
    """Whether all shards took their places from one listing. A row that is kept for a deleted file
    repeats the place before it in its own shard."""
    last = owner = -1
    streams = [
        ((entry.place, number) for entry in part.entries(ahead))
        for number, part in enumerate(parts)
    ]
    for place, number in heapq.merge(*streams):
        if place == last + 1:
            last, owner = place, number
        elif place != last or (number != owner and place >= 0):
            return False
    return True


def _rows(
    parts: Sequence[_Part], stores: Sequence[Rows], key: Callable[[Entry], Any], ahead: int
) -> Iterator[Kept]:
    def keyed(number: int) -> Iterator[tuple[Any, int, int, Entry]]:
        for position, entry in enumerate(parts[number].entries(ahead)):
            yield key(entry), number, position, entry

    merged = heapq.merge(*map(keyed, range(len(parts))))
    for place, (_, number, _, entry) in enumerate(merged):
        yield stores[number].row(ImageRef(place, entry.path, entry.stamp), entry)
