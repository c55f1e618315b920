"""CLIP's and SigLIP's vision towers against transformers, run live, and in everyone's names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import Vit
from tests.fixtures.clip import (
    CLIP,
    PATCH_SIZE,
    PROJECTION,
    SIGLIP,
    openai_names,
    processor,
    save_open_clip,
    tiny_clip,
)
from tests.fixtures.tiny import LABELS
from tests.fixtures.weights import photo, pixels
from vitcli.checkpoints.detect import claims as claims_of
from vitcli.checkpoints.detect import layout_of
from vitcli.checkpoints.file_names import Spelling
from vitcli.checkpoints.keymap import split, to_ours, to_theirs
from vitcli.checkpoints.load import Model, load
from vitcli.checkpoints.preprocess.hf import from_hf
from vitcli.checkpoints.preprocess.published import CLIP_MEAN, CLIP_STD
from vitcli.checkpoints.preprocess.timm import from_open_clip
from vitcli.errors import CheckpointError, VitError
from vitcli.images.preprocess import preprocess
from vitcli.models.prepare import prepare
from vitcli.models.vit import VisionTransformer
from vitcli.records import Preprocess
from vitcli.tasks.convert import ConvertJob, convert

State = dict[str, Tensor]
CLOSE = {"atol": 1e-5, "rtol": 0.0}
SIZES = ((32, 32), (48, 80), (64, 64), (40, 24), (16, 64))  # the last has the grid's 16 patches
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in (*CLIP, *SIGLIP)},
    "clip-erf-large-eps": ("CLIPModel", {"hidden_act": "gelu", "layer_norm_eps": 1e-2}),
    "siglip-erf-large-eps": ("SiglipModel", {"hidden_act": "gelu", "layer_norm_eps": 1e-2}),
    "siglip-without-pooling": ("SiglipVisionModel", {"vision_use_head": False}),
}


@dataclass(frozen=True)
class Pair:
    """One checkpoint, as transformers and as we load it."""

    theirs: transformers.PreTrainedModel
    ours: Model
    folder: Path

    @property
    def network(self) -> VisionTransformer:
        return self.ours.network

    @property
    def last(self) -> int:
        return self.ours.config.depth

    def tower(self, images: Tensor) -> transformers.utils.ModelOutput:
        """Their hidden states, last_hidden_state and pooler_output."""
        tower = getattr(self.theirs, "vision_model", self.theirs)
        return tower(images, output_hidden_states=True, interpolate_pos_encoding=True)

    def answer(self, images: Tensor) -> Tensor:
        """Their logits, else the projected embedding, else the pooled one, else the mean."""
        name = type(self.theirs).__name__
        if name == "CLIPModel":
            features = self.theirs.get_image_features(images, interpolate_pos_encoding=True)
            return features.pooler_output
        if name == "CLIPVisionModelWithProjection":
            return self.theirs(images, interpolate_pos_encoding=True).image_embeds
        if name.endswith("ForImageClassification"):
            return self.theirs(images, interpolate_pos_encoding=True).logits
        tower = self.tower(images)
        pooled = tower.pooler_output
        return tower.last_hidden_state.mean(dim=1) if pooled is None else pooled


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """A variant and its folder, made once."""
    pairs: dict[str, Pair] = {}

    def make(variant: str) -> Pair:
        if variant not in pairs:
            name, options = VARIANTS[variant]
            folder = tmp_path_factory.mktemp("clip") / variant
            theirs = tiny_clip(name, folder, **options)
            pairs[variant] = Pair(theirs, load(str(folder)), folder)
        return pairs[variant]

    return make


@pytest.fixture(params=VARIANTS)
def pair(request: pytest.FixtureRequest, made: Callable[[str], Pair]) -> Pair:
    return made(request.param)


@pytest.fixture
def clip(made: Callable[[str], Pair]) -> Pair:
    return made("CLIPModel")


@pytest.fixture
def siglip(made: Callable[[str], Pair]) -> Pair:
    return made("SiglipModel")


# Numbers.


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.inference_mode()
def test_hidden_states_are_those_of_transformers(pair: Pair, size: tuple[int, int]) -> None:
    images = torch.from_numpy(pixels(2, *size))
    answer = pair.tower(images)
    norm = getattr(pair.theirs, "vision_model", pair.theirs).post_layernorm
    states = pair.network.hidden_states(images, range(pair.last + 1))
    assert len(answer.hidden_states) == len(states)
    for layer, theirs in enumerate(answer.hidden_states):
        torch.testing.assert_close(states[layer].x, theirs, **CLOSE)
        raw = pair.network.features(images, [layer], "tokens", norm=False)
        torch.testing.assert_close(raw, theirs, **CLOSE)
        normed = pair.network.features(images, [layer], "tokens")
        torch.testing.assert_close(normed, norm(theirs), **CLOSE)


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.inference_mode()
def test_embeddings_and_logits_are_those_of_transformers(pair: Pair, size: tuple[int, int]) -> None:
    images = torch.from_numpy(pixels(2, *size))
    expected = pair.answer(images)
    torch.testing.assert_close(pair.network(images), expected, **CLOSE)
    resized = load(str(pair.folder), image_size=size)
    assert resized.config.image_size == resized.preprocess.size == size
    torch.testing.assert_close(resized.network(images), expected, **CLOSE)


@torch.inference_mode()
def test_the_models_own_pooling_is_the_pooler_output(pair: Pair) -> None:
    images = torch.from_numpy(pixels(2, 32, 32))
    theirs = pair.tower(images).pooler_output
    if pair.ours.labels or theirs is None:  # a classifier's own pooling is what it reads
        assert pair.ours.config.pool == "mean"
        return
    ours = pair.network.features(images, [pair.last], pair.ours.config.pool)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert ours.shape[1:] == pair.network.config.features_shape([pair.last], pair.ours.config.pool)


@torch.inference_mode()
def test_a_clip_classifier_still_gives_the_pooler_output_of_its_class_token(
    made: Callable[[str], Pair],
) -> None:
    pair = made("CLIPForImageClassification")
    images = torch.from_numpy(pixels(2, 32, 32))
    ours = pair.network.features(images, [pair.last], "cls")
    torch.testing.assert_close(ours, pair.tower(images).pooler_output, **CLOSE)
    assert pair.ours.labels == LABELS


@pytest.mark.parametrize("name", ["MetaClip2Model", "CLIPSegForImageSegmentation"])
@torch.inference_mode()
def test_a_model_built_on_clip_has_its_tower(name: str, tmp_path: Path) -> None:
    theirs = tiny_clip(name, tmp_path)
    clip = getattr(theirs, "clip", theirs)
    images = torch.from_numpy(pixels(2, 48, 40))
    features = clip.get_image_features(images, interpolate_pos_encoding=True)
    expected = getattr(features, "pooler_output", features)
    torch.testing.assert_close(load(str(tmp_path)).network(images), expected, **CLOSE)


# Names.


def read(folder: Path) -> State:
    return load_file(folder / "model.safetensors")


def claims(state: State) -> list[str]:
    return [layout.name for layout in claims_of(state)]


def rename(state: State) -> tuple[State, State, dict[str, str]]:
    """Theirs without prefix and dropped tensors, what comes back of it, and the dropped."""
    layout = layout_of(state)
    names = layout.strip(state)
    rules = layout.rules(names)
    renamed = to_ours(names, rules)
    kept = {name: t for name, t in names.items() if name not in renamed.dropped}
    return kept, to_theirs(renamed.tensors, rules), renamed.dropped


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_exactly_one_layout_claims_a_model(pair: Pair) -> None:
    is_clip = type(pair.theirs).__name__.startswith("CLIP")
    expected = ["hf-clip" if is_clip else "hf-siglip"]
    assert claims(read(pair.folder)) == claims(pair.theirs.state_dict()) == expected
    assert pair.ours.layout == expected[0]


def test_saving_what_was_loaded_gives_back_every_tensor(pair: Pair) -> None:
    kept, back, _ = rename(read(pair.folder))
    assert same(back, kept)


def test_the_text_tower_is_dropped_and_nothing_else(clip: Pair, siglip: Pair) -> None:
    for pair, also in (
        (clip, {"text_projection.weight", "logit_scale"}),
        (siglip, {"logit_scale", "logit_bias"}),
    ):
        state = read(pair.folder)
        text = {name for name in state if name.startswith("text_model.")}
        assert text
        assert set(rename(state)[2]) == text | also


def test_a_siglip_classifier_drops_the_pooling_that_it_does_not_read(
    made: Callable[[str], Pair],
) -> None:
    pair = made("SiglipForImageClassification")
    dropped = rename(read(pair.folder))[2]
    assert len(dropped) == 11
    assert all(name.startswith("head.") for name in dropped)


@pytest.mark.parametrize("name", ["CLIPVisionModel", "SiglipVisionModel"])
def test_a_tower_alone_is_the_same_with_and_without_its_prefix(
    name: str, made: Callable[[str], Pair], tmp_path: Path
) -> None:
    """4.x writes `vision_model.` and `position_ids`, 5.x neither."""
    pair = made(name)
    folder = Path(shutil.copytree(pair.folder, tmp_path / name))
    state = {f"vision_model.{key}": tensor for key, tensor in read(folder).items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(state, folder / "model.safetensors")
    assert same(load(str(folder)).network.state_dict(), pair.network.state_dict())


def refusal(folder: Path, state: State, config: dict[str, Any] | None = None) -> str:
    """What is said where these tensors cannot be loaded."""
    save_file(state, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(VitError) as caught:
        load(str(folder))
    assert "\n" not in caught.value.message
    return caught.value.message


def config_of(pair: Pair) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((pair.folder / "config.json").read_text())
    return found


@pytest.mark.parametrize(
    "name",
    [
        "vision_model.post_layernorm.bias",
        "vision_model.embeddings.position_embedding.weight",
        "vision_model.encoder.layers.1.mlp.fc2.bias",
        "vision_model.encoder.layers.2.layer_norm1.weight",
    ],
)
def test_a_missing_tensor_is_named(name: str, pair: Pair, tmp_path: Path) -> None:
    state = read(pair.folder)
    name = name if name in state else name.removeprefix("vision_model.")
    del state[name]
    said = refusal(tmp_path, state, config_of(pair))
    assert name.removeprefix("vision_model.") in said


def test_a_missing_third_of_qkv_is_named(clip: Pair, tmp_path: Path) -> None:
    state = read(clip.folder)
    del state["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    said = refusal(tmp_path, state, config_of(clip))
    assert "blocks.1.attn.qkv.bias is made of 3 tensors" in said


@pytest.mark.parametrize("name", ["head.probe", "head.attention.in_proj_weight"])
def test_a_missing_part_of_the_attention_pooling_is_named(
    name: str, siglip: Pair, tmp_path: Path
) -> None:
    state = read(siglip.folder)
    del state[f"vision_model.{name}"]
    assert f"{name} [" in refusal(tmp_path, state, config_of(siglip))


def test_an_unknown_tensor_is_named(pair: Pair, tmp_path: Path) -> None:
    state = {**read(pair.folder), "surprise": torch.zeros(2)}
    assert "unknown name: surprise [2]" in refusal(tmp_path, state, config_of(pair))


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("embeddings.class_embedding", (31,), r"class_embedding: expected [32], found [31]"),
        (
            "embeddings.class_embedding",
            (1, 1, 32),
            "expected [32], found [1, 1, 32]",
        ),
        ("embeddings.position_embedding.weight", (16, 32), "position_embedding.weight: expected"),
        ("post_layernorm.weight", (33,), "post_layernorm.weight: expected [32], found [33]"),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_named(
    name: str, shape: tuple[int, ...], says: str, clip: Pair, tmp_path: Path
) -> None:
    state = {**read(clip.folder), f"vision_model.{name}": torch.zeros(shape)}
    assert says in refusal(tmp_path, state, config_of(clip))


def test_patches_of_images_of_any_shape_do_not_fit(siglip: Pair, tmp_path: Path) -> None:
    weight = {"vision_model.embeddings.patch_embedding.weight": torch.zeros(32, 192)}
    said = refusal(tmp_path, {**read(siglip.folder), **weight}, config_of(siglip))
    assert "embeddings.patch_embedding.weight: expected [32, 3, 8, 8], found [32, 192]" in said


def test_keys_that_a_config_leaves_out_are_transformers_defaults(
    clip: Pair, siglip: Pair, tmp_path: Path
) -> None:
    for pair, act, eps in ((clip, "quick_gelu", 1e-5), (siglip, "gelu_tanh", 1e-6)):
        config = config_of(pair)
        for key in ("hidden_act", "layer_norm_eps", "num_channels"):
            config["vision_config"].pop(key)
        folder = tmp_path / act
        folder.mkdir()
        save_file(read(pair.folder), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
        found = load(str(folder)).config
        assert (found.act, found.norm_eps) == (act, eps)


def test_the_dict_of_old_configs_wins(clip: Pair, tmp_path: Path) -> None:
    config = config_of(clip)
    config["vision_config_dict"] = {**config["vision_config"], "hidden_act": "gelu"}
    save_file(read(clip.folder), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert transformers.CLIPConfig(**config).vision_config.hidden_act == "gelu"
    assert load(str(tmp_path)).config.act == "gelu"


# One of theirs into two of ours.


def test_a_split_tensor_comes_back_whole_whatever_the_order() -> None:
    rules = (split("in_proj_{p}", ("q.{p}", 1), ("kv.{p}", 2)),)
    state = {"in_proj_weight": torch.arange(12.0).reshape(6, 2), "in_proj_bias": torch.arange(6.0)}
    ours = to_ours(state, rules).tensors
    assert {name: list(t.shape) for name, t in ours.items()} == {
        "q.weight": [2, 2],
        "kv.weight": [4, 2],
        "q.bias": [2],
        "kv.bias": [4],
    }
    assert same(to_theirs(dict(reversed(ours.items())), rules), state)
    assert Spelling(rules).parts("kv.bias", (4,)) == {"in_proj_bias": (6,)}
    with pytest.raises(CheckpointError, match=r"in_proj_bias is made of 2 .* only kv.bias"):
        to_theirs({"kv.bias": ours["kv.bias"]}, rules)
    for shape in ((7, 2), ()):
        with pytest.raises(CheckpointError, match=r"in_proj_weight has shape .* split 1:2"):
            to_ours({"in_proj_weight": torch.zeros(shape)}, rules)


# OpenAI and open_clip.


@pytest.fixture
def openai(clip: Pair) -> State:
    """A whole CLIP in OpenAI's names; its heads are 8 wide."""
    return openai_names(clip.theirs)


