"""The pages of `vit classify --html` and `vit attention --html`, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Vit
from tests.fixtures.browser import Browser
from tests.fixtures.photos import many_photos, photo
from vitcli.records import Attended, Classified, ErrorType, Failure, ImageRef, Maps, Prediction
from vitcli.render.page import Page
from vitcli.sinks.text import record_of

SCRIPT = "</script><script>document.title = 'owned'</script><!--"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("dark.png", "light.png", "wide.png"):
        photo(name, 120, 60 if name == "wide.png" else 90).save(tmp_path / "in" / name)
    (tmp_path / "in" / "bad <b>.png").write_text("no picture")
    return tmp_path


def shown(chromium: Browser) -> list[str]:
    return chromium.run("[...document.querySelectorAll('article')].map(a => a.item.path)")


def looks_whole(chromium: Browser, to: Path) -> None:
    """It is no blank page, and nothing was complained of or asked for."""
    chromium.screenshot(to)
    assert np.asarray(Image.open(to).convert("L")).std() > 5
    assert chromium.complaints == []
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_a_page_of_labels_can_be_filtered_sorted_and_stepped_through(
    chromium: Browser, vit: Vit, folder: Path, width: int, dark: bool
) -> None:
    ended = vit("classify", "in", "-m", "demo", "--html", "page.html")
    assert (ended.code, ended.out) == (3, b"")
    chromium.open(folder / "page.html", width, dark=dark)
    paths = ["in/dark.png", "in/light.png", "in/wide.png"]
    assert shown(chromium) == paths
    chromium.wait("document.querySelectorAll('.frame img').length === 3")
    assert chromium.run("document.getElementById('count').textContent") == "3 images, 1 failed"
    assert "in/bad <b>.png" in chromium.run("document.getElementById('failed').textContent")
    background = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(17, 17, 19)") == dark
    assert chromium.run("$('title').textContent") == "Labels of in"
    assert chromium.run("$('about').textContent") == "model demo"
    margins = chromium.run(
        """[...document.querySelectorAll('article .frame')].map((frame) => {
        const [view, own] = [frame.parentElement, frame].map((e) => e.getBoundingClientRect());
        return Math.max(view.width - own.width, view.height - own.height); })"""
    )
    assert len(margins) == 3 and max(margins) < 1.5  # a picture fills its place
    looks_whole(chromium, folder / "page.png")

    chromium.press("/")
    chromium.do("Input.insertText", text="WIDE")
    assert shown(chromium) == ["in/wide.png"]
    chromium.run("filter.value = 'no such label'; update()")
    assert shown(chromium) == []
    label = chromium.run("filter.value = ''; update(); images[1].predictions[0].label")
    chromium.run("document.querySelectorAll('article')[1].querySelector('li button').click()")
    assert chromium.run("filter.value") == label
    chromium.run("filter.value = ''; order.value = 'high'; update()")
    scores = chromium.run(
        "[...document.querySelectorAll('article')].map(a => a.item.predictions[0].score)"
    )
    assert scores == sorted(scores, reverse=True)

    chromium.run("order.value = 'input'; update(); document.activeElement.blur()")
    chromium.press("ArrowRight", "Enter")
    assert chromium.run("document.getElementById('view').open")
    assert chromium.run("current.path") == paths[0]
    chromium.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")
    assert chromium.run("current.path") == paths[1]
    looks_whole(chromium, folder / "open.png")
    close = "document.getElementById('close').getBoundingClientRect()"
    assert chromium.run(f"{close}.left > 0 && {close}.right < document.body.clientWidth")
    chromium.press("Escape")
    chromium.wait("!document.getElementById('view').open")


def test_maps_are_laid_where_they_belong_and_can_be_chosen(chromium: Browser, folder: Path) -> None:
    """A map hot in one corner, on the middle half of a white picture."""
    values = np.zeros((2, 4, 4), np.float32)
    values[0, 0, 0] = values[1, 3, 3] = 1
    box = (0.25, 0.25, 0.75, 0.75)
    layers = tuple(Maps(name, ("1", "2"), values, box) for name in ("1", "2"))
    stream = folder / "white.jpg"
    Image.new("RGB", (200, 200), (255, 255, 255)).save(stream)
    page = Page("maps", about="by nobody")
    best = (Prediction(SCRIPT, 3, 0.5),)
    row = Attended(ImageRef(0, SCRIPT), layers, "raw", predictions=best)
    failed = Failure(ImageRef(1, SCRIPT), ErrorType.DECODE_ERROR, SCRIPT)
    text = page.row(record_of(row), stream.read_bytes(), layers)
    assert page.record_in(text) == json.loads(json.dumps(record_of(row)))
    (folder / "page.html").write_bytes(
        page.head() + text + page.row(record_of(failed), b"") + page.tail()
    )
    chromium.open(folder / "page.html")
    chromium.wait("document.querySelector('article canvas')")
    assert chromium.run("document.title") == "maps"
    assert chromium.run("$('about').textContent") == "by nobody"
    assert chromium.run("document.querySelector('li button').textContent") == SCRIPT
    assert chromium.run("[...layer.options].map(o => o.text)") == ["layer 1", "layer 2"]
    at = """(x, y) => { const c = document.querySelector('article canvas');
        return [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data] }"""

    def pixel(x: float, y: float) -> list[int]:
        return chromium.run(f"({at})({x}, {y})")

    assert pixel(0.1, 0.1)[3] == pixel(0.9, 0.9)[3] == 0  # not seen
    assert pixel(0.27, 0.27) == [252, 255, 164, 255]
    assert pixel(0.73, 0.73) == [0, 0, 4, 255]
    chromium.run("head.value = '1'; colours.value")
    chromium.run("document.getElementById('head').value = 1; repaint()")
    chromium.wait("document.querySelector('article canvas')")
    assert pixel(0.73, 0.73) == [252, 255, 164, 255]
    chromium.run("const s = document.getElementById('alpha'); s.value = 0.2; s.oninput()")
    opacity = "getComputedStyle(document.querySelector('article canvas')).opacity"
    chromium.wait(f"Math.abs({opacity} - 0.2) < 0.01")
    assert chromium.complaints == []


@pytest.mark.slow
def test_a_thousand_images_are_shown_as_they_come_near(chromium: Browser, folder: Path) -> None:
    page, values = Page("many"), np.random.RandomState(0).rand(12, 14, 14).astype(np.float32)
    heads = tuple(map(str, range(1, 13)))
    layers = [Maps(str(n), heads, values, (0, 0, 1, 1)) for n in range(1, 3)]
    [path] = many_photos(folder / "many", 1)
    with (folder / "page.html").open("wb") as file:
        file.write(page.head())
        for index in range(1000):
            row = Classified(
                ImageRef(index, f"img-{index:04}"), (Prediction(f"l{index % 7}", 0, 0.5),)
            )
            file.write(page.row(record_of(row), path.read_bytes(), layers))
        file.write(page.tail())
    chromium.open(folder / "page.html")
    chromium.wait("document.querySelectorAll('.frame canvas').length > 3")
    assert len(shown(chromium)) == 1000
    assert chromium.run("document.querySelectorAll('.frame').length") < 100
    chromium.run("scrollTo(0, document.body.scrollHeight)")
    chromium.wait("images[999].card.querySelector('canvas')")
    chromium.wait("!images[0].card.querySelector('img')")  # given up again
    chromium.run("document.getElementById('filter').value = 'l3'; update()")
    assert len(shown(chromium)) == 143
    assert chromium.complaints == []


def test_a_page_is_taken_up_again_and_stands_beside_a_table(vit: Vit, tmp_path: Path) -> None:
    many_photos(tmp_path / "in", 6, broken=(2, 3))
    run = ("classify", "in", "-m", "demo", "-j", "0", "--html")
    assert vit(*run, "page.html", "-o", "out.csv").code == 3
    assert vit("classify", "in", "-m", "demo", "-j", "0", "-o", "alone.csv").code == 3
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()
    whole = {name: (tmp_path / name).read_bytes() for name in ("page.html", "out.csv")}
    (tmp_path / "in" / "img-00001.jpg").unlink()
    assert vit(*run, "page.html", "-o", "out.csv", "--resume").code == 3
    assert vit(*run, "fresh.html", "-o", "fresh.csv").code == 3
    for name, fresh in (("page.html", "fresh.html"), ("out.csv", "fresh.csv")):
        data = (tmp_path / name).read_bytes()
        assert data == (tmp_path / fresh).read_bytes() != whole[name]


def test_a_page_that_another_version_began_is_not_taken_up(vit: Vit, tmp_path: Path) -> None:
    """Its head has another length than ours, and rows would be written over."""
    many_photos(tmp_path / "in", 6)
    run = ("classify", "in", "-m", "demo", "-j", "0", "-b", "2", "--html", "page.html")
    assert vit(*run).code == 0
    journal = (tmp_path / ".page.html.journal").read_bytes().splitlines(keepends=True)
    commits = [n for n, line in enumerate(journal) if b'"files"' in line]
    (tmp_path / ".page.html.journal").unlink()
    partial = tmp_path / "page.html.partial"
    (tmp_path / "page.html").rename(partial)
    (tmp_path / "page.html.partial.journal").write_bytes(b"".join(journal[: commits[1] + 1]))
    partial.write_bytes(partial.read_bytes().replace(b'lang="en"', b'lang="de"', 1))
    before = partial.read_bytes()
    ended = vit(*run, "--resume")
    assert (ended.code, "begun by another version" in ended.err) == (1, True), ended.err
    partial.write_bytes(before.replace(b'lang="de"', b'lang="en"', 1))
    assert vit(*run, "--resume").code == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [(("--paths-only",), "--paths-only writes none"), (("--shard", "1/2"), "made of all images")],
)
def test_what_a_page_cannot_be_is_said(
    vit: Vit, tmp_path: Path, args: tuple[str, ...], said: str
) -> None:
    many_photos(tmp_path / "in", 1)
    ended = vit("classify", "in", "-m", "demo", "--html", "p.html", *args)
    assert (ended.code, said in ended.err) == (2, True)
