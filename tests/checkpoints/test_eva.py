"""The files of EVA's own repository: the numbers of timm's class, and what their tables say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.checkpoints.files import refusal
from tests.fixtures.eva import FILES, eva_names, rotations
from tests.fixtures.layouts import MAKERS
from tests.fixtures.meta import under
from tests.models.goldens import EVA_OWN, Golden
from vitcli.checkpoints.load import load
from vitcli.models.config import ViTConfig

CLOSE = {"atol": 1e-5, "rtol": 0.0}


@pytest.mark.parametrize("name", FILES)
@torch.inference_mode()
def test_the_numbers_are_timms(name: str, tmp_path: Path) -> None:
    golden, source = Golden.read(name, EVA_OWN), MAKERS[f"eva {name}"](tmp_path)
    model = load(str(source.path), **source.options)
    assert model.layout == "eva"
    torch.testing.assert_close(model.network.tokens(golden.pixels).x, golden["features"], **CLOSE)
    torch.testing.assert_close(model.network(golden.pixels), golden["logits"], **CLOSE)


def _saved(tables: dict[str, torch.Tensor], folder: Path) -> Path:
    state = Golden.read("packed", EVA_OWN).state
    torch.save({"model": eva_names(state) | under("rope.", tables)}, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize(("pre_trained", "dtype"), [(4, torch.float32), (7, torch.bfloat16)])
def test_the_table_shows_the_grid_of_pre_training(
    pre_trained: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    tables = {n: t.to(dtype) for n, t in rotations(4, 16, pre_trained).items()}
    config = load(str(_saved(tables, tmp_path))).config
    assert isinstance(config, ViTConfig) and config.rope is not None
    assert (config.num_heads, config.rope.reference) == (3, (pre_trained, pre_trained))


def test_a_file_without_its_table_has_the_published_one(tmp_path: Path) -> None:
    """eva_clip leaves the table out where it loads a model."""
    path = _saved({}, tmp_path)
    assert "give it with --num-heads" in refusal(path)
    config = load(str(path), num_heads=3).config
    assert isinstance(config, ViTConfig) and config.rope is not None
    assert config.rope.reference == (16, 16)


def test_a_table_of_other_rotations_is_refused(tmp_path: Path) -> None:
    other = _saved(rotations(4, 16, theta=100), tmp_path)
    assert "is not the table of EVA-02's rotations" in refusal(other)
    assert "of 3 heads, and not of 2" in refusal(_saved(rotations(4, 16), tmp_path), num_heads=2)
    assert "a row for each patch of a square" in refusal(_saved(rotations(4, 20), tmp_path))


def test_the_json_of_eva_clip_is_read(tmp_path: Path) -> None:
    golden = Golden.read("giant", EVA_OWN)
    torch.save(FILES["giant"](golden.state), tmp_path / "pytorch_model.bin")
    vision = {"eva_model_name": "eva-clip-g-14-x", "head_width": 16, "image_size": 42}
    for added in ({}, {"postnorm": True}):
        text = json.dumps({"embed_dim": 16, "vision_cfg": vision | added})
        (tmp_path / "config.json").write_text(text)
        if added:
            assert "postnorm=True is not supported" in refusal(tmp_path)
        else:
            config = load(str(tmp_path)).config
            assert isinstance(config, ViTConfig)
            assert (config.num_heads, config.projection) == (3, 16)


def test_an_eva_02_e_is_refused(tmp_path: Path) -> None:
    """Its tensors are those of EVA-01, and its norms come after its sublayers."""
    state = {"visual.patch_embed.proj.weight": torch.zeros(1792, 3, 1, 1)}
    state |= {f"visual.blocks.{i}.attn.q_bias": torch.zeros(1) for i in range(64)}
    state |= {"visual.blocks.0.attn.qkv.weight": torch.zeros(1, 1)}
    state |= {f"visual.blocks.0.mlp.fc{n}.weight": torch.zeros(1, 1) for n in (1, 2)}
    state |= {
        "visual.blocks.0.norm1.weight": torch.zeros(1),
        "visual.blocks.0.norm1.bias": torch.zeros(1),
    }
    state |= {f"visual.{name}": torch.zeros(1, 1, 1792) for name in ("cls_token", "pos_embed")}
    torch.save(state, tmp_path / "model.pt")
    assert "norms come after its sublayers" in refusal(tmp_path / "model.pt", num_heads=16)
