"""The page of a search: the results of each query, with thumbnails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitcli.errors import UsageError
from vitcli.files import whole_file
from vitcli.indexes.index import Index
from vitcli.tasks.search.queries import Query

Record = Mapping[str, Any]
PageWriter = Callable[[Sequence[Record], Sequence[Query]], None]


@contextmanager
def open_page(html: Path | None, index: Index) -> Iterator[PageWriter]:
    """Open the page, and yield the function that adds the rows of queries to it. Without a page it
    does nothing. Raises UsageError for an index of texts."""
    if html is None:
        yield lambda records, queries: None
        return
    if index.names == "text":
        raise UsageError("--html shows images, and this index has texts", "leave out --html")
    from vitcli.render.search_page import SearchPage

    page = SearchPage(index.label)
    with whole_file(html) as file:
        file.write(page.head())

        def add(records: Sequence[Record], queries: Sequence[Query]) -> None:
            for record in records:
                thumbnails = [b"" for _ in record.get("results", ())]
                file.write(page.query(record, thumbnails))

        yield add
        file.write(page.tail())