@pytest.fixture
def open_clip_json() -> dict[str, Any]:
    vision = {"image_size": 32, "width": 32, "layers": 3, "patch_size": 8, "head_width": 8}
    return {"model_cfg": {"embed_dim": PROJECTION, "quick_gelu": True, "vision_cfg": vision}}


def tower_of(state: State) -> State:
    return {n.removeprefix("visual."): t for n, t in state.items() if n.startswith("visual.")}


FORMS: dict[str, Callable[[State], State]] = {
    "whole": lambda state: state,
    "tower": tower_of,
    "module": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "visual": lambda state: {n: t for n, t in state.items() if n.startswith("visual.")},
}


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_openai_names_give_the_numbers_of_transformers(
    form: str, clip: Pair, openai: State, open_clip_json: dict[str, Any], tmp_path: Path
) -> None:
    state = FORMS[form](openai)
    model = load(str(save_open_clip(tmp_path, state, **open_clip_json)))
    images = torch.from_numpy(pixels(2, 32, 32))
    torch.testing.assert_close(model.network(images), clip.answer(images), **CLOSE)
    hidden = clip.tower(images).hidden_states
    states = model.network.hidden_states(images, range(len(hidden)))
    for layer, theirs in enumerate(hidden):
        torch.testing.assert_close(states[layer].x, theirs, **CLOSE)
    assert claims(state) == ["open-clip"]
    kept, back, _ = rename(state)
    assert same(back, kept)


