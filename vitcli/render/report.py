"""What training or an evaluation has found into one HTML page that needs no other file."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitcli.errors import shortened
from vitcli.render.charts import NUMBERED, confusion_png
from vitcli.render.document import END, data_url, opening

LONGEST_NAME = 200  # bytes of a label that is shown


@dataclass(frozen=True, slots=True)
class Shot:
    """An image that was taken for something else: its path, what it is, what was answered and
    how surely, and its thumbnail (H, W, 3)."""

    path: str
    truth: str
    answer: str
    score: float
    pixels: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Section:
    """A model's answers: the confusion of `labels` (true in rows), a row for each class of label,
    precision, recall, F1, images; and the worst mistakes."""

    title: str
    labels: Sequence[str]
    counts: NDArray[np.int64]
    per_class: Sequence[tuple[str, float, float, float, int]]
    worst: Sequence[Shot] = ()
    charts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Facts, charts as (caption, SVG), sections of answers, the slowest images as (time, path), and
    images that failed."""

    title: str
    facts: Sequence[tuple[str, str]]
    charts: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = ()
    slowest: Sequence[tuple[str, str]] = ()
    failures: Sequence[tuple[str, str]] = ()


def html(page: Page) -> str:
    """The page."""
    text = opening(page.title, "report.css") + "".join(_body(page)) + "\n" + END
    return text.encode("utf-8", "replace").decode()


def _body(page: Page) -> Iterator[str]:
    yield f"<h1>{escape(page.title)}</h1><table>"
    for name, value in page.facts:
        yield f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
    yield "</table>"
    yield from _charts(page.charts)
    for section in page.sections:
        yield f"<h2>{escape(section.title)}</h2>"
        yield from _charts(section.charts)
        yield from _matrix(section)
        yield from _worst(section.worst)
        yield from _classes(section)
    yield from _pairs("Slowest to read", page.slowest)
    yield from _pairs(f"Images that could not be read: {len(page.failures):,}", page.failures[:100])


def _pairs(title: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    if rows:
        yield f"<h2>{escape(title)}</h2><table>"
        for left, right in rows:
            yield f"<tr><td>{escape(left)}</td><td>{escape(right)}</td></tr>"
        yield "</table>"


def _charts(charts: Sequence[tuple[str, str]]) -> Iterator[str]:
    shown = [(caption, svg) for caption, svg in charts if svg]
    if shown:
        yield '<div class="charts">'
        for caption, svg in shown:
            yield f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"
        yield "</div>"


def _matrix(section: Section) -> Iterator[str]:
    """A table, or a picture where the classes are many."""
    yield '<h2>Confusion</h2><p class="note">Rows are true, columns what was answered.</p>'
    if len(section.labels) > NUMBERED:
        png = data_url("png", confusion_png(section.labels, section.counts))
        yield f'<img class="wide" alt="confusion matrix" src="{png}">'
        return
    yield '<div class="scroll"><table class="matrix"><thead><tr><td></td>'
    names = [shortened(label, LONGEST_NAME) for label in section.labels]
    yield from (f"<th>{escape(name)}</th>" for name in names)
    yield "</tr></thead><tbody>"
    for line, (label, row) in enumerate(zip(names, section.counts.tolist(), strict=True)):
        yield f"<tr><th>{escape(label)}</th>"
        for column, (other, count) in enumerate(zip(names, row, strict=True)):
            share = count / max(sum(row), 1)
            colour = "37,99,235" if line == column else "220,38,38"
            shade = 0.1 + 0.9 * share if count else 0
            title = f"{label}, taken for {other}: {count}"
            yield (
                f'<td title="{escape(title)}" style="background:rgba({colour},{shade:.2f})">'
                f"{count or ''}</td>"
            )
        yield "</tr>"
    yield "</tbody></table></div>"


def _worst(shots: Sequence[Shot]) -> Iterator[str]:
    if not shots:
        return
    yield '<h2>Most confidently wrong</h2><div class="shots">'
    for shot in shots:
        yield "<figure>"
        if shot.pixels is not None:
            yield f'<img alt="" loading="lazy" src="{_jpeg(shot.pixels)}">'
        yield (
            f"<b>{escape(shortened(shot.answer, LONGEST_NAME))}</b> {shot.score:.1%}"
            f"<br>is {escape(shortened(shot.truth, LONGEST_NAME))}"
            f'<br><span class="note">{escape(shot.path)}</span></figure>'
        )
    yield "</div>"


def _classes(section: Section) -> Iterator[str]:
    yield "<h2>Classes</h2><div class='scroll'><table><thead><tr><th>class</th>"
    yield from (f'<th class="n">{n}</th>' for n in ("precision", "recall", "F1", "images"))
    yield "</tr></thead><tbody>"
    for label, precision, recall, f1, images in section.per_class:
        yield f"<tr><td>{escape(shortened(label, LONGEST_NAME))}</td>"
        yield from (f'<td class="n">{value:.1%}</td>' for value in (precision, recall, f1))
        yield f'<td class="n">{images:,}</td></tr>'
    yield "</tbody></table></div>"


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return data_url("jpeg", file.getvalue())
