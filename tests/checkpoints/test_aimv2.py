"""AIMv2: the numbers of transformers, live, and those of timm, stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from tests.checkpoints.files import refusal
from tests.fixtures.aimv2 import AIMV2S, apple_names, tiny_aimv2
from tests.fixtures.weights import pixels
from tests.models.goldens import AIMV2, AIMV2_NAMES, Golden
from vitcli.checkpoints.load import load
from vitcli.models.vit import VisionTransformer


def off(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the values' mean size."""
    return float((ours - theirs).abs().max() / theirs.abs().mean())


@pytest.mark.parametrize("name", AIMV2S)
@torch.inference_mode()
def test_states_and_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = tiny_aimv2(name, tmp_path)
    network = load(str(tmp_path)).network
    assert isinstance(network, VisionTransformer)
    x = torch.from_numpy(pixels(2, 48, 48))
    expected = theirs(x, output_hidden_states=True)
    for layer, state in network.hidden_states(x, range(4)).items():
        assert off(state.x, expected.hidden_states[layer]) < 1e-5
    assert off(network.tokens(x).x, expected.last_hidden_state) < 1e-5
    assert off(network(x), expected.last_hidden_state.mean(dim=1)) < 1e-5


@pytest.mark.parametrize("name", AIMV2_NAMES)
@torch.inference_mode()
def test_states_and_outputs_are_those_of_timm(name: str, tmp_path: Path) -> None:
    golden = Golden.read(name, AIMV2)
    model = load(str(golden.save(tmp_path / "model")))
    network, x = model.network, golden.pixels
    assert model.layout == "timm-aimv2" and isinstance(network, VisionTransformer)
    states = network.hidden_states(x, range(model.config.depth + 1)).values()
    for state, theirs in zip(states, golden["hidden_states"], strict=True):
        assert off(state.x, theirs) < 1e-5
    assert off(network.tokens(x).x, golden["features"]) < 1e-5
    assert off(network(x), golden["logits"]) < 1e-5


@torch.inference_mode()
def test_apples_names_are_read(tmp_path: Path) -> None:
    golden = Golden.read("square", AIMV2)
    save_file(apple_names(golden.state), tmp_path / "model.safetensors")
    config = {
        "model_type": "aimv2",
        "architectures": ["AIMv2Model"],
        "hidden_size": 32,
        "intermediate_size": 88,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 42,
        "use_bias": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load(str(tmp_path))
    assert model.layout == "hf-aimv2"
    assert off(model.network.tokens(golden.pixels).x, golden["features"]) < 1e-5


def test_what_is_not_read_is_refused_by_name(tmp_path: Path) -> None:
    tiny_aimv2("aimv2", tmp_path / "head", use_head=True)
    assert "attention pooling" in refusal(tmp_path / "head")
    tiny_aimv2("aimv2", tmp_path / "native", is_native=True)
    assert "native resolution" in refusal(tmp_path / "native")
    tiny_aimv2("aimv2", tmp_path / "act", hidden_act="gelu")
    assert "hidden_act is gelu" in refusal(tmp_path / "act")


@torch.inference_mode()
def test_the_tower_of_a_model_with_texts_is_read_without_its_head(tmp_path: Path) -> None:
    vision = tiny_aimv2("aimv2", tmp_path / "vision", use_head=True)
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    config = transformers.Aimv2Config(
        vision_config=vision.config.to_dict(), text_config=text, projection_dim=8
    )
    both = transformers.Aimv2Model(config).eval()
    both.save_pretrained(tmp_path / "both")
    assert "--drop 'head.*'" in refusal(tmp_path / "both")
    model = load(str(tmp_path / "both"), drop=("vision_model.head.*",))
    x = torch.from_numpy(pixels(1, 48, 48))
    expected = both.vision_model(x).last_hidden_state
    assert off(model.network.tokens(x).x, expected) < 1e-5
    assert any("text tower" in note for note in model.notes)
