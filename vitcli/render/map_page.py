"""A map of images as one HTML page: dots to zoom, to hover and to choose.

The page holds numbers as base64 of little-endian arrays. A path is stored as the length that it
shares with the path before, and the rest. Each thumbnail is an element of its own, which the
browser decodes when it shows it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
from numpy.typing import NDArray

from vitcli.render.document import base64_of, render

DATA = "<data>\n"  # where the data go in the template; `<` in a value is escaped
AT_ONCE = 4096  # paths between two writes
TYPES = (np.int16, np.int32)


@dataclass(frozen=True, slots=True)
class Labels:
    """codes: (N,), the number of each image's label in `names`, or -1 for none. `what` says what
    the labels are."""

    codes: NDArray[np.int64]
    names: tuple[str, ...]
    what: str = "label"


@dataclass(frozen=True, slots=True)
class MapData:
    """The content of a page.

    x, y: (N,). clusters: (N,), from 0, or None; distances: (N,) with them. paths: N of them, in
    order, with surrogates for bytes that are not UTF-8. thumbnails: JPEG files by row. facts: pairs
    of texts on how the map was made. `about` says the model below the title.
    """

    title: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    clusters: NDArray[np.int64] | None
    distances: NDArray[np.float64] | None
    paths: Iterable[str]
    labels: Labels | None = None
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)
    facts: Sequence[tuple[str, str]] = ()
    unit: str = "image"
    about: str = ""


def write_map(file: IO[bytes], data: MapData) -> None:
    """Write the page. Memory does not grow with the paths and the thumbnails."""
    settings = {
        "count": len(data.x),
        "labels": list(data.labels.names) if data.labels else None,
        "what": data.labels.what if data.labels else None,
        "unit": data.unit,
    }
    text = render(
        "map.html",
        title=data.title,
        about=data.about,
        settings=_inert(settings),
        facts=list(data.facts),
    )
    before, _, after = text.partition(DATA)
    file.write(before.encode())
    arrays: dict[str, NDArray[np.generic]] = {
        "x": _single(data.x),
        "y": _single(data.y),
    }
    if data.clusters is not None and data.distances is not None:
        arrays["cluster"] = _packed(data.clusters)
        arrays["distance"] = _single(data.distances)
    if data.labels is not None:
        arrays["label"] = _packed(data.labels.codes)
    for name, array in arrays.items():
        head = f'<script class="array" id="{name}" type="{array.dtype.name}">'
        file.write(head.encode() + base64_of(array.tobytes()).encode() + b"</script>\n")
    file.write(b'<script id="paths" type="text/plain">')
    lines: list[str] = []
    for line in shared_lines(data.paths):
        lines.append(line)
        if len(lines) == AT_ONCE:
            file.write("".join(lines).encode())
            lines.clear()
    file.write("".join(lines).encode() + b"</script>\n")
    for row, thumbnail in data.thumbnails.items():
        head = f'<script class="thumbnail" id="t{row}" type="image/jpeg">'
        file.write(head.encode() + base64_of(thumbnail).encode() + b"</script>\n")
    file.write(after.encode())


def shared_lines(paths: Iterable[str]) -> Iterator[str]:
    """A line for each path: the number of UTF-16 units that it shares with the path before, a
    space, and the rest, escaped as in JSON."""
    before = ""
    for path in paths:
        name = os.fsencode(path).decode("utf-8", "replace")
        most = min(len(before), len(name))
        differs = (i for i in range(most) if before[i] != name[i])
        shared = next(differs, most)
        units = len(name[:shared].encode("utf-16-le")) // 2
        yield f"{units} {_inert(name[shared:])[1:-1]}\n"
        before = name


def _single(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """The numbers in fp32; the largest of fp32 stands for those beyond it."""
    most = float(np.finfo(np.float32).max)
    return numbers.clip(-most, most).astype("<f4")


def _packed(numbers: NDArray[np.int64]) -> NDArray[np.generic]:
    """The numbers in the smallest type that holds them all."""
    largest = int(numbers.max(initial=0))
    kind = next(kind for kind in TYPES if largest <= np.iinfo(kind).max)
    return numbers.astype(np.dtype(kind).newbyteorder("<"))


def _inert(value: object) -> str:
    """JSON without `<`, so that it cannot end the script element that holds it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.encode("utf-8", "replace").decode()
    return text.replace("<", "\\u003c").replace("\r", "\\r").replace("\0", "\\u0000")