def test_the_text_tower_of_openai_is_dropped(openai: State) -> None:
    layout = layout_of(openai)
    dropped = set(to_ours(openai, layout.rules(openai)).dropped)
    assert dropped == {name for name in openai if not name.startswith("visual.")}
    newer = {n if n.startswith(("visual.", "logit")) else f"text.{n}": t for n, t in openai.items()}
    assert claims(newer) == ["open-clip"]
    assert rename(newer)[1].keys() == rename(openai)[1].keys()


def test_a_bare_file_says_what_it_does_not_know(openai: State, tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    save_file(openai, path)
    model = load(str(path), num_heads=4)
    assert model.layout == "open-clip"
    assert (model.config.act, model.config.image_size) == ("gelu", (32, 32))
    assert any("GELU (--layout openai takes QuickGELU) is taken" in note for note in model.notes)
    assert any("CLIP's is taken" in note for note in model.notes)
    assert (model.preprocess.mean, model.preprocess.std) == (CLIP_MEAN, CLIP_STD)
    assert load(str(path), layout="openai", num_heads=4).config.act == "quick_gelu"


def test_what_openai_keeps_among_the_tensors_tells_its_activation(
    clip: Pair, openai: State, tmp_path: Path
) -> None:
    numbers = {"input_resolution": 32, "context_length": 8, "vocab_size": 50}
    state = {**openai, **{name: torch.tensor(n) for name, n in numbers.items()}}
    assert claims(state) == ["openai"]
    path = tmp_path / "openai.pt"
    torch.save(state, path)
    model = load(str(path), num_heads=4)
    assert model.config.act == "quick_gelu"
    assert any("QuickGELU, as OpenAI's weights have it" in note for note in model.notes)
    images = torch.from_numpy(pixels(2, 32, 32))
    torch.testing.assert_close(model.network(images), clip.answer(images), **CLOSE)


def test_heads_are_64_wide_where_nothing_is_said(openai: State) -> None:
    layout = layout_of(openai)
    ours = to_ours(openai, layout.rules(openai)).tensors
    assert layout.read_config(ours, {}, None).num_heads == 1
    wider = {**ours, "patch_embed.proj.weight": torch.zeros(768, 3, 8, 8)}
    assert layout.read_config(wider, {}, None).num_heads == 12


@pytest.mark.parametrize(
    "option", [{"pool_type": "none"}, {"final_ln_after_pool": True}, {"act_kwargs": {"a": 1}}]
)
def test_options_of_open_clip_that_compute_otherwise_are_refused(
    option: dict[str, Any], openai: State, open_clip_json: dict[str, Any], tmp_path: Path
) -> None:
    open_clip_json["model_cfg"]["vision_cfg"].update(option)
    with pytest.raises(CheckpointError, match=f"{next(iter(option))}=.* is not supported"):
        load(str(save_open_clip(tmp_path, openai, **open_clip_json)))


@pytest.mark.parametrize(
    "name", ["ln_pre.weight", "proj", "transformer.resblocks.1.ln_2.bias", "conv1.weight"]
)
def test_a_misshapen_or_missing_tensor_of_openai_is_named(
    name: str, openai: State, open_clip_json: dict[str, Any], tmp_path: Path
) -> None:
    if name != "proj":  # a tower may have none
        missing = {n: t for n, t in openai.items() if n != f"visual.{name}"}
        with pytest.raises(CheckpointError, match=r"is missing"):
            load(str(save_open_clip(tmp_path, missing, **open_clip_json)))
    wrong = {**openai, f"visual.{name}": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"wrong shape|has shape"):
        load(str(save_open_clip(tmp_path, wrong, **open_clip_json)))


def test_openais_archives_are_refused_as_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))
    with pytest.raises(CheckpointError, match="is a TorchScript archive, not a state dict"):
        load(str(path))


