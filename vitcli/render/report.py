"""The results of a training or an evaluation as one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitcli.render.confusion import MAX_NUMBERED, confusion_png
from vitcli.render.document import data_url, ratio_of, render

RIGHT, WRONG = "37,99,235", "220,38,38"  # red, green and blue of a cell
FULL = 0.93  # opacity from which white text is better to read than black


@dataclass(frozen=True, slots=True)
class Shot:
    """A wrong prediction: the image's path, what is true, what was predicted and how surely, and a
    thumbnail as JPEG; None if the image cannot be read any more."""

    path: str
    truth: str
    answer: str
    score: str
    jpeg: bytes | None

    def picture(self) -> str:
        """The thumbnail as a URL."""
        assert self.jpeg is not None
        return data_url("jpeg", self.jpeg)

    @property
    def ratio(self) -> float:
        """The width of the thumbnail by its height."""
        return ratio_of(self.jpeg or b"")


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Numbers of each class, ready for printing: the names of the columns, and rows that begin with
    the label."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = "Classes"


@dataclass(frozen=True, slots=True)
class Section:
    """The predictions of a model: the confusion of `labels` (true labels in rows), if an image has
    one; a table of the classes; and the worst mistakes."""

    title: str
    classes: ClassTable
    labels: Sequence[str] = ()
    counts: NDArray[np.int64] | None = None
    worst: Sequence[Shot] = ()
    worst_title: str = "Most confidently wrong"
    charts: Sequence[tuple[str, str]] = ()

    @property
    def is_large(self) -> bool:
        """Whether the confusion is shown as a picture, without numbers."""
        return len(self.labels) > MAX_NUMBERED

    def picture(self) -> str:
        """The picture of the confusion as a URL."""
        assert self.counts is not None
        return data_url("png", confusion_png(self.labels, self.counts, self.title))

    def rows(self) -> Iterator[tuple[str, list[tuple[str, int, str, bool]]]]:
        """Yield each true label with (predicted label, count, colour of the cell, whether it is
        nearly opaque) of its row."""
        assert self.counts is not None
        for number, (label, counts) in enumerate(
            zip(self.labels, self.counts.tolist(), strict=True)
        ):
            total = max(sum(counts), 1)
            colours = [WRONG] * len(counts)
            colours[number] = RIGHT
            shades = [0.1 + 0.9 * count / total if count else 0 for count in counts]
            backgrounds = [f"{c},{shade:.2f}" for c, shade in zip(colours, shades, strict=True)]
            full = [shade > FULL for shade in shades]
            yield label, list(zip(self.labels, counts, backgrounds, full, strict=True))


@dataclass(frozen=True, slots=True)
class ReportPage:
    """A report: facts as (name, value), charts as (caption, HTML), a section for each model, the
    slowest images as (time, path), and the failed images as (path, reason). `about` says the models
    below the title."""

    title: str
    about: str
    facts: Sequence[tuple[str, str]]
    charts: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = ()
    slowest: Sequence[tuple[str, str]] = ()
    failures: Sequence[tuple[str, str]] = ()


def html(page: ReportPage) -> str:
    """The page as one HTML file."""
    return render("report.html", title=page.title, about=page.about, page=page)
