"""The commands of README.md and of docs/ do what the pages say, and links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import Vit
from tests.fixtures import extras
from tests.fixtures.hub import FakeHub
from tests.fixtures.pages import (
    DOCS,
    INSTALLS,
    PAGES,
    ROOT,
    Block,
    as_quick,
    blocks,
    make_material,
    make_models,
    navigation,
    numbers,
    small,
    steps,
    without_numbers,
    words_of,
)
from vitcli import errors
from vitcli.checkpoints import onnx, write
from vitcli.checkpoints.layouts import LAYOUTS
from vitcli.checkpoints.load import Model
from vitcli.cli import main
from vitcli.cli.inventory import commands
from vitcli.records import ErrorType
from vitcli.tasks.bench import bench as bench_task
from vitcli.tasks.bench.protocol import Candidate
from vitcli.training.loop import Diverged

if TYPE_CHECKING:
    from tests.fixtures.store import Way

RUN = ("sh", "console", "python")


def missing(block: Block) -> list[str]:
    """The extras that a block needs and that are not installed."""
    return [extra for extra in sorted(block.extras) if extras.missing(extra)]


ABSENT = [
    pytest.param(name, id=f"{name}: {block.title}", marks=extras.needs(*absent))
    for name in PAGES
    for block in blocks(name, *RUN)
    if (absent := missing(block))
]


@dataclass
class Walk:
    """Runs the blocks of a page in a folder, one after the other."""

    home: Path
    models: Path
    env: dict[str, str]
    replaced: dict[str, str] = field(default_factory=dict)

    def page(self, name: str) -> None:
        with chdir(self.home):
            for block in blocks(name, *RUN):
                if not missing(block):
                    self(block)

    def __call__(self, block: Block) -> None:
        text = small(block.text, self.models)
        for word, other in self.replaced.items():
            text = text.replace(word, other)
        if block.language == "python":
            exec(compile(text, "<page>", "exec"), {"__name__": "page"})
        elif block.language == "console":
            for command, expected in steps(Block("console", text)):
                shown = self.shell(command, may_fail=bool(expected))
                if expected:
                    assert without_numbers(shown) == without_numbers(expected), command
                    assert numbers(shown) == pytest.approx(numbers(expected), abs=1e-4), command
        else:
            for line in text.replace("\\\n", " ").splitlines():
                self.line(line)

    def line(self, line: str) -> None:
        """Run a line of a script: here if it only calls `vit`, otherwise in a shell."""
        if not shlex.split(line, comments=True) or line.startswith(INSTALLS):
            return
        if "--ray" in line:  # tests/fleet has a cluster
            return
        words = words_of(line)
        if words is None or "models pull" in line or "hf://" in line:
            self.shell(line if "--resume" in line else f"export VIT_OVERWRITE=1; {line}")
            return
        os.environ.pop("VIT_OVERWRITE", None)
        if "--resume" not in words:
            os.environ["VIT_OVERWRITE"] = "1"
        assert main(as_quick(words)) == 0, line

    def shell(self, text: str, *, may_fail: bool = False) -> str:
        ended = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", text],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "Traceback" not in ended.stderr
        assert may_fail or ended.returncode == 0, (text, ended.stderr)
        return ended.stdout


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what stands for the models of the hub."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def walk(
    models: Path,
    scripts: Path,
    clean_env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Walk:
    """Runs blocks in a folder of their own, as in an environment with the demo as the model."""
    fp32 = [Candidate("torch", "fp32")]  # what `vit bench` measures
    monkeypatch.setattr(bench_task._Trials, "_candidates", lambda *_, **__: iter(fp32))
    written = Written()
    monkeypatch.setattr(onnx, "write", written.write)
    monkeypatch.setattr(onnx, "run", written.run)
    settings = {"VIT_CACHE": clean_env["VIT_CACHE"], "VIT_MODEL": "demo", "VIT_WORKERS": "0"}
    for variable in os.environ.keys() - clean_env.keys():
        monkeypatch.delenv(variable)
    for variable, value in {**settings, "VIT_OVERWRITE": "1"}.items():
        monkeypatch.setenv(variable, value)
    env = {**clean_env, **settings, "PATH": f"{scripts}:{clean_env['PATH']}"}
    return Walk(tmp_path, models, env)


class Written:
    """What stands for ONNX files, whose export takes seconds: tests/cli/test_convert.py has it."""

    def __init__(self) -> None:
        self.model: Model | None = None

    def write(self, model: Model, file: Path, dtype: str) -> write.Written:
        self.model = model
        file.touch()
        return write.Written("onnx", (), {})

    def run(self, file: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self.model is not None
        found: NDArray[np.float32] = self.model.network(torch.from_numpy(pixels)).numpy()
        return found


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("name", [*(name for name in PAGES if name != "buckets.md"), *ABSENT])
def test_the_commands_of_a_page_run_as_written(
    name: str, walk: Walk, tiny_model: Callable[[str], Path], heads: Callable[[str], Path]
) -> None:
    """On a few digits, with tiny models of the same kinds in place of those of the hub."""
    make_models(walk.models, PAGES[name], tiny_model)
    make_material(walk.home, PAGES[name], heads)
    with hub_of(walk):
        walk.page(name)


@pytest.mark.slow
def test_the_commands_of_the_page_on_buckets_run_as_written(
    walk: Walk,
    tiny_model: Callable[[str], Path],
    heads: Callable[[str], Path],
    reached: Way,
    clean_env: dict[str, str],
) -> None:
    """With a store and a hub on this machine."""
    name = "buckets.md"
    make_models(walk.models, PAGES[name], tiny_model)
    make_material(walk.home, PAGES[name], heads)
    reached.client.create_bucket(Bucket="bucket", ACL="public-read")
    for file in (*(walk.home / "photos").iterdir(), *sorted((walk.home / "shards").iterdir())[:14]):
        key = str(file.relative_to(walk.home))
        reached.client.upload_file(str(file), "bucket", key, {"ACL": "public-read"})
    walk.env.update(clean_env)
    walk.replaced["https://example.org"] = f"{reached.url}/bucket/photos"
    with hub_of(walk):
        walk.page(name)


@contextmanager
def hub_of(walk: Walk) -> Iterator[None]:
    """A hub on this machine with what the pages take from one."""
    with FakeHub() as hub:
        hub.add("org/pics", walk.home / "photos")
        hub.add("timm/deit3_small_patch16_224.fb_in22k_ft_in1k", ROOT / "vitcli" / "demo")
        walk.env.update(hub.env(walk.home / "hub"))
        yield


def test_the_picture_is_the_one_that_the_command_above_it_draws(vit: Vit, tmp_path: Path) -> None:
    [command] = re.findall(r"^\$ vit (attention .*)$", PAGES["attention.md"], re.MULTILINE)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    assert vit(*command.split()).code == 0
    [made] = (tmp_path / "looks" / "examples").glob("*.png")
    ours, shown = (
        np.asarray(Image.open(file).convert("RGB"), np.int16)
        for file in (made, DOCS / "attention.png")
    )
    assert ours.shape == shown.shape
    assert np.abs(ours - shown).max(axis=2).mean() < 1  # fonts and last decimals differ a little


def test_every_option_that_is_named_exists() -> None:
    known = {name for c in commands() for option in c.options for name in option.names}
    names = "|".join({c.name.partition(" ")[0] for c in commands()} - {""})
    for page in PAGES:
        for block in blocks(page, "sh", "console", "crontab", "ini"):
            for call in re.findall(rf"vit (?:{names}) [^|#&\n]*", block.text):
                assert set(re.findall(r"(?<= )--?[a-z0][\w-]*", call)) <= known, call


def test_the_crontab_line_does_its_work(walk: Walk) -> None:
    """Cron's own rules: five fields of time, and a percent sign is a newline unless escaped."""
    [block] = blocks("cron.md", "crontab")
    [line] = [line for line in block.text.splitlines() if not line.startswith("#")]
    *times, command = line.split(None, 5)
    assert all(re.fullmatch(r"\*|\d+", time) for time in times)
    assert not re.search(r"(?<!\\)%", command)
    for name in ("photos", "labels"):
        (walk.home / "srv" / name).mkdir(parents=True)
    for image in (ROOT / "examples").glob("*.png"):
        shutil.copy(image, walk.home / "srv" / "photos" / f"{image.stem}.jpg")
    command = command.replace("\\%", "%").replace("/srv/", f"{walk.home}/srv/")
    ended = subprocess.run(
        ["/bin/sh", "-c", command], env=walk.env, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    [table] = (walk.home / "srv" / "labels").glob("*-*-*.csv")
    assert len(table.read_text().splitlines()) == 1 + 10 * 5


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for block in blocks("cron.md", "ini"):
        name = block.title.rpartition("/")[2]
        (tmp_path / name).write_text(block.text.replace("/usr/local/bin/vit", sys.executable))
    assert len(list(tmp_path.iterdir())) == 2
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()],
        capture_output=True,
        text=True,
    )
    complaints = [line for line in ended.stderr.splitlines() if "vit-photos" in line]
    assert complaints == []


