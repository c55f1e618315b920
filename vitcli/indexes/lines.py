"""Vectors in lines of JSON: `{"path":…,"embedding":[…]}`, or `"error"` for an image that failed."""

from __future__ import annotations

import json
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np

from vitcli.errors import InputError, printable
from vitcli.indexes.names import Kind, ListNames, name_in
from vitcli.indexes.parts import RawPart


def read_vector_lines(
    file: str, handle: BinaryIO, dtype: str = "float32"
) -> tuple[RawPart, ListNames]:
    """Copy the vectors into a temporary file, from which rows can be read in any order, and return
    them with their names. `dtype` is that of the numbers in `vit embed`: float32 or float16.
    Raises InputError for another kind of line."""
    copy: BinaryIO = TemporaryFile()  # noqa: SIM115  # closed with the part
    names: list[str] = []
    kind: Kind = "path"
    width = 0
    for number, line in enumerate(handle, start=1):
        try:
            record = json.loads(line)
            if "error" in record:
                continue
            vector = np.array(record["embedding"], np.dtype(dtype))
            name, kind = name_in(record)
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{printable(file)}, line {number}, has no vector of numbers",
                "vit embed --format jsonl writes one a line",
            ) from None
        width = width or vector.size
        if vector.shape != (width,) or not width:
            what = "tokens" if vector.ndim > 1 else f"{vector.size} numbers, not {width}"
            raise InputError(
                f"{printable(file)}, line {number}, has {what}",
                "write vectors: vit embed without --pool patches or tokens",
            )
        names.append(name)
        copy.write(vector.data)
    copy.flush()
    if not names:
        raise InputError(f"{printable(file)} has no vectors", "did every image fail?")
    return RawPart(file, copy, 0, (len(names), width), np.dtype(dtype)), ListNames(names, kind)
