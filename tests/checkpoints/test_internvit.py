"""InternViT: the numbers of transformers, live; those of timm are in `test_timm_golden.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from tests.checkpoints.files import refusal
from tests.fixtures.internvit import INTERNVITS, PROCESSOR, own_names, tiny_internvit
from tests.fixtures.weights import pixels
from vitcli.checkpoints.load import load
from vitcli.models.vit import VisionTransformer


def off(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the values' mean size."""
    return float((ours - theirs).abs().max() / theirs.abs().mean())


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("name", INTERNVITS)
@torch.inference_mode()
def test_states_and_tokens_are_those_of_transformers(
    name: str, normed: bool, tmp_path: Path
) -> None:
    theirs = tiny_internvit(name, tmp_path, use_mean_pooling=not normed)
    if normed and name == "internvit-rms":
        assert "a final LayerNorm" in refusal(tmp_path)
        return
    network = load(str(tmp_path)).network
    assert isinstance(network, VisionTransformer)
    for height, width in ((48, 48), (32, 72), (72, 56)):  # the second has as many patches
        x = torch.from_numpy(pixels(2, height, width))
        expected = theirs(x, output_hidden_states=True)
        for layer, state in network.hidden_states(x, range(4)).items():
            assert off(state.x, expected.hidden_states[layer]) < 1e-5
        assert off(network.tokens(x).x, expected.last_hidden_state) < 1e-5
        assert off(network(x), expected.last_hidden_state[:, 0]) < 1e-5


@torch.inference_mode()
def test_opengvlabs_names_are_the_same_model(tmp_path: Path) -> None:
    theirs = tiny_internvit("internvit", tmp_path / "hf")
    (tmp_path / "own").mkdir()
    save_file(own_names(theirs.state_dict()), tmp_path / "own" / "model.safetensors")
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = {
        "model_type": "intern_vit_6b",
        "architectures": ["InternVisionModel"],
        **{key: theirs.config.to_dict()[key] for key in sizes},
        **{"image_size": 48, "patch_size": 8, "norm_type": "layer_norm", "qkv_bias": True},
        "qk_normalization": False,
    }
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    (tmp_path / "own" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    one, other = (load(str(tmp_path / folder)) for folder in ("hf", "own"))
    assert one.layout == other.layout == "hf-internvit"
    assert one.config == other.config
    x = torch.from_numpy(pixels(1, 48, 48))
    torch.testing.assert_close(other.network(x), one.network(x), atol=0, rtol=0)
    (tmp_path / "own" / "config.json").write_text(json.dumps({**config, "qk_normalization": True}))
    assert "InternViT-6B" in refusal(tmp_path / "own")


def test_norms_of_queries_and_keys_are_refused(tmp_path: Path) -> None:
    tiny_internvit("internvit", tmp_path, use_qk_norm=True)
    assert "InternViT-6B" in refusal(tmp_path)


@torch.inference_mode()
def test_the_tower_of_a_language_model_is_read(tmp_path: Path) -> None:
    vision = tiny_internvit("internvit", tmp_path / "tower")
    text = {
        **{"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 16, "vocab_size": 9},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
    }
    config = transformers.InternVLConfig(
        vision_config=vision.config.to_dict(), text_config=text, image_token_id=8
    )
    both = transformers.InternVLForConditionalGeneration(config)
    tower = both.model.vision_tower.eval()
    tower.load_state_dict(vision.state_dict())
    both.save_pretrained(tmp_path / "both")
    model = load(str(tmp_path / "both"))
    assert any("part of the language model" in note for note in model.notes)
    x = torch.from_numpy(pixels(1, 48, 48))
    assert off(model.network.tokens(x).x, vision(x).last_hidden_state) < 1e-5
