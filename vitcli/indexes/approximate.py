"""Approximate search: usearch's graph (HNSW) over the rows of each file, kept next to it.

    Malkov and Yashunin, 2016: Efficient and robust approximate nearest neighbor search using
    Hierarchical Navigable Small World graphs, https://arxiv.org/abs/1603.09320

The graph only proposes rows. Their scores are computed in fp64 from the stored numbers, as exact
search does it, so a score is always right; a row that the graph misses is missing.

`feats.usearch` is a file of usearch with a line of JSON behind it, the stamp: which file the graph
was made of, and a hash of its rows. So it is known when the rows have changed or have grown.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import InputError, OutputError, UsageError, check_installed, printable
from vitcli.files import PARTIAL, open_regular, real, whole_file
from vitcli.indexes.blocks import exact_cosines, exact_lengths, iter_blocks
from vitcli.indexes.files import GRAPH, beside
from vitcli.indexes.index import Index
from vitcli.indexes.parts import RawPart
from vitcli.indexes.search import Found, Rows, Scores, best_of, check_queries
from vitcli.indexes.tables import TablePart
from vitcli.stores import is_remote

VERSION = 1  # of the graph and its stamp: another one is made again
MAX_STAMP = 4096  # bytes
PROPOSED, LEAST = 4, 64  # rows that the graph proposes: for each result, and at least
EFFORT = 2  # paths that the graph follows, for each row that it proposes

Step = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Stamp:
    """The origin of a graph: the open file (size, time in ns, inode), rows (count, width) and their
    sha256 in fp32. `graph` is the size of the graph in bytes."""

    version: int
    seen: tuple[int, int, int]
    count: int
    width: int
    sha256: str
    graph: int


def propose(
    index: Index,
    queries: NDArray[np.floating],
    k: int,
    *,
    threshold: float | None = None,
    step: Step = lambda what, done, total: None,
) -> list[Found]:
    """Return about the k nearest rows of each query (Q, D) by cosine, with exact scores.

    Each file gets a graph next to it, which gets the new rows when the file has grown. step: called
    with what is done, the rows that are done, and all. Raises UsageError without usearch, and for
    an index that is not in files of this machine; InputError for a damaged graph; OutputError for a
    file of another program in its place; WriteError where a graph cannot be written.
    """
    check_installed("--approximate", "usearch", extra="index", error=UsageError)
    checked = check_queries(index, queries, "cosine")
    lowest = -np.inf if threshold is None else threshold
    nothing = Found(np.empty(0, np.int64), np.empty(0))
    found = [nothing] * len(checked)
    first = 0
    for part, names in zip(index.parts, index.named, strict=True):
        one = Index((part,), (names,), index.meta)
        wanted = min(one.count, max(PROPOSED * k, LEAST))
        if wanted:
            graph = _graph(one, step)
            graph.expansion_search = EFFORT * wanted
            for number, query in enumerate(checked):
                rows = _proposed(graph, one, query, wanted)
                scores = exact_cosines(one.gather(rows), query)
                is_in = scores >= lowest
                earlier = found[number]
                found[number] = best_of(
                    np.concatenate([earlier.rows, first + rows[is_in]]),
                    np.concatenate([earlier.scores, scores[is_in]]),
                    k,
                )
        first += one.count
    return found


def _proposed(graph: Any, index: Index, query: Scores, wanted: int) -> Rows:
    """The rows that the graph proposes, in order. Raises InputError for a damaged graph."""
    try:
        keys = graph.search(query.astype(np.float32), wanted).keys
    except RuntimeError:
        keys = np.empty(0, np.uint64)
    if not len(keys) or keys.max() >= index.count:
        raise InputError(
            f"{printable(beside(index.files[0], GRAPH))} is damaged",
            "remove it: --approximate makes it again",
        )
    return np.unique(keys).astype(np.int64)


def _graph(index: Index, step: Step) -> Any:
    """The graph over an index of one part, viewed from its file."""
    from usearch.index import Index as Graph

    part = index.parts[0]
    if not isinstance(part, RawPart | TablePart) or is_remote(part.file):
        raise UsageError(
            f"--approximate keeps a graph next to the index, and {index.label} is not a file here",
            "copy the index to this machine",
        )
    file = Path(beside(part.file, GRAPH))
    status = os.fstat(part.handle.fileno())
    seen = (status.st_size, status.st_mtime_ns, status.st_ino)
    stamp = read_stamp(file)
    if stamp is not None and stamp.seen == seen and stamp.count == index.count:
        with suppress(ValueError, RuntimeError):  # damaged: made again
            return Graph.restore(file, view=True)
    if stamp is None and file.exists():
        raise OutputError(
            f"{printable(str(file))} exists, and is not what --approximate has written",
            "remove it, or give it another name",
        )
    graph, known, digest = _known(index, file, stamp, step)
    if known == index.count and not _is_itself(part):
        return graph
    if graph is None:
        graph = Graph(ndim=index.width, metric="ip", dtype="f16")
    for block in iter_blocks(index, start=known):
        digest.update(block.vectors.data)
        sizes = exact_lengths(block.vectors)[:, None]
        unit = (block.vectors / np.where(sizes > 0, sizes, 1)).astype(np.float32)
        graph.add(np.arange(block.start, block.start + len(unit)), unit)
        step("rows added to the graph", block.start + len(unit), index.count)
    partial = real(file).with_name(real(file).name + PARTIAL)
    with whole_file(file) as whole:
        graph.save(partial)
        size = whole.seek(0, os.SEEK_END)
        made = Stamp(VERSION, seen, index.count, index.width, digest.hexdigest(), size)
        whole.write(b"\n" + json.dumps(asdict(made)).encode() + b"\n")
    return Graph.restore(file, view=True)


def _is_itself(part: RawPart | TablePart) -> bool:
    """Whether rows are read from the file itself, and not from a copy, which is new each time."""
    try:
        return os.path.samestat(os.fstat(part.handle.fileno()), Path(part.file).stat())
    except OSError:
        return False


def _known(index: Index, file: Path, stamp: Stamp | None, step: Step) -> tuple[Any, int, Any]:
    """The graph in a file with its number of rows, if the index begins with these rows, else None
    and 0; and the hash of these rows."""
    from usearch.index import Index as Graph

    digest = hashlib.sha256()
    if stamp is not None and stamp.count <= index.count and stamp.width == index.width:
        for block in iter_blocks(index, stop=stamp.count):
            digest.update(block.vectors.data)
            step("rows compared with the graph", block.start + len(block.vectors), stamp.count)
        if digest.hexdigest() == stamp.sha256:
            with suppress(ValueError, RuntimeError):  # damaged: made again
                is_all = stamp.count == index.count
                return Graph.restore(file, view=is_all), stamp.count, digest
    return None, 0, hashlib.sha256()


def read_stamp(file: Path) -> Stamp | None:
    """The stamp of a graph; None if there is no graph, or one that is damaged or of another
    version."""
    with suppress(OSError, ValueError, TypeError, KeyError), open_regular(file) as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - MAX_STAMP))
        end = handle.read(MAX_STAMP)
        line = end.splitlines()[-1] if end.endswith(b"}\n") else b""
        fields = json.loads(line)
        stamp = Stamp(**{**fields, "seen": tuple(fields["seen"])})
        if stamp.version == VERSION and stamp.graph == size - len(line) - 2:
            return stamp
    return None


def files_written(files: Sequence[str]) -> list[Path]:
    """The graphs of the files of an index."""
    return [Path(beside(file, GRAPH)) for file in files if not is_remote(file)]
