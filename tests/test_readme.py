"""The README's commands do what it says, and name only options that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Vit
from tests.fixtures.digits import make_digits
from vitcli.checkpoints.layouts import LAYOUTS
from vitcli.cli.completion import commands

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def steps() -> list[tuple[str, str]]:
    """(command, expected output) of every console block; pip and pytest are for the reader."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            command = command.removeprefix("pip install . && ")
            if not command.startswith("pip install"):
                found.append((command, expected))
    return found


def scores(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d\.\d+", text)]


def without_scores(text: str) -> str:
    """The last decimals are another processor's."""
    return re.sub(r"\d\.\d+", "#", text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh folder with the examples."""
    path = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", path / "examples")
    return path


@pytest.fixture(scope="module")
def ended(
    folder: Path, scripts: Path, clean_env: dict[str, str]
) -> Callable[[int], subprocess.CompletedProcess[str]]:
    """How the command of a step ended, which was run once, after those of all steps before it."""
    env = {**clean_env, "PATH": f"{scripts}:{clean_env['PATH']}"}
    done: list[subprocess.CompletedProcess[str]] = []

    def ended(number: int) -> subprocess.CompletedProcess[str]:
        for command, _ in steps()[len(done) : number + 1]:
            done.append(
                subprocess.run(
                    command,
                    shell=True,
                    cwd=folder,
                    env=env,
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
            )
        return done[number]

    return ended


@pytest.mark.parametrize("number", range(len(steps())), ids=[command for command, _ in steps()])
def test_a_console_command_prints_what_the_readme_shows(
    ended: Callable[[int], subprocess.CompletedProcess[str]], number: int
) -> None:
    done, (_, expected) = ended(number), steps()[number]
    assert "Traceback" not in done.stderr
    if expected:
        assert without_scores(done.stdout) == without_scores(expected)
        assert scores(done.stdout) == pytest.approx(scores(expected), abs=1e-4)
    else:
        assert done.returncode == 0, done.stderr


def test_the_section_on_training_runs_as_written(
    vit: Vit, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """On a few digits, with small models of the same kinds in place of those of the hub."""
    make_digits(tmp_path / "flowers", train=20, val=10)
    for name in ("digits", "photos", "holidays", "new"):
        (tmp_path / name).symlink_to("flowers" if name == "digits" else "flowers/val")
    (tmp_path / "shards").mkdir()
    for part, shards in (("train", 100), ("val", 10)):
        files = sorted((tmp_path / "flowers" / part).rglob("*.png"))
        for number in range(shards):
            file = files[number % len(files)]
            with tarfile.open(tmp_path / "shards" / f"{part}-{number:03}.tar", "w") as tar:
                tar.add(file, f"{file.parent.name}/{file.name}")
    hub = {
        "facebook/dinov2-large": str(tiny_model("dinov2")),
        "facebook/vit-mae-base": str(tiny_model("mae-pretraining")),
    }
    section = README[README.index("## Your own labels") : README.index("## Long runs")]
    lines = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).splitlines()
    assert len(lines) == 11
    for line in lines:
        words = shlex.split(line, comments=True)
        words = words[words.index("vitcli" if words[0] == "torchrun" else "vit") + 1 :]
        words = [hub.get(word, word) for word in words]
        if "-m" not in words:
            words += ["-m", "demo"]
        if words[0] == "finetune":
            words += ["--overwrite", "--epochs", "1", "-j", "0"]
        if "--image-size" in words:
            words[words.index("--image-size") + 1] = "48"
        done = vit(*words)
        assert done.code == 0, (line, done.err)
    assert len(list((tmp_path / "drawn").rglob("*.png"))) == 10


def test_the_python_example_runs(folder: Path, clean_env: dict[str, str]) -> None:
    [code] = blocks("python")
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=clean_env, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    images = len(list((ROOT / "examples").glob("*.png")))
    assert len(ended.stdout.splitlines()) == 2 * images + 2


def test_the_picture_is_the_one_that_the_command_above_it_draws(
    folder: Path, ended: Callable[[int], subprocess.CompletedProcess[str]]
) -> None:
    [number] = [n for n, (command, _) in enumerate(steps()) if command.startswith("vit attention")]
    ended(number)
    made = folder / "looks" / "examples" / "digit-7-0007.png"
    ours, shown = (
        np.asarray(Image.open(file).convert("RGB"), np.int16)
        for file in (made, ROOT / "docs" / "attention.png")
    )
    assert ours.shape == shown.shape
    assert np.abs(ours - shown).max(axis=2).mean() < 1  # fonts and last decimals differ a little


def test_every_option_that_is_named_exists() -> None:
    known = {name for c in commands() for option in c.options for name in option.names}
    shown = [block for kind in ("sh", "console", "crontab", "ini") for block in blocks(kind)]
    for line in "".join(shown).splitlines():
        names = "|".join({c.name.partition(" ")[0] for c in commands()} - {""})
        for call in re.findall(rf"vit (?:{names}) [^|#&]*", line):
            assert set(re.findall(r"(?<= )--?[a-z0][\w-]*", call)) <= known, call


def test_the_crontab_line_does_its_work(
    folder: Path, scripts: Path, clean_env: dict[str, str]
) -> None:
    """Cron's own rules: five fields of time, and a percent sign is a newline unless escaped."""
    [block] = blocks("crontab")
    [line] = [line for line in block.splitlines() if not line.startswith("#")]
    *times, command = line.split(None, 5)
    assert all(re.fullmatch(r"\*|\d+", time) for time in times)
    assert not re.search(r"(?<!\\)%", command)
    for name in ("photos", "labels"):
        (folder / "srv" / name).mkdir(parents=True)
    for image in (ROOT / "examples").glob("*.png"):
        shutil.copy(image, folder / "srv" / "photos" / f"{image.stem}.jpg")
    command = command.replace("\\%", "%").replace("/srv/", f"{folder}/srv/")
    env = {**clean_env, "PATH": f"{scripts}:{clean_env['PATH']}", "VIT_MODEL": "demo"}
    ended = subprocess.run(
        ["/bin/sh", "-c", command], env=env, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    [table] = (folder / "srv" / "labels").glob("*-*-*.csv")
    assert len(table.read_text().splitlines()) == 1 + 10 * 5


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for block in blocks("ini"):
        name = block.splitlines()[0].rpartition("/")[2]
        (tmp_path / name).write_text(block.replace("/usr/local/bin/vit", sys.executable))
    assert len(list(tmp_path.iterdir())) == 2
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()],
        capture_output=True,
        text=True,
    )
    complaints = [line for line in ended.stderr.splitlines() if "vit-photos" in line]
    assert complaints == []


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_table_of_models_has_every_layout_and_only_names_that_it_reads() -> None:
    section = README[README.index("### Models") : README.index("## Read the code")]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", section, re.MULTILINE)
    table = {name: said for names, said in rows for name in re.findall("`(.*?)`", names)}
    assert set(table) == {layout.name for layout in LAYOUTS}
    for layout in LAYOUTS:
        for name in re.findall("`([a-z0-9_-]+)`", table[layout.name]):
            is_architecture = re.fullmatch(layout.architectures or "$", name) is not None
            assert name in layout.model_types or is_architecture, f"{name} of {layout.name}"
        short = {kind.removesuffix("_vision_model") for kind in layout.model_types}
        for kind in short - {"timm_wrapper", "vision-text-dual-encoder"}:
            assert f"`{kind}`" in table[layout.name], f"{kind} of {layout.name}"


def test_every_exit_code_is_documented() -> None:
    table = README[README.index("| exit code |") :]
    for code in (0, 1, 2, 3, 129, 130, 143, 141):
        assert re.search(rf"\|.*\b{code}\b", table), code
