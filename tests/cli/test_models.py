"""`vit models`: a table whose numbers are computed or have a source; `pull` fills the cache."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Vit
from tests.fixtures.hub import FakeHub
from vitcli.checkpoints.catalogue import MEASURES, configs, entries, open_twin
from vitcli.checkpoints.detect import check_named
from vitcli.checkpoints.layouts import LAYOUTS
from vitcli.models.config import ViTConfig
from vitcli.models.network import network_of
from vitcli.models.shapes import count_of
from vitcli.tasks.models import Purpose, choose_models

Models = Callable[[str], Path]
PURPOSES: tuple[Purpose, ...] = ("speed", "accuracy", "memory", "resolution", "features")

# What timm's own models cost at their image size, by the rule of `models/cost.py`.
TIMM = json.loads((Path(__file__).parents[1] / "golden" / "costs.json").read_text("utf-8"))
# GFLOPs that others publish: the READMEs of DeiT III and of Swin.
GFLOPS = {
    "timm/deit3_small_patch16_224.fb_in22k_ft_in1k": 4.6,
    "timm/deit3_base_patch16_224.fb_in22k_ft_in1k": 17.5,
    "timm/deit3_large_patch16_384.fb_in22k_ft_in1k": 191.2,
    "timm/deit3_huge_patch14_224.fb_in22k_ft_in1k": 167.4,
    "microsoft/swin-tiny-patch4-window7-224": 4.5,
    "timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k": 15.4,
    "timm/swin_large_patch4_window12_384.ms_in22k_ft_in1k": 103.9,
}
BY_ID = {entry.id: entry for entry in entries()}


@pytest.fixture
def hub() -> Any:
    with FakeHub() as hub:
        yield hub


@pytest.mark.parametrize("name", BY_ID)
def test_a_row_is_whole(name: str) -> None:
    entry = BY_ID[name]
    assert "/" in entry.id
    assert entry.measure in MEASURES
    assert entry.licence
    assert entry.advice
    assert " " not in entry.advice
    assert "arXiv" in entry.source
    assert entry.accuracy is None or 40 < entry.accuracy < 95
    assert entry.measure or entry.accuracy is None


@pytest.mark.parametrize("name", BY_ID)
def test_a_model_is_of_a_layout_that_reads_it(name: str) -> None:
    entry = BY_ID[name]
    layout = next(layout for layout in LAYOUTS if layout.name == entry.layout)
    architecture = name.partition("/")[2].partition(".")[0]
    if layout.words == "open_clip":  # its configs have no names
        assert not entry.model_type
    elif entry.model_type:
        assert entry.model_type in layout.model_types
        assert check_named({"model_type": entry.model_type})
    else:
        assert re.fullmatch(layout.architectures, architecture)
        assert check_named({"architecture": architecture})


def test_a_gated_repository_has_an_open_twin_of_its_size_and_data() -> None:
    sizes = {"s": "small", "b": "base", "l": "large", "h": "huge", "7b": "7b"}
    gated = {}
    for size, data in (
        *itertools.product(("s", "splus", "b", "l", "hplus", "7b"), ("lvd1689m",)),
        *itertools.product(("l", "7b"), ("sat493m",)),
    ):
        letter, plus, _ = size.partition("plus")
        name = f"facebook/dinov3-vit{letter}16{plus}-pretrain-{data}"
        gated[name] = f"timm/vit_{sizes[letter]}{'_' * bool(plus)}{plus}_patch16_dinov3.{data}"
    assert {name: open_twin(name) for name in gated} == gated
    assert open_twin("facebook/dinov2-base") is None


def test_models_have_the_parameters_that_they_are_said_to_have() -> None:
    """Two blocks of each tell as much as all."""
    for config in {
        replace(config, depth=2)
        if isinstance(config, ViTConfig)
        else replace(config, depths=(2,) * config.depth)
        for config in configs().values()
    }:
        with torch.device("meta"):
            network = network_of(config)
        assert count_of(config) == sum(p.numel() for p in network.parameters()), config


@pytest.mark.parametrize("name", BY_ID)
def test_costs_are_those_of_the_original_library(name: str) -> None:
    """timm's CLIPs have a projection with a bias, of zeros; its Swin V2 computes the biases of its
    windows again for each batch, which `models/cost.py` does not count."""
    entry = BY_ID[name]
    assert entry.gflops == pytest.approx(GFLOPS.get(name, entry.gflops), rel=0.01)
    if (timms := TIMM.get(name)) is None:
        assert not name.startswith(("timm/vit_", "timm/eva", "timm/beit", "timm/swinv2"))
        return
    assert entry.image == timms["image"]
    assert entry.parameters == pytest.approx(timms["parameters"], rel=1e-4)
    close = 0.01 if entry.family == "SwinV2" else 1e-3
    assert entry.gflops == pytest.approx(timms["multiply_adds"] / 1e9, rel=close)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_purpose_takes_what_this_version_loads_and_says_why(purpose: Purpose) -> None:
    choice = choose_models(purpose)
    assert choice.entries
    assert choice.why
    assert "\n" not in choice.why


def test_purposes_mean_what_they_say() -> None:
    speed, memory = choose_models("speed").entries, choose_models("memory").entries
    for frontier, costs in (
        (speed, [e.gflops for e in speed]),
        (memory, [e.parameters for e in memory]),
    ):
        assert costs == sorted(costs)
        accuracies = [e.accuracy for e in frontier]
        assert accuracies == sorted(accuracies)
        assert len(set(accuracies)) == len(accuracies)
    ranked = [e.accuracy or 0 for e in choose_models("accuracy").entries]
    assert ranked == sorted(ranked, reverse=True)
    assert {e.measure for e in choose_models("accuracy").entries} == {"top-1"}
    grids = [e.stored // e.patch for e in choose_models("resolution").entries]
    assert grids == sorted(grids, reverse=True)
    assert min(grids) > 16
    features = choose_models("features").entries
    assert [MEASURES.index(e.measure) for e in features] == sorted(
        MEASURES.index(e.measure) for e in features
    )
    assert not any(e.has_classifier or e.is_gated for e in features)
    assert len({(e.family, e.accuracy) for e in features}) == len(features)


def test_a_pipe_gets_tsv_and_json(vit: Vit) -> None:
    ended = vit("models")
    assert (ended.code, ended.err) == (0, "")
    rows = list(csv.DictReader(ended.out.decode().splitlines(), delimiter="\t"))
    assert [row["id"] for row in rows] == [entry.id for entry in entries()]
    assert next(row for row in rows if row["family"] == "ViT")["accuracy"] == ""
    found = json.loads(vit("models", "--json").out)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert found[0]["accuracy"] is None


def test_why_goes_to_stderr(vit: Vit) -> None:
    ended = vit("models", "--for", "speed")
    assert ended.code == 0
    assert ended.err.startswith("vit: fewest GFLOPs first")
    assert len(ended.out.splitlines()) == 1 + len(choose_models("speed").entries)
    wrong = vit("models", "--for", "beauty")
    assert (wrong.code, wrong.out) == (2, b"")


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_terminal_gets_a_table(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vitcli.cli.screen.table import print_models

    monkeypatch.setenv("COLUMNS", str(width))
    print_models(entries())
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= width
    for entry in entries():
        assert any(entry.id[:30] in line for line in printed)
    if width == 200:
        assert len(printed) == len(entries()) + 1
        assert "DINOv2" not in printed[0]
        assert "source" in printed[0]


def test_pull_fills_the_cache_and_prints_the_folder(
    vit: Vit, tiny_model: Models, hub: FakeHub, tmp_path: Path
) -> None:
    sha = hub.add("some/vit", tiny_model("vit"))
    env = hub.env(tmp_path / "cache")
    ended = vit("models", "pull", "some/vit", env=env)
    assert (ended.code, ended.err) == (0, "")
    folder = Path(ended.out.decode().rstrip("\n"))
    assert folder.name == sha
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }
    hub.stop()
    again = vit("models", "pull", "some/vit", "--offline", env=env)
    assert (again.code, again.out) == (0, ended.out)
    told = json.loads(vit("info", "some/vit", "--json", "--offline", env=env).out)
    assert told["revision"] == sha


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("some/other", "some/other is not on the hub"),
        ("vit-base", "vit-base is not a hub id"),
        ("./folder", "./folder is not a hub id"),
        ("demo", "demo is not on the hub"),
        ("some/vit@v9", "some/vit has no revision v9"),
    ],
)
def test_a_pull_that_fails_says_why(
    vit: Vit, tiny_model: Models, hub: FakeHub, tmp_path: Path, spec: str, said: str
) -> None:
    hub.add("some/vit", tiny_model("vit"))
    ended = vit("models", "pull", spec, env=hub.env(tmp_path / "cache"))
    assert (ended.code, ended.out) == (1, b"")
    assert said in ended.err


@pytest.mark.parametrize(
    "args", [("models", "--for"), ("models", "pull", "a"), ("classify", "-k"), ()]
)
def test_a_mistake_in_the_command_line_is_told_in_few_words(
    vit: Vit, args: tuple[str, ...]
) -> None:
    for word in ("x" * 30_000, "--" + "x" * 30_000):
        ended = vit(*args, word)
        assert ended.code == 2
        assert ended.err.startswith("vit: ") and ended.err.count("\n") == 2
        assert len(ended.err) < 2000
