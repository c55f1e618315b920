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
SIDE = 256  # pixels of the longer side of a thumbnail
PageWriter = Callable[[Sequence[Record], Sequence[Query]], None]


@contextmanager
def open_page(
    html: Path | None, index: Index, workers: int | None, note: Callable[[str], None]
) -> Iterator[PageWriter]:
    """Open the page, and yield the function that adds the rows of queries to it. Without a page it
    does nothing. Raises UsageError for an index of texts."""
    if html is None:
        yield lambda records, queries: None
        return
    if index.names == "text":
        raise UsageError("--html shows images, and this index has texts", "leave out --html")
    from vitcli.jobs.thumbnails import thumbnails_of  # here: these import Pillow
    from vitcli.render.search_page import SearchPage

    page = SearchPage(f"Search in {index.label}", index.maker)
    missing: set[str] = set()
    with whole_file(html) as file:
        file.write(page.head())

        def add(records: Sequence[Record], queries: Sequence[Query]) -> None:
            paths = [item["path"] for record in records for item in record.get("results", ())]
            own = [query.name for query in queries if query.kind in ("image", "like")]
            shown = list(dict.fromkeys((*paths, *own)))
            made = thumbnails_of(enumerate(shown), SIDE, workers)
            jpegs = {shown[n]: one for n, one in made.items() if isinstance(one, bytes)}
            for record, query in zip(records, queries, strict=True):
                thumbnails = [jpegs.get(item["path"], b"") for item in record.get("results", ())]
                is_image = query.kind in ("image", "like")
                file.write(
                    page.query(record, thumbnails, jpegs.get(query.name, b"") if is_image else b"")
                )
            missing.update(path for path in shown if path not in jpegs)

        yield add
        file.write(page.tail())
    if missing:
        note(f"{len(missing):,} images have no thumbnail on the page: they are not where they were")
