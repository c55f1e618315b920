"""BEiT, data2vec-vision, I-JEPA, Pixio and TIPSv2: the numbers of transformers, live, and those of
timm's BEiT, stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.checkpoints.files import refusal
from tests.fixtures.encoders import BEITS, OTHERS, tiny_encoder
from tests.fixtures.weights import pixels
from tests.models.goldens import BEIT, BEIT_NAMES, Golden
from vitcli.checkpoints.load import load
from vitcli.models.vit import VisionTransformer


def off(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the values' mean size."""
    return float((ours - theirs).abs().max() / theirs.abs().mean())


@pytest.mark.parametrize("name", BEITS)
@torch.inference_mode()
def test_states_tokens_and_outputs_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = tiny_encoder(name, tmp_path)
    network = load(str(tmp_path)).network
    assert isinstance(network, VisionTransformer)
    backbone = getattr(theirs, theirs.base_model_prefix, theirs)
    for height, width in ((48, 48), (40, 64), (80, 56)):  # the second has no side of its own size
        x = torch.from_numpy(pixels(2, height, width))
        resized = {"interpolate_pos_encoding": True} if (height, width) != (48, 48) else {}
        expected = theirs(x, output_hidden_states=True, **resized)
        states = network.hidden_states(x, range(4))
        for layer in range(4):
            assert off(states[layer].x, expected.hidden_states[layer]) < 1e-5
        last = backbone(x, **resized)
        tokens = last.last_hidden_state
        if name == "beit-mim":
            tokens = theirs.layernorm(tokens)
        assert off(network.tokens(x).x, tokens) < 1e-5
        if "classifier" in name or name == "beit-shared":
            assert off(network(x), expected.logits) < 1e-5
        elif last.pooler_output is not None:
            assert off(network(x), last.pooler_output) < 1e-5


@pytest.mark.parametrize("name", OTHERS)
@torch.inference_mode()
def test_tokens_and_outputs_of_other_encoders_are_those_of_transformers(
    name: str, tmp_path: Path
) -> None:
    theirs = tiny_encoder(name, tmp_path)
    network = load(str(tmp_path)).network
    assert isinstance(network, VisionTransformer)
    for height, width in ((48, 48), (40, 64), (80, 56)):
        x = torch.from_numpy(pixels(2, height, width))
        is_told = name.startswith("ijepa") and (height, width) != (48, 48)
        resized = {"interpolate_pos_encoding": True} if is_told else {}
        tokens = theirs.base_model(x, **resized).last_hidden_state
        assert off(network.tokens(x).x, tokens) < 1e-5
        expected = tokens[:, : network.config.num_class_tokens].mean(dim=1)
        if name.startswith("ijepa"):
            expected = tokens.mean(dim=1)
        if name == "ijepa-classifier":
            expected = theirs(x, **resized).logits
        assert off(network(x), expected) < 1e-5


@torch.inference_mode()
def test_attention_is_that_of_transformers(tmp_path: Path) -> None:
    theirs = tiny_encoder("beit", tmp_path)
    network = load(str(tmp_path)).network
    assert isinstance(network, VisionTransformer)
    x = torch.from_numpy(pixels(2, 48, 48))
    expected = theirs(x, output_attentions=True).attentions
    for layer, weights in network.attention(x, [1, 3]).items():
        torch.testing.assert_close(weights, expected[layer - 1], atol=1e-5, rtol=0)


def test_a_table_of_an_image_that_is_not_square_is_refused(tmp_path: Path) -> None:
    """transformers reads such a table with its sides swapped."""
    tiny_encoder("beit", tmp_path, image_size=(48, 64))
    assert "transformers reads its positions as a square's" in refusal(tmp_path)


@pytest.mark.parametrize("name", BEIT_NAMES)
@torch.inference_mode()
def test_states_and_outputs_are_those_of_timm(name: str, tmp_path: Path) -> None:
    golden = Golden.read(name, BEIT)
    model = load(str(golden.save(tmp_path / "model")))
    network, x = model.network, golden.pixels
    assert model.layout == "timm-beit" and isinstance(network, VisionTransformer)
    layers = range(network.config.depth + 1)
    for layer, theirs in zip(layers, golden["hidden_states"], strict=True):
        assert off(network.hidden_states(x, layers)[layer].x, theirs) < 1e-5
    assert off(network.tokens(x).x, golden["features"]) < 1e-5
    assert (
        off(network.features(x, [network.config.depth], network.config.pool), golden["pre_logits"])
        < 1e-5
    )
    assert off(network(x), golden["logits"]) < 1e-5


def test_a_file_of_microsofts_needs_no_config(tmp_path: Path) -> None:
    golden = Golden.read("shared", BEIT)
    index = torch.zeros(17, 17, dtype=torch.long)
    state = golden.state | {"rel_pos_bias.relative_position_index": index}
    torch.save({"model": state}, tmp_path / "beit.pth")
    model = load(str(tmp_path / "beit.pth"))
    assert off(model.network(golden.pixels), golden["logits"]) < 1e-5
    assert any("BEiTv2 has the same tensors" in note for note in model.notes)


@pytest.mark.parametrize("name", ["pixio", "tips"])
def test_an_oblong_grid_that_transformers_reads_as_a_square_is_refused(
    name: str, tmp_path: Path
) -> None:
    tiny_encoder(name, tmp_path, image_size=(16, 64))  # 2 x 8 patches: as many as 4 x 4
    assert "transformers reads its positions as a square's" in refusal(tmp_path)
