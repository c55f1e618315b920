"""Write the groups of twins: a row for each member, or the paths of those not kept."""

from __future__ import annotations

from collections.abc import Iterator

from vitcli.sinks.tables import Columns, Record, TableFile, open_table
from vitcli.tasks.dedupe.find import Found

COLUMNS = Columns(
    {
        "group": "int",
        "path": "path",
        "kind": "text",
        "score": "float",
        "keep": "bool",
        "why": "text",
        "of": "path",
        "row": "int",
    }
)


def write(found: Found, to: TableFile) -> None:
    """Write the rows, completely or not at all; paths are those that are not kept. Raises
    WriteError."""
    with open_table(to, COLUMNS) as put:
        put(_records(found, only_gone=to.format == "paths"))


def _records(found: Found, *, only_gone: bool) -> Iterator[Record]:
    for twin in found.twins:
        if not (only_gone and twin.keep):
            yield twin.record()
