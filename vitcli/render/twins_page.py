"""Groups of twins into one HTML page: the kept image and its twins side by side.

The page is written group by group, as the page of a search is. It can list the paths that are not
kept; it changes no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vitcli.records import Size
from vitcli.render.document import base64_of, halves, ratio_of, script


class TwinsPage:
    """An HTML page that is written in order: `head`, a `group` for each group, `tail`."""

    def __init__(self, title: str, about: str = "") -> None:
        self._title, self._about = title, about

    def head(self, facts: Sequence[tuple[str, str]], chart: str = "") -> bytes:
        """Everything before the first group: facts as (name, value), and the SVG of the
        distribution of the scores."""
        return self._frame(facts, chart)[0]

    def group(
        self,
        rows: Sequence[Mapping[str, object]],
        thumbnails: Sequence[bytes],
        sizes: Sequence[Size | None],
        bytes_: Sequence[int | None],
    ) -> bytes:
        """The script elements of a group. `rows` are its records, the kept one first: {"group",
        "path", "kind", "score", "keep", "why", "of", "row"}. For each there is a JPEG thumbnail
        (empty if the image cannot be read), its size (height, width) and the bytes of its file,
        or None if they are not known."""
        members = [
            {**row, "size": size, "bytes": count, "ratio": ratio_of(small)}
            for row, size, count, small in zip(rows, sizes, bytes_, thumbnails, strict=True)
        ]
        data = {"thumbnails": [base64_of(one) for one in thumbnails]}
        return script("one", {"members": members}) + script("data", data)

    def tail(self) -> bytes:
        """Everything after the last group."""
        return self._frame((), "")[1]

    def _frame(self, facts: Sequence[tuple[str, str]], chart: str) -> tuple[bytes, bytes]:
        return halves("twins.html", title=self._title, about=self._about, facts=facts, chart=chart)
