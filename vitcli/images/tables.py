"""Parquet as a list of images: a column of paths, or of the images themselves as data sets on the
hub have them. Row groups are read one after the other, as far as images are wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, BinaryIO

from vitcli import stores
from vitcli.errors import InputError, printable
from vitcli.images.archives import CHANGED, Found, broken, version_of
from vitcli.records import ErrorType, Member, Version

if TYPE_CHECKING:  # an extra
    import pyarrow as pa

TABLE = ".parquet"
AT_A_TIME = 64  # rows
PATHS = ("path", "file", "file_name", "filename", "image_path", "image")


def is_table(path: str) -> bool:
    """Whether a file is to be read as one, by its name."""
    is_remote = stores.is_remote(path)
    name = path.partition("?")[0] if is_remote else path
    return name.lower().endswith(TABLE) and (is_remote or os.path.isfile(path))


def iter_rows(table: str) -> Iterator[Found]:
    """The images of a table in its order, as `train.parquet/a.jpg`, or by the numbers of their
    rows where they have no path. A row with a path alone is that file.

    Raises InputError without pyarrow, and where no column has images.
    """
    if find_spec("pyarrow") is None:
        raise InputError(
            f"{printable(table)}: Parquet needs pyarrow", "pip install 'vitcli[parquet]'"
        )
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with _opened(table) as opened, pq.ParquetFile(opened, pre_buffer=False) as file:
            version = _version(opened)
            column = _column(table, file.schema_arrow)
            for batch in file.iter_batches(AT_A_TIME, columns=[column]):
                if _version(opened) != version:
                    yield broken(table, ErrorType.UNREADABLE, CHANGED, version)
                    return
                for value in batch.column(0).to_pylist():
                    yield _found(table, number, value, version)
                    number += 1
    except FileNotFoundError as error:
        yield broken(table, ErrorType.NOT_FOUND, str(error))
    except (pa.ArrowException, OSError) as error:
        words = printable(" ".join(str(error).split()))
        if stores.is_remote(table) and not isinstance(error, pa.ArrowException):
            yield broken(table, ErrorType.UNREADABLE, words)
        else:
            yield broken(table, ErrorType.DECODE_ERROR, f"damaged Parquet: {words}")


@contextmanager
def _opened(table: str) -> Iterator[BinaryIO]:
    """What pyarrow is to read: of an object in a store, ranges."""
    is_remote = stores.is_remote(table)
    with stores.open_object(table) if is_remote else open(table, "rb") as file:
        yield file


def _version(file: BinaryIO) -> Version | None:
    """That of a file; objects have their stamps."""
    try:
        return version_of(os.fstat(file.fileno()))
    except OSError:
        return None


def count_rows(table: str) -> int:
    """How many images there are, without a look at them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(table).num_rows)
    except (pa.ArrowException, OSError):
        return 1  # the row that says so


def _column(table: str, schema: pa.Schema) -> str:
    """The first one of images, else the first one that is called as paths are."""
    import pyarrow as pa

    for field in schema:
        kind = field.type
        has_bytes = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if has_bytes or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(field.name)
    for name in PATHS:
        place = schema.get_field_index(name)
        kind = None if place < 0 else schema.field(place).type
        if kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return name
    raise InputError(
        f"{printable(table)} has no column of images: {printable(', '.join(schema.names))}",
        f"expected bytes, or a struct of bytes and path, or paths called {', '.join(PATHS)}",
    )


def _found(table: str, number: int, value: object, version: Version | None) -> Found:
    data, path = value, None
    if isinstance(value, dict):
        data, path = value["bytes"], value.get("path")
    elif isinstance(value, str):
        data, path = None, value
    if data is None and path:
        return path, None
    name = f"{table}/{path or number}"
    if not isinstance(data, bytes):
        fault = ErrorType.NOT_FOUND, "the row is empty"
        return name, Member(table, 0, 0, fault=fault, version=version)
    return name, Member(table, 0, len(data), data=data, version=version)