# Preprocessing.


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel"])
def test_pixels_are_those_of_the_processor_after_the_pipelines_rgb(
    name: str, mode: str, made: Callable[[str], Pair]
) -> None:
    model = made(name).ours
    ready = prepare(model.network, model.preprocess, "cpu")
    for width, height in ((120, 90), (31, 77), (20, 20), (33, 200)):
        image = photo(width, height, mode).convert("RGB")
        expected = processor(name, 32)(image, return_tensors="pt")["pixel_values"]
        ours = ready.pixels(preprocess(image, model.preprocess)[None].copy())
        assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("clip", "CLIP"),
        ("clip_vision_model", "CLIP"),
        ("siglip", "Siglip"),
        ("siglip_vision_model", "Siglip"),
    ],
)
def test_a_model_without_processor_takes_the_defaults_of_its_class(
    model_type: str, name: str
) -> None:
    made = getattr(transformers, f"{name}ImageProcessorPil")()
    said = from_hf(json.loads(made.to_json_string()), model_type, (224, 224), None).plan
    silent = from_hf({}, model_type, (224, 224), None).plan
    assert silent.source == f"{name}ImageProcessor's defaults"
    for image in (photo(300, 260), photo(90, 400)):
        expected = made(image, return_tensors="np")["pixel_values"][0]
        for plan in (said, silent):
            x = preprocess(image, plan).astype(np.float32).transpose(2, 0, 1) / 255
            mean, std = (np.array(v, np.float32)[:, None, None] for v in (plan.mean, plan.std))
            np.testing.assert_allclose((x - mean) / std, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("cfg", "plan"),
    [
        ({}, {"fit": "shortest", "mean": CLIP_MEAN, "std": CLIP_STD}),
        ({"size": 48}, {"size": (48, 48), "resize": (48, 48), "fit": "shortest"}),
        ({"size": [48, 64]}, {"size": (48, 64), "resize": (48, 64), "fit": "cover"}),
        ({"resize_mode": "squash", "mean": [0.5] * 3}, {"fit": "squash", "mean": (0.5,) * 3}),
        ({"resize_mode": "longest", "fill_color": 7}, {"fit": "contain", "fill": (7, 7, 7)}),
        ({"interpolation": "bilinear"}, {"resample": "bilinear"}),
        ({"interpolation": "random"}, {"resample": "bicubic"}),
        ({"mean": None, "interpolation": None}, {"resample": "bicubic", "mean": CLIP_MEAN}),
    ],
)
def test_the_preprocessing_of_open_clip_is_read(cfg: dict[str, Any], plan: dict[str, Any]) -> None:
    defaults = {"size": (32, 32), "resize": (32, 32), "resample": "bicubic", "crop": "timm"}
    found: Preprocess = from_open_clip(cfg, (32, 32), None, "")
    assert {name: getattr(found, name) for name in defaults | plan} == defaults | plan


