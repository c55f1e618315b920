"""Write the page of twins: the members of each group side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitcli.files import whole_file
from vitcli.indexes.index import Index
from vitcli.interrupts import interrupts
from vitcli.jobs.drawing import Drawing, Request
from vitcli.jobs.job import Reporter
from vitcli.jobs.named import iter_named
from vitcli.records import Sample, Size
from vitcli.render.charts import histogram_chart
from vitcli.render.twins_page import TwinsPage
from vitcli.tasks.dedupe.appearance import PLAN
from vitcli.tasks.dedupe.distribution import Bin
from vitcli.tasks.dedupe.files import Files
from vitcli.tasks.dedupe.find import Found
from vitcli.tasks.dedupe.twin import Twin

MAX_IMAGES = 20_000  # thumbnails of a page; later groups have none


def write_page(found: Found, index: Index, html: Path, reporter: Reporter) -> None:
    """Write the page, completely or not at all. Raises WriteError."""
    page = TwinsPage(f"Twins in {index.label}", index.maker)
    total, done = len(found.twins), 0
    value = found.threshold.value if found.threshold else 0.0
    with whole_file(html) as file:
        file.write(page.head(_facts(found, index), _chart(found.bins, value)))
        for group in found.groups:
            interrupts.check()
            records = [twin.record() for twin in group]
            small = _thumbnails(group, found.files) if done < MAX_IMAGES else [b""] * len(group)
            sizes = [_size(found.files, twin.row) for twin in group]
            counts = [int(n) if n >= 0 else None for n in found.files.sizes[[t.row for t in group]]]
            file.write(page.group(records, small, sizes, counts))
            done += len(group)
            reporter.steps("thumbnails", done, total)
        file.write(page.tail())
    if total > MAX_IMAGES:
        reporter.note(f"the page has the thumbnails of the first {MAX_IMAGES:,} images")


def _chart(bins: Sequence[Bin], threshold: float) -> str:
    """The chart of the best scores, with a line at the threshold."""
    edges = [*(bin.low for bin in bins), *(bin.high for bin in bins[-1:])]
    counts = [bin.count for bin in bins]
    return histogram_chart("Best score of each image", edges, counts, threshold, "threshold")


def _facts(found: Found, index: Index) -> list[tuple[str, str]]:
    removed = sum(not twin.keep for twin in found.twins)
    facts = [
        ("index", index.label),
        ("images", f"{index.count:,}"),
        ("groups", f"{len(found.groups):,}"),
        ("not kept", f"{removed:,}"),
        ("kinds", ", ".join(found.kinds)),
        ("kept", found.keep),
    ]
    if found.threshold is not None:
        facts.append(("threshold", found.threshold.how))
    return facts


def _size(files: Files, row: int) -> Size | None:
    height, width = map(int, files.pixels[row])
    return (height, width) if height >= 0 else None


def _thumbnails(group: Sequence[Twin], files: Files) -> list[bytes]:
    """The thumbnail of each member as JPEG; empty where it cannot be read."""
    draw = Drawing(plan=PLAN, limits=files.limits, formats=files.formats, has_thumbnail=True)
    made: dict[int, bytes] = {}
    for ref in iter_named(((twin.row, twin.path) for twin in group), files.scan):
        drawn = draw(ref, Request())
        made[ref.index] = drawn.pixels[0].tobytes() if isinstance(drawn, Sample) else b""
    return [made.get(twin.row, b"") for twin in group]
