"""Open one file of vectors, by its suffix."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vitcli.errors import InputError, printable, shortened
from vitcli.files import open_regular
from vitcli.indexes.arrays import AGAIN, BAD_ZIP, read_npy, read_npz, read_safetensors
from vitcli.indexes.files import INDEX, META, beside, suffix_of, without_query
from vitcli.indexes.lines import read_vector_lines
from vitcli.indexes.names import MAX_FIRST, Names, names_in_npz
from vitcli.indexes.parts import Part
from vitcli.indexes.tables import has_vectors, read_parquet
from vitcli.stores import is_remote

MAX_WHY = 200  # bytes of another library's message

READERS: dict[str, Callable[[str, BinaryIO], Part]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".parquet": read_parquet,
    ".jsonl": lambda file, handle: read_vector_lines(file, handle, {})[0],
}


def read_part(file: str, handle: BinaryIO) -> Part:
    """Open the matrix in a file, by its suffix. Raises InputError for another kind of file, for a
    damaged one, and for tokens instead of vectors."""
    suffix = suffix_of(file)
    if without_query(file)[0].endswith((INDEX, META)):
        raise InputError(
            f"{printable(file)} stands next to an index, and has no vectors",
            "name the index: feats.npy",
        )
    if suffix not in READERS:
        raise InputError(
            f"{printable(file)} is not a file of vectors",
            f"vit embed writes {', '.join(READERS)}",
        )
    try:
        return READERS[suffix](file, handle)
    except (ValueError, OSError, *BAD_ZIP) as error:
        raise _damaged(file, error) from None


def is_index(file: str) -> bool:
    """Whether an input is a file of vectors. A table is one if it has a meta file, or vectors."""
    suffix = suffix_of(file)
    if suffix in (".npy", ".npz", ".safetensors"):
        return is_remote(file) or not Path(file).is_dir()
    if is_remote(file) or suffix not in (".parquet", ".jsonl"):
        return False
    if os.path.lexists(beside(file, META)):
        return True
    try:
        if suffix == ".parquet":
            return has_vectors(file)
        with open_regular(Path(file)) as handle:
            return b'"embedding":' in handle.read(MAX_FIRST).replace(b" ", b"")
    except (OSError, ValueError):  # ValueError: NUL in a name
        return False


def names_inside(file: str, handle: BinaryIO) -> Names | None:
    """The names in an `.npz` file; None for another kind of file. Raises InputError."""
    if suffix_of(file) != ".npz":
        return None
    try:
        return names_in_npz(file, handle)
    except (ValueError, OSError, *BAD_ZIP) as error:
        raise _damaged(file, error) from None


def _damaged(file: str, error: Exception) -> InputError:
    why = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"cannot read {printable(file)}: {printable(shortened(why, MAX_WHY))}", AGAIN)
