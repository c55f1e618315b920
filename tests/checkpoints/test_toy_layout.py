"""A layout is one file and one row in LAYOUTS: here a toy one, read and written."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vitcli.checkpoints import layouts
from vitcli.checkpoints.keymap import Rule
from vitcli.checkpoints.layouts import timm
from vitcli.checkpoints.layouts.layout import Json, Layout, Tensors, Writer
from vitcli.checkpoints.load import load
from vitcli.checkpoints.preprocess.published import Family, always
from vitcli.checkpoints.write import write_timm
from vitcli.models.config import ViTConfig


def _toy(rule: Rule) -> Rule:
    theirs, *also = (tuple(f"toy/{name}" for name in names) for names in rule.spellings)
    return replace(rule, theirs=theirs, also=tuple(also))


RULES = tuple(map(_toy, timm.RULES))


def detect(names: Collection[str]) -> bool:
    return "toy/cls_token" in names


def rules(tensors: Tensors) -> tuple[Rule, ...]:
    return RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    return timm.read_config(tensors, {}, num_heads or 4)


def write_config(config: ViTConfig) -> dict[str, Any]:
    return {"model_type": "toy"}


WRITER = Writer("timm", ViTConfig, lambda config: RULES, write_config, {"num_registers": (0,)})
EVALUATION = always(crop_pct=0.5)
LAYOUT = Layout(
    "toy",
    (),
    detect,
    rules,
    read_config,
    WRITER,
    model_types=("toy",),
    evaluation=EVALUATION,
    family=Family("toy", EVALUATION),
)


def test_a_layout_is_one_file_and_one_row(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load(str(tiny_model("vit")))
    state = {f"toy/{name}": tensor for name, tensor in plain.network.state_dict().items()}
    save_file(state, tmp_path / "toy.safetensors")
    monkeypatch.setattr(layouts, "LAYOUTS", (LAYOUT, *layouts.LAYOUTS))
    toy = load(str(tmp_path / "toy.safetensors"))
    assert toy.layout == "toy"
    assert toy.preprocess.source == "toy's own evaluation"
    assert toy.preprocess.resize == (2 * toy.preprocess.size[0],) * 2
    published = load(str(tmp_path / "toy.safetensors"), preprocess="timm")
    assert published.preprocess.source == "--preprocess timm: toy as published"
    found = toy.network.state_dict()
    assert all(torch.equal(found[n], t) for n, t in plain.network.state_dict().items())
    (tmp_path / "out").mkdir()
    assert write_timm(toy, tmp_path / "out", "fp32").layout == "toy"
    written = load_file(tmp_path / "out/model.safetensors")
    assert written.keys() == state.keys()
    assert load(str(tmp_path / "out")).layout == "toy"
