"""The meta file next to an index: what its vectors were made with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitcli import stores
from vitcli.errors import InputError, printable
from vitcli.files import open_regular
from vitcli.indexes.files import META, beside
from vitcli.stores import is_remote

MAX_META = 16 << 20  # bytes
MAX_SHOWN = 60  # characters of a value in a message
AGAIN = "write the index again: vit embed --overwrite"

SPACE = {
    "sha256": "the weights",
    "kind": "what is embedded, images or texts",
    "layers": "--layer",
    "pool": "--pool",
    "norm": "--norm",
    "l2": "--l2",
    "preprocess": "the preprocessing",
    "patch_size": "--patch-size",
    "quantize": "--quantize",
    "merge_tokens": "--merge-tokens",
}
"""The fields of a meta file that decide which space a vector is in, and where each comes from."""


def read_meta(file: str) -> dict[str, Any]:
    """The meta next to an array; empty if there is none. Raises InputError for a damaged one."""
    name = beside(file, META)
    try:
        if is_remote(name):
            data = stores.read_at_most(name, MAX_META)
        else:
            with open_regular(Path(name)) as handle:
                size = os.fstat(handle.fileno()).st_size
                data = handle.read(min(size, MAX_META) + 1)
        meta = json.loads(data) if len(data) <= MAX_META else None
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"cannot read {printable(name)}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise InputError(f"{printable(name)} is not the meta of an index", AGAIN)
    for field, is_right in FIELDS.items():
        if field in meta and not is_right(meta[field]):
            raise InputError(
                f"{printable(name)} says {field}: {shown(meta[field])}, which vit embed does not "
                "write",
                AGAIN,
            )
    return meta


def shown(value: object) -> str:
    """A value of a meta file, for a message: as JSON, cut off."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = "a nested value"
    return printable(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + " …")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_size(value: object) -> bool:
    return _are_numbers(value) and isinstance(value, list) and min(value, default=0) >= 0


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int for one in value)


FIELDS: Mapping[str, Callable[[object], bool]] = {
    "model": _is_text,
    "revision": _is_text_or_none,
    "sha256": _is_text_or_none,
    "kind": _is_text_or_none,
    "layers": lambda value: _are_numbers(value) and bool(value),
    "pool": _is_text,
    "norm": _is_bool,
    "l2": _is_bool,
    "preprocess": _is_text,
    "patch_size": lambda value: _is_size(value) and len(value) == 2,  # type: ignore[arg-type]
    "quantize": _is_text_or_none,
    "merge_tokens": lambda value: type(value) is int and value >= 0,
    "engine": _is_text,
    "dtype": _is_text,
    "array_dtype": lambda value: value in ("float32", "float16"),
    "row_shape": _is_size,
    "shape": _is_size,
    "model_options": lambda value: isinstance(value, dict),
}
"""The fields that are read, each with a test of its value."""


def check_shape(file: str, meta: Mapping[str, Any], count: int, width: int) -> None:
    """Raise InputError if the meta file is of another array, by its number of rows or numbers."""
    for field, shape in (("shape", [count, width]), ("row_shape", [width])):
        if meta.get(field, shape) != shape:
            raise InputError(
                f"{printable(file)} has {count:,} rows of {width} numbers, and its meta file says "
                f"{field} {shown(meta[field])}",
                "they do not belong together: write both again with vit embed --overwrite",
            )
