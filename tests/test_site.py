"""`make docs`: the site is built without a warning, links lead somewhere, nothing is fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.fixtures.extras import needs

ROOT = Path(__file__).parents[1]
SOURCES = (
    "zensical.toml",
    "docs",
    "benchmarks/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)
pytestmark = needs("docs")


@dataclass
class Page(HTMLParser):
    """What a built page links to, what it loads, and the places in it that can be linked to."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value is not None}
        self.places.update(found[name] for name in ("id", "name") if name in found)
        if tag == "a":
            self.links += [found["href"]] if "href" in found else []
        else:
            self.loads += [found[name] for name in ("src", "href") if name in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the site, built from a copy of the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source, target = ROOT / name, copy / name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {}
    for file in (copy / "build" / "site").rglob("*.html"):
        pages[file] = Page()
        pages[file].feed(file.read_text("utf-8"))
    return pages


def test_links_lead_to_pages_and_to_places_in_them(site: dict[Path, Page]) -> None:
    for file, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or file.name == "404.html":  # whose links begin at the server's root
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{file.name}: {link}"
            if parts.fragment and target in site:
                assert unquote(parts.fragment) in site[target].places, f"{file.name}: {link}"


def test_llms_txt_is_at_the_root_and_its_links_lead_to_pages(site: dict[Path, Page]) -> None:
    root = min(site, key=lambda file: len(file.parts)).parent
    text = (root / "llms.txt").read_text("utf-8")
    assert text == (ROOT / "docs" / "llms.txt").read_text("utf-8")
    links = re.findall(r"\]\((.*?)\)", text)
    assert {root / link for link in links} == {*site} - {root / "404.html"}


def test_a_page_loads_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    for file, page in site.items():
        for link in page.loads:
            parts = urlsplit(link)
            assert not parts.netloc, f"{file.name}: {link}"
    for style in next(iter(site)).parent.rglob("*.css"):
        assert "@import" not in style.read_text("utf-8")
        assert "url(http" not in style.read_text("utf-8").replace("url(http://www.w3.org", "")
