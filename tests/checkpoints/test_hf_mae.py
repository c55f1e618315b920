"""The masked families of transformers, MAE, MSN and masked image modelling: their encoder is read
as a plain ViT, in the spelling of the hub and of a 5.x model in memory.

MAE's encoder masks and shuffles, even where nothing is masked: the tokens stay in the order of its
noise. Noise that rises makes that order the plain one, so hidden states can be compared in place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests.fixtures.tiny import tiny_hf
from tests.fixtures.weights import pixels
from vitcli.checkpoints.load import Model, load

FAMILIES = ("vit-mim", "mae", "mae-pretraining", "msn", "msn-backbone")
WITH_DECODER = ("vit-mim", "mae-pretraining")
EXACT = 1e-5


def spelled(family: str, spelling: str, folder: Path) -> tuple[transformers.PreTrainedModel, Model]:
    """A tiny model of transformers, and ours from its files; `memory` writes the names that a
    model of this version has in memory."""
    reference = tiny_hf(family, folder)
    if spelling == "memory":
        (folder / "model.safetensors").unlink()
        torch.save(reference.state_dict(), folder / "pytorch_model.bin")
    return reference, load(str(folder))


@torch.inference_mode()
def hidden_states(reference: transformers.PreTrainedModel, x: Tensor) -> tuple[Tensor, ...]:
    """The embedding, what each block gives, and last the normed tokens."""
    encoder: Any = getattr(reference, "vit", reference)
    options = {"output_hidden_states": True, "interpolate_pos_encoding": True}
    if reference.config.model_type == "vit_mae":
        grid = x.shape[2] // 8 * (x.shape[3] // 8)
        options["noise"] = torch.arange(grid).float().expand(len(x), -1)
    out = encoder(x, **options)
    if reference.config.model_type == "vit_mae":
        assert torch.equal(out.ids_restore[0], torch.arange(grid))
    return (*out.hidden_states, out.last_hidden_state)


@pytest.mark.parametrize("spelling", ["disk", "memory"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_transformers(
    family: str, spelling: str, tmp_path: Path
) -> None:
    reference, model = spelled(family, spelling, tmp_path)
    assert model.layout == "hf-vit"
    for size in ((64, 64), (64, 48), (40, 80)):
        x = torch.from_numpy(pixels(2, *size))
        expected = hidden_states(reference, x)
        layers = range(model.config.depth + 1)
        with torch.inference_mode():
            states = model.network.hidden_states(x, layers)
            found = [*(states[i].x for i in layers), model.network.tokens(x).x]
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert float((ours - theirs).abs().max()) < EXACT


@pytest.mark.parametrize("spelling", ["disk", "memory"])
def test_logits_of_msn_are_those_of_transformers(spelling: str, tmp_path: Path) -> None:
    reference, model = spelled("msn", spelling, tmp_path)
    x = torch.from_numpy(pixels(2, 64, 64))
    with torch.inference_mode():
        assert float((model.network(x) - reference(x).logits).abs().max()) < EXACT
    assert model.labels[0] == "tabby cat"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_that_is_left_out_is_said(family: str, tmp_path: Path) -> None:
    _, model = spelled(family, "disk", tmp_path)
    told = [note for note in model.notes if "only reconstruction uses it" in note]
    assert len(told) == (family in WITH_DECODER), model.notes


@pytest.mark.parametrize(("family", "eps"), [("msn", 1e-6), ("mae", 1e-12)])
def test_epsilon_of_a_config_that_leaves_it_out(family: str, eps: float, tmp_path: Path) -> None:
    tiny_hf(family, tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text("utf-8"))
    del config["layer_norm_eps"]
    file.write_text(json.dumps(config), "utf-8")
    assert load(str(tmp_path)).config.norm_eps == eps
