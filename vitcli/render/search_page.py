"""The results of a search into one HTML page: a section for each query, a card for each result.

The page is written query by query: a head, two script elements of data for each query, and at the
end the script that reads them. The browser parses the thumbnails of a query when it comes near the
screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vitcli.render.document import base64_of, halves, ratio_of, script


class SearchPage:
    """An HTML page that is written in order: `head`, a `query` for each query, `tail`."""

    def __init__(self, title: str, about: str = "") -> None:
        self._title, self._about = title, about

    def head(self) -> bytes:
        """Everything before the first query."""
        return self._frame()[0]

    def query(
        self, record: Mapping[str, object], thumbnails: Sequence[bytes], own: bytes = b""
    ) -> bytes:
        """The script elements of a query: its record, {"query", "kind", "results"} or {"query",
        "kind", "error"}; and the JPEG thumbnails of its results, in their order, and its `own`.
        An empty thumbnail is one of an image that cannot be read."""
        data = {
            "thumbnails": [base64_of(one) for one in thumbnails],
            "ratios": [ratio_of(one) for one in thumbnails],
            "own": base64_of(own),
        }
        return script("one", record) + script("data", data)

    def tail(self) -> bytes:
        """Everything after the last query."""
        return self._frame()[1]

    def _frame(self) -> tuple[bytes, bytes]:
        return halves("search.html", title=self._title, about=self._about)
