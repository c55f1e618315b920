"""Perception Encoder in Meta's files: the same numbers as timm's models of the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.fixtures.meta import perception_encoder
from tests.models.goldens import PE, PE_NAMES, Golden
from vitcli.checkpoints.load import load
from vitcli.errors import CheckpointError, UsageError

CLOSE = {"atol": 1e-5, "rtol": 0.0}


@pytest.mark.parametrize("name", PE_NAMES)
@torch.inference_mode()
def test_every_layer_is_timms(name: str, tmp_path: Path) -> None:
    golden = Golden.read(name, PE)
    torch.save({"weights": perception_encoder(golden.state)}, tmp_path / "model.pt")
    model = load(str(tmp_path / "model.pt"), num_heads=golden.config["traits"]["num_heads"])
    network, x = model.network, golden.pixels
    assert model.layout == "pe"
    states = network.hidden_states(x, range(model.config.depth + 1))
    for state, theirs in zip(states.values(), golden["hidden_states"], strict=True):
        torch.testing.assert_close(state.x, theirs, **CLOSE)
    torch.testing.assert_close(network.tokens(x).x, golden["features"], **CLOSE)
    torch.testing.assert_close(network(x), golden["logits"], **CLOSE)
    assert (model.text_source is not None) == (name == "core")
    plan = model.preprocess
    assert (plan.mean[0], plan.std[0], plan.size) == (0.5, 0.5, model.config.image_size)
    with pytest.raises(UsageError, match="positions for images of"):
        network(torch.zeros(1, 3, 8 * 14, 8 * 16))


def test_a_width_of_no_published_model_needs_the_number_of_heads(tmp_path: Path) -> None:
    golden = Golden.read("spatial", PE)
    torch.save(perception_encoder(golden.state), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="width 32 and 3 blocks"):
        load(str(tmp_path / "model.pt"))
