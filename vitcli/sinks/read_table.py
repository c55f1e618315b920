"""Read columns of a Parquet table."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from vitcli.errors import InputError, check_installed, printable


def read_columns(file: Path, names: Set[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, with those of the columns that it has.

    Raises InputError for a file that is not Parquet, and without pyarrow.
    """
    check_installed(
        f"{printable(str(file))}: Parquet", "pyarrow", extra="parquet", error=InputError
    )
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            columns = [name for name in table.schema_arrow.names if name in names]
            for batch in table.iter_batches(columns=columns):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"cannot read {printable(str(file))}: {error}", "is it a Parquet file?"
        ) from None
