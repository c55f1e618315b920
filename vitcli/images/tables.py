"""List the images of Parquet tables: a column of paths, or of image files as in hub datasets.

Row groups are read in order, as far as images are needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, BinaryIO

from vitcli import stores
from vitcli.errors import InputError, check_installed, in_bytes, printable
from vitcli.images.archives import MAX_IMAGE_BYTES, broken, too_large
from vitcli.images.members import CHANGED, StreamedMember, UnreadableMember, version_of
from vitcli.images.within import is_within
from vitcli.records import ErrorType, FoundImage, Version

if TYPE_CHECKING:  # an extra
    import pyarrow as pa
    import pyarrow.parquet as pq

TABLE = ".parquet"
MAX_BATCH_ROWS = 64  # read at once
MAX_BATCH_BYTES = 32 << 20  # read at once, by the average row of the row group
MAX_PATH_CHARS = 4096  # a longer text does not name a file
# A row group is refused if it unpacks to more than this size and this multiple of its packed size.
MAX_GROUP_BYTES, MAX_GROUP_RATIO = 256 << 20, 20
ABSOLUTE = "a table names an absolute path: --allow-outside opens it"
OUTSIDE = "outside the table's folder: --allow-outside opens it"
PATHS = ("path", "file", "file_name", "filename", "image_path", "image")


def is_table(path: str) -> bool:
    """Whether a path has a table's suffix, and is a file or a URL of a store."""
    is_remote = stores.is_remote(path)
    name = path.partition("?")[0] if is_remote else path
    return name.lower().endswith(TABLE) and (is_remote or os.path.isfile(path))


def iter_rows(
    table: str, max_bytes: int = MAX_IMAGE_BYTES, *, allow_outside: bool = False
) -> Iterator[FoundImage]:
    """List the images of a table in its order. The path of an image in the table is
    `train.parquet/a.jpg`, or `train.parquet/7` if row 7 has no path. A row with only a path is that
    file, relative to the table's folder; it must be below this folder, unless `allow_outside`.

    Raises InputError without pyarrow, and where no column has images.
    """
    what = f"{printable(table)}: Parquet"
    check_installed(what, "pyarrow", extra="parquet", error=InputError)
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with _opened(table) as opened, pq.ParquetFile(opened, pre_buffer=False) as file:
            version = _version(opened)
            column = _column(table, file.schema_arrow)
            for part in _parts(file, column):
                if _version(opened) != version:
                    yield broken(table, ErrorType.UNREADABLE, CHANGED, version)
                    return
                values = part.column(0) if isinstance(part, pa.RecordBatch) else part
                for value in values:
                    row = _Row(table, number, version, max_bytes, allow_outside)
                    yield row.found(value)
                    number += 1
    except FileNotFoundError as error:
        yield broken(table, ErrorType.NOT_FOUND, str(error))
    except InputError:
        raise
    except Exception as error:  # fsspec and pyarrow raise anything
        words = printable(stores.words_of(error))
        if "crypt" in words:
            yield broken(table, ErrorType.UNREADABLE, f"encrypted Parquet: {words}")
        elif stores.is_remote(table) and not isinstance(error, pa.ArrowException):
            yield broken(table, ErrorType.UNREADABLE, words)
        else:
            yield broken(table, ErrorType.DECODE_ERROR, f"damaged Parquet: {words}")


@contextmanager
def _opened(table: str) -> Iterator[BinaryIO]:
    """Open a table for pyarrow, which reads it by ranges."""
    is_remote = stores.is_remote(table)
    with stores.open_object(table) if is_remote else open(table, "rb") as file:
        yield file


def _version(file: BinaryIO) -> Version | None:
    """Return the version of a file; None for an object in a store, which has a stamp."""
    try:
        return version_of(os.fstat(file.fileno()))
    except OSError:
        return None


