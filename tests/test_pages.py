"""The commands of docs/search.md, docs/large.md and README's start of them run as written."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fixtures.two_towers import two_towers

ROOT = Path(__file__).parents[1]
HUB = "google/siglip2-base-patch16-224"
PAGES = {name: (ROOT / "docs" / name).read_text("utf-8") for name in ("search.md", "large.md")}
README = (ROOT / "README.md").read_text("utf-8")
PAGES["README.md"] = README[
    README.index("Search the folder") : README.index("`vit classify` writes")
]
NEEDS = {  # what a block needs beyond the extra `dev`, by a word in it
    "--approximate": "usearch",
    "import duckdb": "duckdb",
    "import lancedb": "lancedb",
}


def blocks(name: str) -> list[tuple[str, str]]:
    """(language, text) of each block of a page."""
    return re.findall(r"```(sh|python)\n(.*?)```", PAGES[name], re.DOTALL)


STEPS = [(name, number) for name in PAGES for number in range(len(blocks(name)))]
IDS = [f"{name}: {blocks(name)[number][1].partition(chr(10))[0]}" for name, number in STEPS]


def missing(text: str) -> str | None:
    """Why a block cannot run here."""
    for word, package in NEEDS.items():
        if word in text and find_spec(package) is None:
            return f"{word} needs {package}"
    return "jq is not installed" if "| jq" in text and shutil.which("jq") is None else None


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, one of them twice, and a tiny model of images and texts."""
    home = tmp_path_factory.mktemp("pages")
    photos = Path(shutil.copytree(ROOT / "examples", home / "photos"))
    shutil.copy(photos / "digit-7-0007.png", photos / "copy.png")
    for name, image in (("cat", "digit-0-0036.png"), ("dog", "digit-1-0070.png")):
        shutil.move(photos / image, photos / f"{name}.jpg")
        shutil.copy(photos / f"{name}.jpg", home / f"{name}.jpg")
    (home / "queries.txt").write_text("a red car\npeople\n")
    (home / "cats").mkdir()
    two_towers("siglip2", home / "two-towers")
    return home


@pytest.fixture(scope="module")
def run(
    material: Path,
    scripts: Path,
    clean_env: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, int], None]:
    """Runs a block of a page once, after those above it that can run here."""
    env = {
        **clean_env,
        "PATH": f"{scripts}:{clean_env['PATH']}",
        "VIT_MODEL": "demo",
        "VIT_WORKERS": "0",
    }
    folders: dict[str, Path] = {}
    done: dict[str, int] = dict.fromkeys(PAGES, 0)

    def run(name: str, last: int) -> None:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("page")
            shutil.copytree(material, folders[name], dirs_exist_ok=True)
        for kind, text in blocks(name)[done[name] : last + 1]:
            done[name] += 1
            text = text.replace(HUB, "two-towers")
            if missing(text) is not None:
                continue
            if kind == "python":
                with chdir(folders[name]):
                    exec(text, {})
                continue
            command = ["bash", "-e", "-o", "pipefail", "-c", text]
            ended = subprocess.run(
                command, cwd=folders[name], env=env, capture_output=True, text=True, timeout=120
            )
            assert ended.returncode == 0, ended.stderr

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), STEPS, ids=IDS)
def test_a_block_runs_as_written(run: Callable[[str, int], None], name: str, number: int) -> None:
    """On the examples, with a small model of the same kind in place of that of the hub."""
    why = missing(blocks(name)[number][1])
    if why is not None:
        pytest.skip(why)
    run(name, number)


def test_every_linked_file_exists() -> None:
    for name, text in PAGES.items():
        folder = ROOT if name == "README.md" else ROOT / "docs"
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (folder / target).exists(), target