def test_an_unknown_resize_mode_is_refused() -> None:
    with pytest.raises(CheckpointError, match="resize_mode is 'warp'"):
        from_open_clip({"resize_mode": "warp"}, (32, 32), None, "")


def test_the_preprocessing_beside_the_weights_is_taken(
    openai: State, open_clip_json: dict[str, Any], tmp_path: Path
) -> None:
    folder = save_open_clip(tmp_path, openai, **open_clip_json, preprocess_cfg={"size": 40})
    model = load(str(folder))
    assert model.preprocess.size == model.config.image_size == (40, 40)
    assert model.preprocess.source == "open_clip_config.json: preprocess_cfg"
    assert model.notes == ()
    bare = load(str(folder / "open_clip_model.safetensors"))
    assert bare.preprocess == model.preprocess
    assert bare.notes == ("open_clip_config.json next to open_clip_model.safetensors is used",)


def test_of_a_folder_with_both_forms_each_file_has_its_own_config(
    clip: Pair, openai: State, open_clip_json: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(clip.folder, tmp_path / "both"))
    save_open_clip(folder, openai, **open_clip_json, preprocess_cfg={"size": 40})
    assert load(str(folder)).layout == "hf-clip"
    assert load(str(folder / "open_clip_model.safetensors")).layout == "open-clip"


