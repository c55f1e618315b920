"""timm's tiny models, rebuilt from their files: the same tokens, embeddings and logits."""

from __future__ import annotations

import pytest
import torch

from tests.fixtures.weights import weight
from tests.models.goldens import EVA, EVA_NAMES, FOLDER, NAMES, Golden
from vitcli.checkpoints.load import Model, load
from vitcli.models.pos_embed import resize_pos_embed

CLOSE = {"atol": 1e-5, "rtol": 0.0}


KINDS = [*((FOLDER, name) for name in NAMES), *((EVA, name) for name in EVA_NAMES)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0].name}-{kind[1]}")
def golden(request: pytest.FixtureRequest) -> Golden:
    folder, name = request.param
    return Golden.read(name, folder)


@pytest.fixture(scope="module")
def model(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(str(golden.save(tmp_path_factory.mktemp(golden.name))))


def test_the_architecture_is_understood(golden: Golden, model: Model) -> None:
    traits, config = golden.config["traits"], model.config
    assert model.layout == ("timm-eva" if golden.name in EVA_NAMES else "timm")
    assert config.image_size == tuple(golden.config["img_size"])
    assert config.num_heads == traits["num_heads"]
    assert config.num_prefix == traits["num_prefix_tokens"]
    assert config.num_registers == traits["num_reg_tokens"]
    places_prefix = config.pos_embed and not traits["no_embed_class"]
    assert config.pos_prefix == (config.num_prefix if places_prefix else 0)
    assert config.norm_eps == traits["eps"]
    act = "gated_silu" if config.ffn == "swiglu" else config.act
    assert act == traits["act"]


@torch.inference_mode()
def test_every_hidden_state_is_timms(golden: Golden, model: Model) -> None:
    layers = range(model.config.depth + 1)
    states = model.network.hidden_states(golden.pixels, layers)
    for layer, theirs in zip(layers, golden["hidden_states"], strict=True):
        torch.testing.assert_close(states[layer].x, theirs, **CLOSE)


@torch.inference_mode()
def test_tokens_after_the_final_norm_are_timms(golden: Golden, model: Model) -> None:
    torch.testing.assert_close(model.network.tokens(golden.pixels).x, golden["features"], **CLOSE)


@torch.inference_mode()
def test_the_pooled_embedding_is_timms(golden: Golden, model: Model) -> None:
    network, depth = model.network, model.config.depth
    pool = "mean" if golden.config["global_pool"] == "avg" else model.config.pool
    pooled = network.features(golden.pixels, [depth], pool)
    if model.config.dist_token:  # timm averages the two tokens, as it averages the two heads
        pooled = network.tokens(golden.pixels).prefix.mean(dim=1)
    torch.testing.assert_close(pooled, golden["pre_logits"], **CLOSE)


@torch.inference_mode()
def test_logits_are_timms(golden: Golden, model: Model) -> None:
    """But for a DINOv3 without a classifier, which is pooled as its authors do."""
    expected = golden["logits"]
    if golden.config["global_pool"] == "avg" and model.config.pool == "cls":
        assert "dinov3" in golden.name and not model.config.num_classes
        assert any("--pool mean" in note for note in model.notes)
        expected = golden["features"][:, 0]
    torch.testing.assert_close(model.network(golden.pixels), expected, **CLOSE)


def test_position_embeddings_are_resampled_as_timm_does() -> None:
    golden = Golden.read("pos_embed")
    for case in golden.config["cases"]:
        old, new, prefix = tuple(case["old"]), tuple(case["new"]), case["num_prefix_tokens"]
        table = torch.from_numpy(weight("pos_embed", (1, prefix + old[0] * old[1], 4)))
        ours = resize_pos_embed(table, old, new, prefix, "bicubic-antialias")
        torch.testing.assert_close(ours, golden[case["key"]], **CLOSE)
