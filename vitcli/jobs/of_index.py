"""No run replaces a file of the index that it reads, or an image that the index names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from vitcli.errors import OutputError, printable
from vitcli.files import open_regular, real
from vitcli.indexes.files import GRAPH, INDEX, META, beside
from vitcli.indexes.index import Index
from vitcli.indexes.specs import files_of
from vitcli.jobs.apart import Read, check_apart, identity_of, written_of
from vitcli.jobs.named import archive_of
from vitcli.stores import is_remote

# How the tables and the pages of earlier runs begin; no image and no archive begins so.
_OWN = re.compile(
    rb'\{"(?:query|group|path|text)":|<!doctype html|(?:query,kind|group,path|path,x|text,x),'
    rb"|(?:query\tkind|group\tpath|path\tx|text\tx)\t",
    re.IGNORECASE,
)
HEAD = 64  # bytes


def read_of_index(index: Sequence[str] | Index) -> Iterator[Read]:
    """The files of this machine that an index is read from: arrays, names, metas. `index` is open,
    or as it is typed: with patterns, braces, shards. Raises InputError for a name without a
    file."""
    if isinstance(index, Index):
        files = index.files
    else:
        files = files_of([spec for spec in index if not is_remote(spec)])
    for file in files:
        if not is_remote(file):
            for name in (file, beside(file, INDEX), beside(file, META)):
                yield Path(name), "a file of the index"


def check_outputs(
    outputs: Iterable[Path | None],
    index: Sequence[str] | Index,
    opened: Index,
    read: Iterable[Read] = (),
) -> None:
    """Raise OutputError if an output would replace a file of the index, an image or an archive that
    the index names, or a file of `read`. `index` is what was asked for, `opened` the same, open."""
    places = [out for out in outputs if out is not None]
    of_index = list(read_of_index(index))
    graphs = [(Path(beside(str(file), GRAPH)), "the graph of the index") for file, _ in of_index]
    check_apart(written_of(places), [*of_index, *graphs, *read])
    if opened.names == "path":
        for place in dict.fromkeys((*places, *written_of(places))):
            if place.is_file():
                _check_image(place, opened)


def _check_image(place: Path, index: Index) -> None:
    """Raise OutputError if a file is an image of the index, under any name, or holds some."""
    found: str | None = next(
        (str(name) for name in (place, real(place)) if index.row_of(str(name)) is not None), None
    )
    if found is None and not _is_own(place):
        identity, archives = identity_of(place), set[str]()
        for name in index.iter_names():
            archive = archive_of(name)
            if is_remote(name) or archive in archives:
                continue
            if archive is not None:
                archives.add(archive)
            if identity_of(Path(archive or name)) == identity:
                found = archive or name
                break
    if found is not None:
        raise OutputError(
            f"{printable(found)} has images of the index, and would be overwritten"
            if archive_of(found) or index.row_of(found) is None
            else f"{printable(found)} is an image of the index, and would be overwritten",
            "write to another file",
        )


def _is_own(file: Path) -> bool:
    """Whether a file is a table or a page of an earlier run."""
    with suppress(OSError), open_regular(file) as handle:
        return _OWN.match(handle.read(HEAD)) is not None
    return False
