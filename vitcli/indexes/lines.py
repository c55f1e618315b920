"""Vectors in lines of JSON: `{"path":…,"embedding":[…]}`, or `"error"` for an image that failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np

from vitcli.errors import InputError, printable
from vitcli.indexes.names import Kind, ListNames, name_in
from vitcli.indexes.parts import RawPart

NUMBERS = {int, float}


def read_vector_lines(
    file: str, handle: BinaryIO, meta: Mapping[str, Any]
) -> tuple[RawPart, ListNames]:
    """Copy the vectors into a temporary file, from which rows can be read in any order, and return
    them with their names. meta: says whether the numbers are those of fp16, and their width.
    Raises InputError for another kind of line."""
    copy: BinaryIO = TemporaryFile()  # noqa: SIM115  # closed with the part
    dtype = np.dtype(np.float16 if meta.get("array_dtype") == "float16" else np.float32)
    names: list[str] = []
    kind: Kind = "path"
    width = 0
    for number, line in enumerate(handle, start=1):
        try:
            record = json.loads(line)
            if record.get("embedding") is None and record.get("error") is not None:
                continue
            vector, (name, its) = record["embedding"], name_in(record)
            if not isinstance(vector, list) or (names and its != kind):
                raise ValueError
            is_tokens = bool(vector) and all(isinstance(one, list) for one in vector)
            if not is_tokens:
                if not NUMBERS.issuperset(map(type, vector)):
                    raise ValueError
                with np.errstate(over="ignore"):  # too large for fp32: found as not finite
                    values = np.array(vector, np.float64).astype(dtype)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise InputError(
                f"{printable(file)}, line {number}, has no vector of numbers with its path",
                "vit embed --format jsonl writes one a line",
            ) from None
        width = width or len(vector)
        if is_tokens or len(vector) != width or not width:
            what = "tokens" if is_tokens else f"{len(vector)} numbers, not {width}"
            raise InputError(
                f"{printable(file)}, line {number}, has {what}",
                "write vectors: vit embed without --pool patches or tokens",
            )
        kind = its
        names.append(name)
        copy.write(values.data)
    copy.flush()
    if not names:
        [width] = meta["row_shape"] if len(meta.get("row_shape", ())) == 1 else [0]
        if not width:
            raise InputError(f"{printable(file)} has no vectors", "did every image fail?")
    _check_count(file, meta, len(names))
    return RawPart(file, copy, 0, (len(names), width), dtype), ListNames(names, kind)


def _check_count(file: str, meta: Mapping[str, Any], count: int) -> None:
    """Raise InputError if the meta file counts other rows."""
    for unit in ("images", "texts"):
        if meta.get(unit, count) != count:
            raise InputError(
                f"{printable(file)} has {count:,} vectors, and its meta file counts {meta[unit]}",
                "write it again: vit embed --overwrite",
            )
