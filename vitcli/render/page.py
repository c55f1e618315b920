"""Rows into one page to look through, which needs no network: thumbnails, labels, maps.

The page grows with the rows: a head, two script elements of data for each row, and at the end the
script that reads them. Maps are in it as bytes, a map of 14x14 patches in 261 characters, and are
coloured and laid on the thumbnail by the browser, so that layer, head and colours can be chosen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

from vitcli.records import Maps
from vitcli.render.document import END, asset, encoded, opening
from vitcli.render.heat import levels_of, tables
from vitcli.render.styles import Style

ROW = b'<script class="row" type="application/json">'
DATA = b'<script class="data" type="application/json">'
ROW_END = b"</script>\n"


class Page:
    """Written in order: `head`, a `row` for each image, `tail`."""

    def __init__(self, title: str, style: Style = Style()) -> None:
        self._title = title
        self._style = style

    def head(self) -> bytes:
        """Everything before the first row."""
        settings = {
            "colours": {name: encoded(colours) for name, colours in tables().items()},
            "colourmap": self._style.colours,
            "alpha": self._style.alpha,
        }
        body = asset("page.html").replace("{title}", escape(self._title))
        body = body.replace("{settings}", _inert(settings))
        text = opening(self._title, "page.css", has_scripts=True) + body
        return text.encode("utf-8", "replace")

    def row(
        self, record: Mapping[str, object], thumbnail: bytes, layers: Sequence[Maps] = ()
    ) -> bytes:
        """What JSON says of a row; and what is looked at, to be read when it is wanted."""
        data: dict[str, object] = {"thumbnail": encoded(thumbnail)}
        if layers:
            data["layers"] = [_layer(maps) for maps in layers]
        parts = ROW, _inert(record).encode("utf-8", "replace"), ROW_END, DATA, _inert(data).encode()
        return b"".join((*parts, ROW_END))

    def record_in(self, row: bytes) -> dict[str, object]:
        """What stands in a row of a page."""
        found: dict[str, object] = json.loads(row[len(ROW) : row.index(ROW_END)])
        return found

    def tail(self) -> bytes:
        """Everything behind the last row."""
        return f"<script>\n{asset('page.js')}</script>\n{END}".encode()


def _layer(maps: Maps) -> dict[str, object]:
    levels = b"".join(levels_of(values).tobytes() for values in maps.values)
    return {
        "layer": maps.layer,
        "heads": maps.heads,
        "grid": maps.values.shape[1:],
        "box": [round(side, 5) for side in maps.box],
        "maps": encoded(levels),
    }


def _inert(value: object) -> str:
    """JSON that no HTML parser takes for more than text."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
