"""Both towers of open_clip's models give its numbers, whatever their classes and options."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.fixtures.clip import save_open_clip
from tests.fixtures.eva import eva_names
from tests.fixtures.meta import under
from tests.fixtures.weights import fill, pixels, token_ids
from vitcli.checkpoints.load import Model, load

FILE = Path(__file__).parents[1] / "golden" / "open_clip.npz"
CLOSE = 1e-5  # of the largest number


@cache
def answers() -> dict[str, Any]:
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file.items())


def described() -> dict[str, Any]:
    models: dict[str, Any] = json.loads(str(answers()["about"]))["models"]
    return models


def saved(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A model of the golden file, as open_clip saves it, and its JSON."""
    config = described()[name]["model_cfg"]
    return save_open_clip(folder, state_of(name), model_cfg=config), config


def state_of(name: str) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in fill(described()[name]["keys"]).items()}


@torch.inference_mode()
def check(model: Model, name: str, text: dict[str, Any], size: int) -> None:
    """The vectors of texts and of images, and their comparison, are open_clip's."""
    eos = text["eos_id"] if text.get("pool_type") == "eos" else text["vocab_size"] - 1
    ids = token_ids(text["vocab_size"], text["context_length"], eos, text.get("pad_id", 0))
    images = model.network(torch.from_numpy(pixels(2, size, size)))
    texts = model.text(torch.from_numpy(ids))
    similarity = model.compared.similarity
    logits = similarity.scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    found = {"texts": texts, "images": images, "logits": logits + (similarity.bias or 0)}
    for what, value in found.items():
        expected = torch.from_numpy(answers()[f"{name} {what}"])
        error = (value - expected).abs().max() / expected.abs().max()
        assert error < CLOSE, (what, error)


@pytest.mark.parametrize("name", described())
def test_both_towers_give_the_numbers_of_open_clip(name: str, tmp_path: Path) -> None:
    folder, config = saved(name, tmp_path)
    heads = {"num_heads": 2} if "timm_model_name" in config["vision_cfg"] else {}
    model = load(str(folder), **heads)
    check(model, name, config["text_cfg"], config["vision_cfg"]["image_size"])


@pytest.mark.parametrize("has_json", [False, True])
def test_eva_clips_own_files_have_the_text_tower_of_open_clip(
    has_json: bool, tmp_path: Path
) -> None:
    """Their names of the tower of images are EVA's, those of the text tower open_clip's."""
    state, trunk = state_of("eva02"), "visual.trunk."
    tower = {n.removeprefix(trunk): t for n, t in state.items() if n.startswith(trunk)}
    rest = {n: t for n, t in state.items() if not n.startswith(trunk)}
    torch.save(under("visual.", eva_names(tower, head=16)) | rest, tmp_path / "model.pt")
    text = described()["eva02"]["model_cfg"]["text_cfg"]
    json_ = {"embed_dim": 24, "vision_cfg": {"image_size": 32, "head_width": 16}}
    if has_json:
        json_ |= {"text_cfg": {**text, "xattn": True, "fusedLN": True}}
        (tmp_path / "config.json").write_text(json.dumps(json_))
        check(load(str(tmp_path / "model.pt")), "eva02", text, 32)
    else:  # 64 channels a head, which these towers do not have
        model = load(str(tmp_path / "model.pt"))
        assert (model.layout, model.text_config.num_heads) == ("eva", 1)
        assert model.text_config.pool == "argmax"
