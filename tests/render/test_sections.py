"""The pages of `vit search --html` and `vit dedupe --html`: whatever paths hold, they are text."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fixtures.browser import Browser
from vitcli.render.charts import histogram_chart
from vitcli.render.search_page import SearchPage
from vitcli.render.twins_page import TwinsPage

HOSTILE = "</script><script>document.title = 'owned'</script><!--\"'\x01"
ODD = (HOSTILE, "x" * 5000, "odd \udcff.jpg", "two\nlines.jpg", "ä.jpg")


def thumbnail(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), (shade, 80, 120)).save(file, "JPEG")
    return file.getvalue()


def results(count: int) -> list[dict[str, Any]]:
    return [
        {"path": ODD[i] if i < len(ODD) else f"{i}.jpg", "score": 0.9 - i / 1000, "row": i}
        for i in range(count)
    ]


def search_page() -> bytes:
    page, error = SearchPage(HOSTILE), {"type": "decode_error", "message": HOSTILE}
    parts = [page.head()]
    for query, count in ((HOSTILE, 30), ("few", 2), ("none", 0)):
        record = {"query": query, "kind": "text", "results": results(count)}
        parts.append(page.query(record, [thumbnail(i) for i in range(count)], thumbnail(200)))
    parts.append(page.query({"query": "bad.jpg", "kind": "image", "error": error}, []))
    return b"".join((*parts, page.tail()))


def members(group: int, kinds: list[str]) -> list[dict[str, Any]]:
    kept = {"group": group, "path": f"kept {group}.jpg", "kind": kinds[0], "keep": True}
    of = {"group": group, "keep": False, "of": kept["path"], "why": "smaller"}
    twins = [
        {**of, "path": f"{group}/{ODD[i % len(ODD)]}", "kind": kind, "score": 0.99 - i / 100}
        for i, kind in enumerate(kinds)
    ]
    return [{**kept, "score": None}, *twins]


def twins_page() -> bytes:
    page = TwinsPage(HOSTILE)
    chart = histogram_chart("scores", (0.5, 0.9, 0.99, 1), (1000, 0, 3), 0.95)
    parts = [page.head([(HOSTILE, HOSTILE)], chart)]
    for group, kinds in enumerate((["near"], ["bytes", "pixels"], ["near"] * 5)):
        rows = members(group, kinds)
        pictures = [thumbnail(40 * i) for i in range(len(rows) - 1)] + [b""]
        sizes = [(400, 600), *[None] * (len(rows) - 1)]
        parts.append(page.group(rows, pictures, sizes, [1000] * len(rows)))
    return b"".join((*parts, page.tail()))


@pytest.mark.parametrize("data", [search_page(), twins_page()], ids=["search", "twins"])
def test_values_end_no_script_and_odd_bytes_survive(data: bytes) -> None:
    text = data.decode()
    assert text.count("<script") == text.count("</script>") and "<!--" not in text
    kinds = re.findall(r'<script(?: class="(\w+)")?', text)
    assert len(set(kinds)) == 3 and kinds.count("one") == kinds.count("data")
    ones = [json.loads(one) for one in re.findall(r'<script class="one"[^>]*>(.*)</script>', text)]
    rows = [row for one in ones for row in one.get("results", one.get("members", ()))]
    assert any("\udcff" in row["path"] for row in rows)


def test_a_histogram_shows_fine_bins_rare_values_and_the_threshold() -> None:
    edges = (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)
    text = histogram_chart("<scores>", edges, (100_000, 10, 1, 0, 7), 0.99)
    bars = re.findall(r'width="([\d.]+)" height="([\d.]+)" class="bar"', text)
    assert len(bars) == 4 and len({width for width, _ in bars}) == 1
    heights = [float(height) for _, height in bars]
    assert heights[0] > heights[1] > heights[3] > heights[2] > 5
    assert "0.9 to 0.99: 1<" in text and ">0.99</span>" in text and "&lt;scores&gt;" in text
    assert 'x1="600.0"' in text  # the third of five bins ends there
    assert histogram_chart("empty", (0, 1), (0,)) == ""


def test_a_search_can_be_filtered_and_stepped_through(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(search_page())
    chromium.open(tmp_path / "page.html", 420)
    chromium.wait("document.querySelectorAll('article img').length === 14")
    assert chromium.run("document.title") == HOSTILE.rstrip("\x01")
    assert chromium.run("$('count').textContent") == "3 queries, 1 failed"
    assert "bad.jpg" in chromium.run("$('failed').textContent")
    chromium.run("document.querySelector('.more').click()")
    assert chromium.run("document.querySelector('.cards').children.length") == 30
    chromium.press("ArrowRight", "Enter", "ArrowRight")
    assert chromium.run("$('view').open && current.place") == 1
    chromium.press("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft")
    assert chromium.run("[current.one.query, current.place]") == ["few", 0]
    chromium.press("Escape")
    chromium.run("$('filter').value = '29.JPG'; update()")
    assert chromium.run("shown.map(one => one.shown.map(r => r.row))") == [[29]]
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.complaints == []


def test_twins_are_compared_and_listed(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(twins_page())
    chromium.open(tmp_path / "page.html", 1280, dark=True)
    chromium.wait("document.querySelectorAll('article').length === 11")
    assert chromium.run("document.querySelectorAll('article.kept').length") == 3
    assert chromium.run("$('sum').textContent") == "8 images are not kept, 8.0 kB."
    listed = """new Blob(encoded(listed().join('\\n'))).arrayBuffer()
        .then((buffer) => [...new Uint8Array(buffer)])"""
    wanted = [
        row["path"]
        for g, kinds in enumerate((["near"], ["bytes", "pixels"], ["near"] * 5))
        for row in members(g, kinds)[1:]
    ]
    assert bytes(chromium.run(listed)) == "\n".join(wanted).encode("utf-8", "surrogateescape")
    chromium.run("$('order').value = 'most'; update()")
    assert chromium.run("shown.map(one => one.index)") == [2, 1, 0]
    chromium.run("$('kind').value = 'pixels'; update()")
    assert chromium.run("listed().length") == 1
    chromium.run("$('kind').value = ''; $('order').value = 'low'; update()")
    chromium.wait("document.querySelectorAll('article').length === 11")
    chromium.press("ArrowRight", "Enter", " ")
    assert chromium.run("[$('large').className, current.place]") == ["view over swapped", 1]
    chromium.press("3", "ArrowRight", "ArrowDown")
    assert chromium.run("[mode, current.one.index, current.place]") == ["difference", 0, 1]
    chromium.run("downloadList()")
    assert chromium.run("$('said').textContent").startswith("7 paths in not-kept.txt. 1 left out")
    assert chromium.complaints == []