def test_the_table_of_models_has_every_layout_and_only_names_that_it_reads() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", PAGES["models.md"], re.MULTILINE)
    table = {name: said for names, said in rows for name in re.findall("`(.*?)`", names)}
    assert set(table) == {layout.name for layout in LAYOUTS}
    for layout in LAYOUTS:
        for name in re.findall("`([a-z0-9_-]+)`", table[layout.name]):
            is_architecture = re.fullmatch(layout.architectures or "$", name) is not None
            assert name in layout.model_types or is_architecture, f"{name} of {layout.name}"
        short = {kind.removesuffix("_vision_model") for kind in layout.model_types}
        for kind in short - {"timm_wrapper", "vision-text-dual-encoder"}:
            assert f"`{kind}`" in table[layout.name], f"{kind} of {layout.name}"


def test_every_exit_code_and_every_reason_of_a_failure_is_explained() -> None:
    page = PAGES["errors.md"]
    for code in (0, 1, 2, 3, 129, 130, 143, 141):
        assert re.search(rf"^\|[\d, ]*\b{code}\b", page, re.MULTILINE), code
    assert re.findall(r"^\| `(\w+)` \|.*\|.*\|", page, re.MULTILINE) == [*ErrorType]
    ending = set(re.findall(r"^\| `(\w+)` \|[^|]*\|$", page, re.MULTILINE))
    subclasses = {cls.__name__ for cls in errors.VitError.__subclasses__()} | {Diverged.__name__}
    assert ending == subclasses


