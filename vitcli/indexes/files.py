"""The files of an index: their names, and how they are opened, here or in a store."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import BinaryIO

from vitcli import stores
from vitcli.errors import InputError, printable
from vitcli.files import PARTIAL, open_regular
from vitcli.stores import is_remote

INDEX, META = ".index.jsonl", ".meta.json"
GRAPH = ".usearch"  # of an approximate search
COPIED = 8 << 20  # bytes of an object that are copied at a time


def opened(file: str) -> BinaryIO:
    """Open a file, or a copy of an object in a store, which is deleted when it is closed. Raises
    InputError."""
    handle = open_if_there(file)
    if handle is None:
        hint = begun(file) or f"vit embed IMAGES -o {printable(file)} writes it"
        raise InputError(f"no such file: {printable(file)}", hint)
    return handle


def open_if_there(file: str) -> BinaryIO | None:
    """Like `opened`; None if there is no such file."""
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
        return None
    except OSError as error:
        if Path(file).is_dir():
            raise InputError(
                f"{printable(file)} is a folder, not an index",
                f"vit embed {printable(file)} -o feats.npy writes an index of its images",
            ) from None
        raise InputError(f"cannot read {printable(file)}: {error.strerror or error}") from None
    except ValueError as error:  # NUL in a name
        raise InputError(f"cannot read {printable(file)}: {error}") from None


def begun(file: str) -> str | None:
    """A hint for an index that is not complete."""
    if not is_remote(file) and os.path.lexists(file + PARTIAL):
        return "vit embed has not finished it: repeat that command with --resume"
    return None


def beside(file: str, suffix: str) -> str:
    """The file next to an array: `feats.meta.json` for `feats.npy`."""
    path, query = without_query(file)
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{PurePosixPath(name).stem}{suffix}{query}"


def suffix_of(file: str) -> str:
    """The suffix of a file or of a URL, which may end in a query: `.npy`."""
    return PurePosixPath(without_query(file)[0]).suffix.lower()


def without_query(file: str) -> tuple[str, str]:
    """A name, and the query of a URL with its `?`. In the name of a file here, `?` is a letter."""
    if not is_remote(file):
        return file, ""
    name, mark, query = file.partition("?")
    return name, mark + query