@pytest.mark.parametrize("override", ["hf", "timm"])
def test_the_preprocessing_can_be_overridden(
    override: str, pair: Pair, openai: State, open_clip_json: dict[str, Any], tmp_path: Path
) -> None:
    plan = load(str(pair.folder), preprocess=override).preprocess
    is_clip = type(pair.theirs).__name__.startswith("CLIP")
    assert plan.mean == (CLIP_MEAN if is_clip else (0.5, 0.5, 0.5))
    folder = save_open_clip(tmp_path, openai, **open_clip_json)
    assert load(str(folder), preprocess=override).preprocess.mean == CLIP_MEAN


# The command.


def test_a_tower_embeds_and_does_not_classify(clip: Pair, vit: Vit, tmp_path: Path) -> None:
    photo(60, 44).save(tmp_path / "a.png")
    ended = vit("classify", "a.png", "-m", clip.folder)
    assert ended.code == 1
    assert "is a backbone without a classifier" in ended.err
    ended = vit("embed", "a.png", "-m", clip.folder, "-o", "a.npy")
    assert ended.code == 0, ended.err
    with Image.open(tmp_path / "a.png") as image:
        inputs = processor("CLIPModel", 32)(image.convert("RGB"), return_tensors="pt")
    with torch.inference_mode():
        expected = clip.tower(inputs["pixel_values"]).pooler_output
    embeddings = np.load(tmp_path / "a.npy")
    np.testing.assert_allclose(embeddings, expected.numpy(), atol=1e-5)
    assert clip.ours.config.patch_size[0] == PATCH_SIZE