def count_rows(table: str) -> int:
    """Return the number of rows, from the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(table).num_rows)
    except (pa.ArrowException, OSError, KeyError):
        return 1  # the row of the table itself, with the reason


def _column(table: str, schema: pa.Schema) -> str:
    """Return the name of the first column of images, or else of the first column of paths."""
    import pyarrow as pa

    for field in schema:
        kind = _stored(field.type)
        place = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
        data = kind if place < 0 else _stored(kind.field(place).type)
        if _is_bytes(data) or (place >= 0 and pa.types.is_null(data)):
            return str(field.name)
    for name in PATHS:
        if any(_is_text(_stored(schema.field(n).type)) for n in schema.get_all_field_indices(name)):
            return name
    raise InputError(
        f"{printable(table)} has no column of images: {printable(', '.join(schema.names))}",
        f"expected bytes, or a struct of bytes and path, or paths called {', '.join(PATHS)}",
    )


def _stored(kind: pa.DataType) -> pa.DataType:
    """Return the type in which the values of an extension or a dictionary are stored."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _stored(kind.storage_type)
    return _stored(kind.value_type) if pa.types.is_dictionary(kind) else kind


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    kinds = pa.types
    is_plain = kinds.is_binary(kind) or kinds.is_large_binary(kind)
    return bool(is_plain or kinds.is_fixed_size_binary(kind) or kinds.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    kinds = pa.types
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _value(scalar: pa.Scalar | None) -> pa.Scalar | None:
    """Return the value that an extension or a dictionary stores; None if it is null."""
    import pyarrow as pa

    while isinstance(scalar, pa.ExtensionScalar | pa.DictionaryScalar) and scalar.is_valid:
        scalar = scalar.value
    return scalar if scalar is not None and scalar.is_valid else None


def _parts(file: pq.ParquetFile, column: str) -> Iterator[pa.RecordBatch | Iterator[str]]:
    """Read the rows of a column, only a few at once if they are large. For a row group that is
    refused, return the reason for each row.

    Arrow unpacks a page at once, and a page may be the whole row group. Images hardly compress, so
    a row group that unpacks to many times its size holds no images.
    """
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        chunks = [
            chunk
            for chunk in (group.column(place) for place in range(group.num_columns))
            if chunk.path_in_schema.split(".")[0] == column
        ]
        size = sum(chunk.total_uncompressed_size for chunk in chunks)
        packed = sum(chunk.total_compressed_size for chunk in chunks)
        if size > MAX_GROUP_BYTES and size > MAX_GROUP_RATIO * packed:
            why = f"its row group unpacks from {in_bytes(packed)} to {in_bytes(size)}"
            yield repeat(why, group.num_rows)
            continue
        rows = MAX_BATCH_BYTES * group.num_rows // max(1, size)
        yield from file.iter_batches(
            max(1, min(MAX_BATCH_ROWS, rows)), row_groups=[number], columns=[column]
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a table, and the limits for it."""

    table: str
    number: int
    version: Version | None
    max_bytes: int
    allow_outside: bool

    def found(self, value: pa.Scalar | str) -> FoundImage:
        """Return the image of a value; a string is the reason why the row is refused."""
        import pyarrow as pa

        if isinstance(value, str):
            return self._refused(f"{self.table}/{self.number}", ErrorType.TOO_LARGE, value)
        data, path = _value(value), None
        if isinstance(data, pa.StructScalar):
            fields = dict(data)
            data, path = _value(fields.get("bytes")), _value(fields.get("path"))
        elif data is not None and _is_text(data.type):
            data, path = None, data
        name = (path.as_py() or None) if path is not None and _is_text(path.type) else None
        content = None if data is None else data.as_buffer()
        if name and len(name) > MAX_PATH_CHARS:
            if content is None:
                why = f"a path of {len(name):,} characters"
                return self._refused(f"{self.table}/{self.number}", ErrorType.NOT_FOUND, why)
            name = None
        if content is None and name:
            return self._named(name)
        place = f"{self.table}/{name or self.number}"
        if content is None:
            return self._refused(place, ErrorType.NOT_FOUND, "the row is empty")
        if content.size > self.max_bytes:
            return self._refused(place, *too_large(content.size, self.max_bytes))
        data = content.to_pybytes()
        return FoundImage(place, StreamedMember(self.table, len(data), "", self.version, data))

    def _named(self, name: str) -> FoundImage:
        """Return the file at a path in the table, relative to the folder of the table."""
        if stores.is_remote(self.table):
            folder = self.table.partition("?")[0].rpartition("/")[0]
        else:
            folder = os.path.dirname(self.table)
        path = name if stores.is_remote(name) else os.path.join(folder, name)
        if not self.allow_outside:
            if os.path.isabs(name):
                return self._refused(path, ErrorType.UNREADABLE, ABSOLUTE)
            if "::" in name or not is_within(path, folder):  # fsspec chains URLs by ::
                return self._refused(path, ErrorType.UNREADABLE, OUTSIDE)
        return FoundImage(path)

    def _refused(self, path: str, type: ErrorType, why: str) -> FoundImage:
        return FoundImage(path, UnreadableMember(self.table, 0, "", self.version, type, why))
