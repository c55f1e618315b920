"""Records as a table in memory: of Arrow, with the columns of Parquet, or of pandas, with those of
CSV. Their numbers are not rounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import OutputError, check_installed, is_utf8
from vitcli.sinks.parquet import vectors_column
from vitcli.sinks.tables import Columns, Kind, Record, arrow_table, plain_value

if TYPE_CHECKING:  # optional dependencies
    import pandas as pd
    import pyarrow as pa

DTYPES: Mapping[Kind, str] = {"int": "Int64", "float": "float64", "bool": "boolean"}
EMBEDDING, ERROR = "embedding", "error"


def arrow_of(records: Iterable[Record], columns: Columns) -> pa.Table:
    """The records as a table of Arrow; items are a column of lists, errors one of structs. Raises
    OutputError without pyarrow."""
    _check_arrow()
    return arrow_table(records, columns, decimals=None)


def frame_of(records: Iterable[Record], columns: Columns) -> pd.DataFrame:
    """The records as a table of pandas, with a line for each item, as in CSV. Raises OutputError
    without pandas."""
    _check_pandas()
    lines = [line for record in records for line in _lines(record, columns)]
    kinds: dict[str, Kind] = dict(columns.fields)
    if columns.items is not None:
        kinds |= {"rank": "int", **columns.items[1]}
    return _frame(columns.header(), list(zip(*lines, strict=True)), kinds)


def _lines(record: Record, columns: Columns) -> Iterator[list[Any]]:
    """The values of the lines of a record: one for each item, and a single one without items."""
    own = [plain_value(record.get(name), kind, None) for name, kind in columns.fields.items()]
    last = [_error(record)] * columns.has_error
    if columns.items is None:
        yield [*own, *last]
        return
    name, fields = columns.items
    for rank, item in enumerate(record.get(name) or (), start=1):
        cells = [plain_value(item.get(field), kind, None) for field, kind in fields.items()]
        yield [*own, rank, *cells, *last]
    if not record.get(name):
        yield [*own, *[None] * (1 + len(fields)), *last]


def _error(record: Record) -> str | None:
    error = record.get(ERROR)
    return None if error is None else f"{error['type']}: {error['message']}"


def arrow_of_vectors(
    records: Sequence[Record], vectors: NDArray[np.floating], columns: Columns
) -> pa.Table:
    """The records with a column `embedding` of lists of fixed length, null next to an error: the
    vectors, in order, belong to the others.  (n, ...)"""
    _check_arrow()
    failed = np.array([record.get(ERROR) is not None for record in records], bool)
    values = np.zeros((len(records), *vectors.shape[1:]), vectors.dtype)
    values[~failed] = vectors
    table = arrow_table(records, columns, decimals=None)
    column = vectors_column(values, vectors.shape[1:], failed)
    return table.add_column(table.num_columns - columns.has_error, EMBEDDING, column)


def frame_of_vectors(
    records: Sequence[Record], vectors: NDArray[np.floating], columns: Columns
) -> pd.DataFrame:
    """The records with a column `embedding` of arrays, None next to an error."""
    frame, rest = frame_of(records, columns), iter(vectors)
    values = [next(rest) if record.get(ERROR) is None else None for record in records]
    frame.insert(len(frame.columns) - columns.has_error, EMBEDDING, _objects(values))
    return frame


def _frame(names: Sequence[str], values: Sequence[Any], kinds: Mapping[str, Kind]) -> pd.DataFrame:
    import pandas as pd

    made = {}
    for name, column in zip(names, values or [()] * len(names), strict=True):
        dtype = DTYPES.get(kinds.get(name, "text"))
        if dtype is not None:
            made[name] = pd.Series(list(column), dtype=dtype)
        elif all(text is None or is_utf8(text) for text in column):
            made[name] = pd.Series(list(column), dtype="str")
        else:  # a path with odd bytes, which the dtype of texts does not take
            made[name] = pd.Series(_objects(column), dtype=object)
    return pd.DataFrame(made)


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    """An array of objects, which NumPy would otherwise join into one of more axes."""
    made = np.empty(len(values), object)
    for place, value in enumerate(values):
        made[place] = value
    return made


def _check_arrow() -> None:
    check_installed("a table of Arrow", "pyarrow", extra="parquet", error=OutputError)


def _check_pandas() -> None:
    if find_spec("pandas") is None:
        raise OutputError("a table of pandas needs pandas: pip install pandas")
