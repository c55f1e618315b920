"""The rows of a call in a list, which are also a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, overload

from vitcli.records import Attended, Classified, Failure
from vitcli.sinks.frames import arrow_of, frame_of
from vitcli.sinks.tables import Columns, Record
from vitcli.sinks.text import error_field

if TYPE_CHECKING:  # optional dependencies
    import pandas as pd
    import pyarrow as pa

R = TypeVar("R")


class Rows(list[R]):
    """A list of rows, which are also a table, and the notes of their run.

    A slice has the same methods. Both tables raise OutputError, with the command that installs it,
    if their library is missing.
    """

    def __init__(
        self,
        rows: Iterable[R],
        columns: Columns,
        record_of: Callable[[R], Record],
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(rows)
        self._columns, self._record_of, self.notes = columns, record_of, notes

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> R: ...
    @overload
    def __getitem__(self, place: slice, /) -> Rows[R]: ...
    def __getitem__(self, place: SupportsIndex | slice, /) -> R | Rows[R]:
        found = super().__getitem__(place)
        if not isinstance(place, slice):
            return found  # type: ignore[return-value]
        return Rows(found, self._columns, self._record_of, self.notes)  # type: ignore[arg-type]

    def to_pandas(self) -> pd.DataFrame:
        """The columns of the command's CSV: a line for each item of a row, such as a label. For
        `attention`: the layer, the head and the grid of each map."""
        return frame_of(map(self._record_of, self), self._columns)

    def to_arrow(self) -> pa.Table:
        """The columns of the command's Parquet file: a row for each row, its items in a list."""
        return arrow_of(map(self._record_of, self), self._columns)


CLASSIFIED = Columns(
    {"path": "path"}, ("predictions", {"label": "text", "index": "int", "score": "float"}), True
)


ATTENDED = Columns(
    {"path": "path", "method": "text"},
    ("maps", {"layer": "text", "head": "text", "height": "int", "width": "int"}),
    True,
)


def record_of_maps(row: Attended | Failure) -> dict[str, Any]:
    """The record of a row of `attention`: an item for each head of each layer, with its grid."""
    if isinstance(row, Failure):
        return {"path": row.ref.path, "error": error_field(row)}
    items = []
    for maps in row.maps:
        height, width = maps.values.shape[1:]
        grid = {"height": height, "width": width}
        items += [{"layer": maps.layer, "head": head or None, **grid} for head in maps.heads]
    return {"path": row.ref.path, "method": row.method, "maps": items}


def record_of(row: Classified | Failure) -> dict[str, Any]:
    """The record of a row of `classify`."""
    if isinstance(row, Failure):
        return {"path": row.ref.path, "error": error_field(row)}
    items = [{"label": p.label, "index": p.index, "score": p.score} for p in row.predictions]
    return {"path": row.ref.path, "predictions": items}