def test_a_classifier_classifies(made: Callable[[str], Pair], vit: Vit, tmp_path: Path) -> None:
    photo(60, 44).save(tmp_path / "a.png")
    for name in ("CLIPForImageClassification", "SiglipForImageClassification"):
        pair = made(name)
        ended = vit("classify", "a.png", "-m", pair.folder, "--top-k", "1", "--format", "jsonl")
        assert ended.code == 0, ended.err
        inputs = processor(name, 32)(photo(60, 44), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            best = int(pair.theirs(inputs).logits.argmax())
        (predicted,) = json.loads(ended.out)["predictions"]
        assert predicted["label"] == LABELS[best]


# Conversion.


def test_transformers_opens_what_is_written_for_it(pair: Pair, tmp_path: Path) -> None:
    convert(ConvertJob(source=str(pair.folder), target=tmp_path / "out", to="hf", verify=True))
    name = json.loads((tmp_path / "out" / "config.json").read_text())["architectures"][0]
    written, info = getattr(transformers, name).from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values()), info
    images = torch.from_numpy(pixels(2, 32, 32))
    with torch.inference_mode():
        again = Pair(written.eval(), pair.ours, tmp_path).answer(images)
        torch.testing.assert_close(again, pair.network(images), **CLOSE)


def test_timm_gets_the_projection_as_its_head(clip: Pair, tmp_path: Path) -> None:
    convert(ConvertJob(source=str(clip.folder), target=tmp_path / "out", to="timm", verify=True))
    images = torch.from_numpy(pixels(2, 32, 32))
    written = load(str(tmp_path / "out"))
    with torch.inference_mode():
        torch.testing.assert_close(written.network(images), clip.network(images), **CLOSE)
