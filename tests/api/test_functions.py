"""info, convert, finetune, evaluate and reconstruct, beside the commands of these names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import vitcli
from tests.conftest import Vit
from tests.fixtures.digits import make_digits
from vitcli.api.options import ModelArguments
from vitcli.api.train import TrainingArguments
from vitcli.jobs.job import ModelOptions
from vitcli.tasks.finetune.job import TrainingOptions


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    make_digits(folder, train=20, val=10)
    return folder


def test_the_arguments_are_the_options_of_the_jobs() -> None:
    assert {*TrainingArguments.__annotations__} == {one.name for one in fields(TrainingOptions)}
    assert {*ModelArguments.__annotations__} == {one.name for one in fields(ModelOptions)}


def test_info_is_what_the_command_prints(vit: Vit) -> None:
    printed = json.loads(vit("info", "demo", "--json", "--image-size", "48x64").out)
    found = json.loads(json.dumps(asdict(vitcli.info("demo", image_size=(48, 64)))))
    assert {name: value for name, value in found.items() if name != "described"} == printed
    assert vitcli.info(vitcli.load("demo")).parameters == 175_050


def test_convert_writes_what_the_command_writes(vit: Vit, tmp_path: Path) -> None:
    done = vitcli.convert("demo", tmp_path / "python", to="timm", verify=True)
    assert vit("convert", "demo", tmp_path / "command", "--to", "timm").code == 0
    weights = [tmp_path / name / "model.safetensors" for name in ("python", "command")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (done.written, max(delta.found for delta in done.deltas)) == ("timm", 0)
    with pytest.raises(vitcli.OutputError, match="exists"):
        vitcli.convert("demo", tmp_path / "python", to="timm")


def test_finetune_and_evaluate_give_the_numbers_of_the_commands(
    vit: Vit, digits: Path, tmp_path: Path
) -> None:
    done = vitcli.finetune(
        digits, tmp_path / "python", model="demo", train="head", epochs=2, workers=0
    )
    measured = vitcli.evaluate(digits, model=["demo", str(tmp_path / "python")], workers=0)
    run = ("finetune", digits, "--out", tmp_path / "command", "-m", "demo", "--train", "head")
    assert vit(*run, "--epochs", "2", "-j", "0").code == 0
    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("python", "command"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert (done.epochs, done.held_out) == (2, 10)
    shown = vit("evaluate", digits, "-m", "demo", "-m", tmp_path / "python", "-j", "0", "--json")
    expected = json.loads(shown.out)["models"]
    assert [model.numbers(measured.paths) for model in measured.models] == expected
    assert done.score == expected[1]["top1"]


def test_reconstruct_draws_what_the_command_draws(
    vit: Vit, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = str(tiny_model("mae-pretraining"))
    image = str(Path(__file__).parents[2] / "examples" / "digit-7-0007.png")
    done = vitcli.reconstruct(image, tmp_path / "python", model=model, seed=3, workers=0)
    assert (done.done, done.failed) == (1, 0)
    run = ("reconstruct", image, "-m", model, "--seed", "3", "-j", "0")
    assert vit(*run, "--out", tmp_path / "command").code == 0
    [ours], [theirs] = ([*(tmp_path / n).rglob("*.png")] for n in ("python", "command"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_mistake_is_an_error_of_vitcli(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(vitcli.UsageError, match="--epochs 0"):
        vitcli.finetune(digits, tmp_path / "run", model="demo", epochs=0)
    with pytest.raises(vitcli.UsageError, match="--knn 0"):
        vitcli.evaluate(digits, model="demo", knn=0)
    with pytest.raises(vitcli.ModelNotFound):
        vitcli.info(str(tmp_path / "nothing"))
