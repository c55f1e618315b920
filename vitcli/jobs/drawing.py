"""Results drawn over images and encoded as files, by worker processes.

A worker reads the image again, at its original size: the model's input is too small, and a batch of
original images takes too much memory. It returns the bytes of the files. It imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import UsageError, listed, printable
from vitcli.images.decode import Picture, attempt, upright
from vitcli.images.job import Decoded
from vitcli.images.workers import WorkerPool
from vitcli.jobs.job import Inputs
from vitcli.records import (
    Attended,
    Classified,
    Failure,
    ImageRef,
    Limits,
    Maps,
    Preprocess,
    Sample,
    Size,
)
from vitcli.render.heat import FileFormat, encoded, fitted
from vitcli.render.styles import CELL, THUMBNAIL, Style, draw, preview, thumbnail
from vitcli.runs.shard import Resuming

Drawn = TypeVar("Drawn", Classified, Attended)
MAX_NAMES = 3  # inputs in the heading of a page


def check_page(html: Path | None, resuming: Resuming) -> None:
    """Raise UsageError for the page of a shard, since pages cannot be merged."""
    if html is not None and resuming.shard is not None:
        raise UsageError("a page is made of all images", "leave out --shard or --html")


def data_name(inputs: Inputs) -> str:
    """The inputs of a run in the heading of a page."""
    paths = [*inputs.paths, *([inputs.files_from] if inputs.files_from else [])]
    names = ["standard input" if p == "-" else printable(p.rstrip("/") or p) for p in paths]
    return listed(names or ["standard input"], MAX_NAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to draw one image: its maps, the texts below them, and the size (height, width) of
    the preview, if there is one."""

    maps: tuple[Maps, ...] = ()
    caption: str = ""
    note: str = ""
    preview: Size | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A job that draws maps in a style, a thumbnail, or both."""

    plan: Preprocess
    limits: Limits
    formats: str = "common"
    style: Style | None = None
    file_format: FileFormat = "png"
    has_thumbnail: bool = False
    imports_torch: ClassVar[bool] = False

    def __call__(self, ref: ImageRef, *more: Any) -> Decoded:
        """Return arrays: the bytes of each drawing, those of the thumbnail, and the pixels of the
        preview; the last two may be empty."""
        request: Request = more[0]

        def drawn(image: Picture) -> Sample:
            full = image.width, image.height
            photo = upright(image, self.plan, self._at_least(full, request))
            pictures = []
            if self.style is not None and request.maps:
                made = draw(photo, request.maps, self.style, request.caption, request.note)
                pictures = [encoded(picture, self.file_format) for picture in made]
            small = encoded(thumbnail(photo), "jpg") if self.has_thumbnail else b""
            files = [np.frombuffer(data, np.uint8) for data in (*pictures, small)]
            shown = np.zeros((0, 0, 3), np.uint8)
            if request.preview:
                style = self.style or Style()
                shown = np.asarray(preview(photo, request.maps[0], style, request.preview))
            return Sample(ref, (*files, shown), (photo.height, photo.width))

        return attempt(ref, self.limits, self.formats, drawn)

    def _at_least(self, full: tuple[int, int], request: Request) -> Size | None:
        """Return the size at which the image is needed; None for its own size."""
        sizes = [THUMBNAIL] * self.has_thumbnail + [max(request.preview or (0,))]
        if self.style is not None and request.maps:
            size = self.style.size or (CELL if self.style.name == "grid" else None)
            if size is None:
                return None
            sizes.append(size)
        return fitted(full, min(max(sizes) or 1, max(full)))


def draw_rows(
    pool: WorkerPool,
    rows: Sequence[Drawn | Failure],
    request: Callable[[int, Drawn], Request],
    then: Callable[[Drawn, Sequence[NDArray[np.uint8]]], Drawn],
) -> list[Drawn | Failure]:
    """Draw the rows of a batch that have not failed, several at a time. `request` gets the number
    of such a row and the row; `then` gets the row and the arrays that its `Drawing` returns."""
    good = [row for row in rows if not isinstance(row, Failure)]

    def done(number: int, answer: Decoded) -> Drawn | Failure:
        return answer if isinstance(answer, Failure) else then(good[number], answer.pixels)

    tasks = [(row.ref, request(number, row)) for number, row in enumerate(good)]
    drawn = iter(pool.each(tasks, done))
    return [row if isinstance(row, Failure) else next(drawn) for row in rows]