def test_every_page_is_in_the_navigation() -> None:
    found = {str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md")}
    assert sorted(entry.page for entry in navigation()) == sorted(found)


def test_the_cells_of_the_notebook_run_one_after_the_other(walk: Walk) -> None:
    cells = json.loads((DOCS / "notebook.ipynb").read_text("utf-8"))["cells"]
    make_material(walk.home, "", lambda kind: Path())
    place: dict = {}
    with chdir(walk.home):
        for cell in cells:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), "<cell>", "exec"), place)
    assert place["found"].embeddings.shape == (10, 64)
    assert place["upright"].predictions[0].label == "7"
    assert place["looked"].maps[0].values.shape[1:] == (8, 8)


def test_the_readme_is_a_short_one() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_every_link_leads_to_a_file() -> None:
    """`make docs` checks the built pages; this is for those who read the files."""
    for file in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text("utf-8")):
            assert (file.parent / target).exists(), (file, target)


def test_the_picture_of_the_benchmarks_shows_their_first_table() -> None:
    plot = runpy.run_path(str(ROOT / "benchmarks" / "plot.py"))
    groups = plot["read_table"]((ROOT / "benchmarks" / "README.md").read_text("utf-8"))
    assert groups["ViT-B/16, images of 500x375"][:2] == [("transformers", 1.0), ("timm", 1.56)]
    assert plot["draw"](groups) == (DOCS / "benchmarks.svg").read_text("utf-8")
