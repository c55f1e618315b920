"""What gets installed: the code, the demo model, the class names, and nothing of the tests."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests", "examples"))]
    assert wheel.stat().st_size < 3_000_000


def test_the_peers_are_no_dependencies() -> None:
    needed = [r for r in requires("vitcli") or [] if "extra ==" not in r]
    names = {r.split(">")[0].split("=")[0].strip().lower() for r in needed}
    models = {"torch", "numpy", "safetensors", "huggingface-hub"}
    expected = {*models, "pillow", "typer", "rich", "jinja2"}
    assert {name.replace("_", "-") for name in names} == expected
