"""Which files an index is made of: paths, patterns, shards, objects in stores."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from vitcli import stores
from vitcli.errors import InputError, printable
from vitcli.files import PARTIAL, open_regular
from vitcli.images.braces import expanded
from vitcli.stores import check_readable, is_remote

INDEX, META = ".index.jsonl", ".meta.json"
GRAPH = ".usearch"  # of an approximate search
COPIED = 8 << 20  # bytes of an object that are copied at a time
MAX_META = 16 << 20
_DIGITS = re.compile(r"(\d+)")


def files_of(specs: Sequence[str]) -> list[str]:
    """The files that paths, patterns and names with braces stand for, in natural order for each
    pattern; a file is never taken twice. Raises InputError for one that names no file."""
    found: dict[str, None] = {}
    for spec in specs:
        for name in expanded(spec):
            names = list(_matching(name))
            if not names:
                raise InputError(f"no file matches {printable(name)}", "is it right?")
            found.update(dict.fromkeys(names))
    return list(found)


def _matching(name: str) -> Iterator[str]:
    if is_remote(name):
        check_readable(name, InputError)
        listing = stores.listing(name) if "*" in name else None
        urls = [name] if listing is None else filter(_is_whole, listing.urls)
        yield from sorted(urls, key=natural)
    elif set(name) & set("*?[") and not Path(name).exists():
        yield from sorted(filter(_is_whole, glob.glob(name)), key=natural)  # noqa: PTH207  # text
    else:
        yield name


def _is_whole(name: str) -> bool:
    """Whether a file is an output, and not one that stands next to it or is not complete."""
    return not name.endswith((INDEX, META, GRAPH, PARTIAL, ".html"))


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts `part-9` before `part-10`."""
    parts = _DIGITS.split(name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def opened(file: str) -> BinaryIO:
    """Open a file, or a copy of an object in a store, which is deleted when it is closed. Raises
    InputError."""
    try:
        if not is_remote(file):
            return open_regular(Path(file))
        copy: BinaryIO = TemporaryFile()  # noqa: SIM115  # closed with the index
        with stores.open_object(file) as remote:
            while data := remote.read(COPIED):
                copy.write(data)
        copy.seek(0)
        return copy
    except FileNotFoundError:
        raise InputError(f"no such file: {printable(file)}", _begun(file)) from None
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"cannot read {printable(file)}: {why}") from None


def _begun(file: str) -> str | None:
    """A hint for an index that is not complete."""
    if not is_remote(file) and Path(file + PARTIAL).exists():
        return "vit embed has not finished it: repeat that command with --resume"
    return None


def beside(file: str, suffix: str) -> str:
    """The file next to an array: `feats.meta.json` for `feats.npy`."""
    query = ""
    if is_remote(file):
        file, mark, rest = file.partition("?")
        query = mark + rest
    folder, slash, name = file.rpartition("/")
    return f"{folder}{slash}{PurePosixPath(name).stem}{suffix}{query}"


def read_meta(file: str) -> dict[str, Any]:
    """The meta next to an array; empty if there is none. Raises InputError for a damaged one."""
    name = beside(file, META)
    try:
        if is_remote(name):
            data = stores.read_at_most(name, MAX_META)
        else:
            with open_regular(Path(name)) as handle:
                data = handle.read(MAX_META + 1)
        meta = json.loads(data)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"cannot read {printable(name)}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict) or len(data) > MAX_META:
        raise InputError(f"{printable(name)} is not the meta of an index")
    return meta
