"""The files that a user names by paths, patterns and names with braces, and whether their shards
are complete."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TypeAlias

from vitcli import stores
from vitcli.errors import InputError, listed, printable
from vitcli.files import PARTIAL
from vitcli.images.braces import expanded
from vitcli.indexes.files import GRAPH, INDEX, META, begun, without_query
from vitcli.stores import check_readable, is_remote, is_web

MAX_NAMED = 5  # missing shards
_DIGITS = re.compile(r"(\d+)")
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})((?:\.[^/]*)?)", re.DOTALL)

Note: TypeAlias = Callable[[str], None]


def files_of(specs: Sequence[str], note: Note = lambda text: None) -> list[str]:
    """The files that paths, patterns and names with braces stand for, in natural order for each
    pattern; a file is never taken twice. note: is told of a shard that is named alone.

    Raises InputError for a name without a file, and for shards of which some are missing.
    """
    found: dict[str, str] = {}
    alone: set[str] = set()  # named in full, without a pattern
    for spec in specs:
        if "\0" in spec:
            raise InputError(f"{printable(spec)} names no file: it has a character NUL")
        for name in _expanded(spec):
            names = _matching(name)
            if not names:
                raise InputError(
                    f"no file matches {printable(name)}",
                    "vit embed writes such files: is the folder right, and the pattern quoted?",
                )
            for file in names:
                found.setdefault(file if is_remote(file) else os.path.realpath(file), file)
            if names == [spec]:
                alone.add(spec)
    files = list(found.values())
    check_shards(files, alone, note)
    return files


def _expanded(spec: str) -> Iterator[str]:
    """Expand braces, but not those in the name of a folder that exists."""
    folder, slash, name = spec.rpartition("/")
    if is_remote(spec) or os.path.lexists(spec) or not Path(folder).is_dir():
        return expanded(spec)
    return (folder + slash + one for one in expanded(name))


def _matching(name: str) -> list[str]:
    """The files that match a pattern, or else the name itself. Raises InputError."""
    if is_remote(name):
        check_readable(name, InputError)
        if "*" not in name:
            return [name]
        names = _matching_urls(name)
    elif set(name) & set("*?[") and not os.path.lexists(name):
        folder, slash, pattern = name.rpartition("/")
        if Path(folder).is_dir():  # a folder whose name looks like a pattern is that folder
            folder = glob.escape(folder)
        names = glob.glob(folder + slash + pattern)  # noqa: PTH207  # text
    else:
        return [name]
    return sorted(filter(_is_whole, names), key=natural)


def _matching_urls(pattern: str) -> list[str]:
    """The objects that match a pattern. Raises InputError if the store cannot list them."""
    try:
        listing = stores.listing(pattern)
        if listing is not None and listing.urls:
            return listing.urls
        if is_web(pattern):  # a server that does not answer has listed nothing
            stores.read_at_most(pattern[: pattern.index("*")].rpartition("/")[0] + "/", 0)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"cannot list {printable(pattern)}: {error}") from None
    return []


def _is_whole(name: str) -> bool:
    """Whether a file is an output, and not one that stands next to it or is not complete."""
    return not name.endswith((INDEX, META, GRAPH, PARTIAL, ".html"))


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts `part-9` before `part-10`."""
    parts = _DIGITS.split(name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]


def check_shards(files: Sequence[str], alone: AbstractSet[str], note: Note) -> None:
    """Raise InputError if shards are missing between files, or if files have the same images. A
    shard that is `alone` is read alone, which `note` is told."""
    sets: dict[tuple[str, str], dict[int, dict[int, str]]] = {}
    for file in files:
        path, query = without_query(file)
        if match := _SHARD.fullmatch(path):
            stem, number, count, suffix = match.groups()
            by_count = sets.setdefault((stem, suffix + query), {})
            by_count.setdefault(int(count), {})[int(number)] = file
    for (stem, suffix), by_count in sets.items():
        several = [next(iter(there.values())) for there in by_count.values()]
        several += [file for file in files if file == stem + suffix]
        if len(several) > 1:
            raise InputError(
                f"{printable(several[0])} and {printable(several[1])} have the same images",
                "name the whole file, or the shards of one run",
            )
        for count, there in by_count.items():
            missing = [
                f"{stem}-{number:05}-of-{count:05}{suffix}" for number in _missing(there, count)
            ]
            if not missing:
                continue
            if len(there) == 1 and alone >= set(there.values()):
                one = printable(*there.values())
                note(f"{one} is one of {count:,} shards, and the only one that is read")
                continue
            are = "is" if len(missing) == 1 else "are"
            raise InputError(
                f"{len(missing):,} of {count:,} shards {are} missing: "
                f"{listed([printable(name) for name in missing], MAX_NAMED)}",
                begun(missing[0]) or "name them all; a shard that is named alone is read alone",
            )


def _missing(there: Collection[int], count: int) -> list[int]:
    """The numbers of shards that are missing, from 1, or from 0 as other programs count."""
    first = 0 if 0 in there and count not in there else 1
    return [number for number in range(first, first + count) if number not in there]
