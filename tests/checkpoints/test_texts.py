"""Text towers give the vectors of transformers, and are read as strictly as towers of images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoints.files import edit_json
from tests.fixtures.clip import openai_names, save_open_clip
from tests.fixtures.two_towers import two_towers
from vitcli.checkpoints.load import load
from vitcli.errors import CheckpointError, VitError

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def ids_of(vocabulary: int, length: int, *ends: int) -> Tensor:
    """Random ids; `ends` are those that stand for the end of a text."""
    draw = torch.Generator().manual_seed(7)
    ids = torch.randint(3, vocabulary - 1, (6, length), generator=draw)
    for row, place in enumerate((2, length - 1, 5, 7, 1, 4)):
        for end in ends:
            ids[row, place] = end
    return ids


def features(model: torch.nn.Module, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        found = model.get_text_features(input_ids=ids)
    return found if isinstance(found, Tensor) else found.pooler_output


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clip", {}),
        ("clip", {"eos_token_id": 2, "hidden_act": "gelu"}),  # a known mistake of old configs
        ("metaclip2", {"layer_norm_eps": 1e-2}),
        ("siglip", {}),
        ("siglip", {"projection_size": 32, "hidden_act": "gelu", "num_hidden_layers": 1}),
    ],
)
@torch.inference_mode()
def test_a_text_tower_gives_the_vectors_of_transformers(
    name: str, text: dict[str, object], tmp_path: Path
) -> None:
    theirs = two_towers(name, tmp_path, **text)
    config = theirs.config.text_config
    ids = ids_of(config.vocab_size, config.max_position_embeddings, config.vocab_size - 1)
    if name == "metaclip2":
        ids = ids_of(config.vocab_size, config.max_position_embeddings, 2)
    model = load(str(tmp_path))
    torch.testing.assert_close(model.text(ids), features(theirs, ids), **CLOSE)
    similarity = model.compared.similarity
    assert similarity.scale == pytest.approx(theirs.logit_scale.exp().item())
    assert similarity.bias == (theirs.logit_bias.item() if name == "siglip" else None)


@pytest.mark.parametrize("at", ["", "text."])
@torch.inference_mode()
def test_open_clips_names_give_the_same_vectors(at: str, tmp_path: Path) -> None:
    theirs = two_towers("clip", tmp_path / "hf", hidden_act="gelu")
    state = openai_names(theirs)
    moved = ("transformer.", "token_", "positional_", "ln_final", "text_projection")
    named = {at + n if n.startswith(moved) else n: tensor for n, tensor in state.items()}
    text = {"context_length": 24, "heads": 4}
    vision = {"image_size": 32, "head_width": 8}
    folder = save_open_clip(
        tmp_path / "oc", named, model_cfg={"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    )
    ids = ids_of(theirs.config.text_config.vocab_size, 24, theirs.config.text_config.vocab_size - 1)
    torch.testing.assert_close(load(str(folder)).text(ids), features(theirs, ids), **CLOSE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"hf_model_name": "roberta-base"}, "roberta-base"),
        ({"pool_type": "none"}, "pool_type='none'"),
        ({"embed_cls": True}, "embed_cls=True"),
        ({"act_kwargs": {"approximate": "x"}}, "act_kwargs"),
        ({"norm_kwargs": {"bias": False}}, "norm_kwargs has bias"),
        ({"qk_norm": True}, "qk_norm=True"),
        ({"proj_type": "mlp"}, "proj_type='mlp'"),
    ],
)
def test_options_of_open_clip_that_are_not_supported_are_refused_by_name(
    text: dict[str, object], said: str, tmp_path: Path
) -> None:
    state = openai_names(two_towers("clip", tmp_path / "hf"))
    vision = {"image_size": 32, "head_width": 8}
    text = {"context_length": 24, "heads": 4, **text}
    if "embed_cls" in text:  # CoCa's, a tensor of its own
        state["text.cls_emb"] = torch.zeros(32)
    folder = save_open_clip(
        tmp_path / "oc", state, model_cfg={"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    )
    with pytest.raises(VitError, match=said):
        _ = load(str(folder)).text


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("text_model.final_layer_norm.bias", "missing", "text_model.final_layer_norm.bias"),
        ("text_model.encoder.layers.1.mlp.fc1.weight", "misshapen", "expected"),
        ("text_model.odd.weight", "surplus", "text_model.odd.weight"),
        ("logit_scale", "missing", "logit_scale is missing"),
        ("logit_scale", "misshapen", "logit_scale has shape"),
        ("logit_scale", "huge", "logit_scale is 100"),
    ],
)
def test_a_tensor_of_the_text_tower_is_missing_misshapen_or_too_many(
    name: str, change: str, said: str, tmp_path: Path
) -> None:
    two_towers("clip", tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    match change:
        case "missing":
            del state[name]
        case "misshapen":
            state[name] = torch.zeros(3, 5)
        case "surplus":
            state[name] = torch.zeros(3)
        case "huge":
            state[name] = torch.tensor(100.0)
    save_file(state, file)
    model = load(str(tmp_path))  # images alone are unharmed
    with pytest.raises(CheckpointError, match=said):
        _ = (model.text, model.compared.similarity)


def test_another_network_for_texts_is_refused_by_name(tmp_path: Path) -> None:
    two_towers("clip", tmp_path)
    edit_json(tmp_path / "config.json", model_type="chinese_clip")
    with pytest.raises(CheckpointError, match="the text tower of chinese_clip is BERT"):
        _ = load(str(tmp_path)).text


def test_a_model_of_images_alone_names_one_that_has_texts(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no text tower") as raised:
        _ = load("demo").text
    assert "google/siglip2-base-patch16-224" in str(raised.value)
