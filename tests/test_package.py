"""What gets installed: the code, the demo model, the class names, the manual, the completions."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MANUAL = ROOT / "completions" / "man"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_is_whole_and_small(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "vitcli/py.typed",
        "vitcli/demo/model.safetensors",
        "vitcli/demo/config.json",
        "vitcli/demo/preprocessor_config.json",
        "vitcli/demo/README.md",
        "vitcli/checkpoints/imagenet_1k.txt",
        "vitcli/jobs/templates/openai.txt",
        "vitcli/jobs/templates/simple.txt",
        "vitcli/render/templates/frame.html",
        "vitcli/render/templates/chart.html",
        "vitcli/render/templates/card.md",
        "vitcli/schemas/classify.json",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests", "examples"))]
    assert wheel.stat().st_size < 3_000_000


def test_shells_and_man_find_their_files(wheel: Path) -> None:
    """pip copies what is below `data` into the environment, such as /usr/local."""
    archive = zipfile.ZipFile(wheel)
    data = f"vitcli-{version('vitcli')}.data/data/share/"
    shared = {name.removeprefix(data) for name in archive.namelist() if name.startswith(data)}
    scripts = {
        "bash-completion/completions/vit": "vit.bash",
        "zsh/site-functions/_vit": "_vit",
        "fish/vendor_completions.d/vit.fish": "vit.fish",
    }
    manual = {f"man/man1/{file.name}": f"man/{file.name}" for file in MANUAL.iterdir()}
    assert shared == {*scripts, *manual}
    for name, source in {**scripts, **manual}.items():
        assert archive.read(data + name) == (MANUAL.parent / source).read_bytes()


def test_the_peers_are_no_dependencies() -> None:
    needed = [r for r in requires("vitcli") or [] if "extra ==" not in r]
    names = {r.split(">")[0].split("=")[0].strip().lower() for r in needed}
    models = {"torch", "numpy", "safetensors", "huggingface-hub"}
    expected = {*models, "pillow", "typer", "rich", "jinja2"}
    assert {name.replace("_", "-") for name in names} == expected


def test_the_citation_says_what_the_package_says() -> None:
    """cffconvert holds its form."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    said = dict(re.findall(r"^([\w-]+): (.+)$", citation, re.MULTILINE))
    assert said["version"] == project["version"] and said["license"] == project["license"]
    assert said["repository-code"] == project["urls"]["Repository"]
    assert said["abstract"] == project["description"] and said["title"] == project["name"]
    names = re.findall(r"^  - (.+)$", citation, re.MULTILINE)
    assert names == [f"name: {author['name']}" for author in project["authors"]] + [
        *project["keywords"]
    ]
