"""Rows into one HTML page to browse: thumbnails, labels, maps.

The page grows with the rows: a head, two script elements of data for each row, and at the end the
script that reads them. A map of 14x14 patches takes 261 characters. The browser colours it and
draws it on the thumbnail, so that users can choose layer, head and colours there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from vitcli.records import Maps
from vitcli.render.document import base64_of, halves, inert, ratio_of, script
from vitcli.render.heat import levels_of, tables
from vitcli.render.styles import Style


class Page:
    """An HTML page that is written in order: `head`, a `row` for each image, `tail`."""

    def __init__(
        self, title: str, style: Style = Style(), *, about: str = "", has_bars: bool = True
    ) -> None:
        """With `has_bars`, scores are between 0 and 1, and a bar shows each. `title` and `about`,
        the line below it, stand at the end of the page: they may change when a run is resumed."""
        self._title, self._about = title, about
        self._style = style
        self._has_bars = has_bars

    def head(self) -> bytes:
        """Everything before the first row."""
        return self._frame()[0]

    def tail(self) -> bytes:
        """Everything after the last row."""
        return self._frame()[1]

    def _frame(self) -> tuple[bytes, bytes]:
        settings = {
            "colours": {name: base64_of(colours) for name, colours in tables().items()},
            "colourmap": self._style.colours,
            "alpha": self._style.alpha,
            "bars": self._has_bars,
            "title": self._title,
            "about": self._about,
        }
        return halves("page.html", title="vit", settings=inert(settings).decode())

    def row(
        self, record: Mapping[str, object], thumbnail: bytes, layers: Sequence[Maps] = ()
    ) -> bytes:
        """The script elements of a row: its JSON record, and its thumbnail and maps, which the
        page parses only when it shows them."""
        data: dict[str, object] = {"thumbnail": base64_of(thumbnail)}
        if layers:
            data["layers"] = [_layer(maps) for maps in layers]
        return script("row", record, ratio_of(thumbnail)) + script("data", data)

    def record_in(self, row: bytes) -> dict[str, object]:
        """The JSON record of a row that `row` returned."""
        record: dict[str, object] = json.loads(row[row.index(b">") + 1 : row.index(b"</script>")])
        return record


def _layer(maps: Maps) -> dict[str, object]:
    levels = b"".join(levels_of(values).tobytes() for values in maps.values)
    return {
        "layer": maps.layer,
        "heads": maps.heads,
        "grid": maps.values.shape[1:],
        "box": [round(side, 5) for side in maps.box],
        "maps": base64_of(levels),
    }
