"""RADIO: the numbers of transformers, live, under its names and NVIDIA's; those of timm are in
`test_timm_golden.py`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoints.files import copied, edit_json, refusal
from tests.fixtures.radio import OWN, RADIOS, own_radio, tiny_radio
from tests.fixtures.weights import photo, pixels
from vitcli.checkpoints.load import Model, load
from vitcli.jobs.job import Inputs
from vitcli.models.attention import raw
from vitcli.models.vit import VisionTransformer
from vitcli.tasks.convert import ConvertJob, compare, convert
from vitcli.tasks.embed import EmbedJob, embed

SIZES = ((48, 48), (24, 72), (112, 96), (88, 88))  # the last is the table's
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("radio")
    tiny_radio("radio", folder)
    return folder


def off(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the values' mean size."""
    return float((ours - theirs).abs().max() / theirs.abs().mean())


def check(model: Model, theirs: transformers.RadioModel) -> None:
    """Compare every hidden state and the summary at several sizes, in fp64: large weights magnify
    rounding. The pixels are of 0 to 1."""
    theirs, network = theirs.double(), model.network.double()
    assert isinstance(network, VisionTransformer)
    mean, std = (
        torch.tensor(values).reshape(3, 1, 1)
        for values in (model.preprocess.mean, model.preprocess.std)
    )
    for height, width in SIZES:
        x = torch.from_numpy(pixels(2, height, width)).sigmoid().double()
        expected = theirs(x, output_hidden_states=True)
        ours = theirs.input_conditioner(x)
        assert off(((x - mean) / std).float(), ours.float()) < 1e-6
        for layer, state in network.hidden_states(ours, range(4)).items():
            assert off(state.x, expected.hidden_states[layer]) < 1e-5
        tokens = network.tokens(ours)
        assert off(tokens.x, expected.last_hidden_state) < 1e-5
        assert off(tokens.patches, expected.features) < 1e-5
        assert off(network(ours), expected.summary) < 1e-5
        assert network.features(ours, [3], "cls").shape[1:] == network.config.features_shape(
            [3], "cls"
        )


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("name", RADIOS)
@torch.inference_mode()
def test_states_and_summary_are_those_of_transformers(
    name: str, in_memory: bool, tmp_path: Path
) -> None:
    theirs = tiny_radio(name, tmp_path)
    if in_memory:
        save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    model = load(str(tmp_path))
    assert model.layout == "hf-radio"
    check(model, theirs)


@pytest.mark.parametrize("scale", ["", "grandma"])
@torch.inference_mode()
def test_nvidias_files_are_the_same_model(scale: str, tmp_path: Path) -> None:
    theirs = own_radio(tmp_path, scale)
    model = load(str(tmp_path / "own"))
    assert model.config.layer_scale == bool(scale)
    check(model, theirs)


@pytest.mark.parametrize(
    ("version", "aligned"),
    [("c-radio_v3-b", True), ("c-radio_v3-l", False)],
)
@torch.inference_mode()
def test_positions_are_resampled_as_the_code_of_the_version_does(
    version: str | None, aligned: bool, tmp_path: Path
) -> None:
    theirs = own_radio(tmp_path, version=version)
    embeddings = theirs.embeddings

    def resampled(self: Any, grid: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """`ViTPatchGenerator._get_pos_embeddings`, in evaluation."""
        table = embeddings.position_embedding.reshape(1, 11, 11, -1).permute(0, 3, 1, 2)
        side = max(grid)
        table = F.interpolate(table, size=(side, side), mode="bilinear", align_corners=aligned)
        return table[..., : grid[0], : grid[1]].flatten(2).transpose(1, 2)

    embeddings._interpolate_position_embedding = MethodType(resampled, embeddings)
    model = load(str(tmp_path / "own"))
    check(model, theirs)
    assert any("aligned corners" in note for note in model.notes) == aligned


def test_aligned_corners_are_written_for_the_image_size(tmp_path: Path) -> None:
    own_radio(tmp_path, version="c-radio_v3-h")
    job = ConvertJob(source=str(tmp_path / "own"), target=tmp_path / "out", to="hf", verify=True)
    assert convert(job).written == "hf-radio"
    back = load(str(tmp_path / "out"))
    assert back.config.pos_grid == back.config.grid == (5, 5)
    source = load(str(tmp_path / "own"))
    assert back.preprocess.mean == source.preprocess.mean
    assert max(compare(source, back).values()) < 1e-5


def test_a_summary_of_one_token_is_written_for_timm(tmp_path: Path) -> None:
    """The other class tokens become registers, and the positions are those of the image size."""
    theirs = tiny_radio("radio", tmp_path / "hf", summary_idxs=[0])
    job = ConvertJob(source=str(tmp_path / "hf"), target=tmp_path / "out", to="timm", verify=True)
    assert convert(job).written == "timm"
    back = load(str(tmp_path / "out"))
    assert (back.config.num_registers, back.config.grid) == (4, (6, 6))
    assert back.preprocess.mean == tuple(theirs.config.norm_mean)


def test_images_are_resized_and_normalised_as_the_sources_do(tmp_path: Path) -> None:
    own_radio(tmp_path)
    model = load(str(tmp_path / "own"))
    assert (model.preprocess.resize, model.preprocess.fit) == ((40, 40), "shortest")
    assert model.preprocess.size == (40, 40)
    assert model.preprocess.std == CLIP_STD
    tiny_radio("radio", tmp_path / "one")
    one = load(str(tmp_path / "one"))
    assert (one.preprocess.fit, one.preprocess.size) == ("squash", (48, 48))
    assert one.preprocess.mean == (0.4, 0.5, 0.6)
    edit_json(
        tmp_path / "one" / "preprocessor_config.json",
        **{"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    )
    twice = load(str(tmp_path / "one")).preprocess
    assert twice.mean == pytest.approx((0.5 + 0.5 * 0.4, 0.5 + 0.5 * 0.5, 0.5 + 0.5 * 0.6))
    assert twice.std == pytest.approx([0.5 * value for value in CLIP_STD])
    (tmp_path / "one" / "preprocessor_config.json").unlink()
    bare = load(str(tmp_path / "one")).preprocess
    assert replace(bare, source="") == replace(one.preprocess, source="")


# What NVIDIA calls RADIO and is another network, and configs that do not fit.
ARGS: dict[str, dict[str, Any]] = {
    "an E-RADIO": {"model": "eradio"},
    "a RADIO of DINOv2's code": {"model": "dinov2_vitg14_reg"},
    "norms inside the feed-forward": {"model": "vit_huge_patch16_224_mlpnorm"},
    "a model that is not known": {"model": "convnext_base"},
    "qk_norm=True in model_kwargs": {"model_kwargs": {"qk_norm": True}},
    "args.teachers has no names": {"teachers": []},
    "args.cpe_max_size is 224": {"cpe_max_size": 224},
}
KEYS: dict[str, dict[str, Any]] = {
    "vitdet_window_size=8 is not supported": {"vitdet_window_size": 8},
    "feature_normalizer_config={'embed_dim': 32}": {"feature_normalizer_config": {"embed_dim": 32}},
    "it is not known how its code resamples": {"version": "c-radio_v9-h"},
    "patch_size is 16, the file has 8": {"patch_size": 16},
    "args is 3: expected an object": {"args": 3},
}


def test_what_is_not_this_vit_is_refused_by_name(tmp_path: Path) -> None:
    own_radio(tmp_path)
    folder = tmp_path / "own"
    for said, changes in ARGS.items():
        edit_json(folder / "config.json", **{**OWN, "args": {**OWN["args"], **changes}})
        assert said in refusal(folder), said
    for said, changes in KEYS.items():
        edit_json(folder / "config.json", **{**OWN, **changes})
        assert said in refusal(folder)
    edit_json(folder / "config.json", **OWN)
    state = load_file(folder / "model.safetensors")
    for name, said in {
        "radio_model.model.levels.0.blocks.0.conv1.weight": "an E-RADIO",
        "radio_model.model.inner.patch_generator.embedder.weight": "a RADIO of DINOv2's code",
        "radio_model.model.blocks.0.mlp.norm.weight": "norms inside the feed-forward",
    }.items():
        save_file({**state, name: torch.zeros(1)}, folder / "model.safetensors")
        assert said in refusal(folder)


def test_parts_that_are_not_the_backbone_are_left_out_and_told(tmp_path: Path) -> None:
    own_radio(tmp_path)
    file = tmp_path / "own" / "model.safetensors"
    extra = {
        "radio_model.adaptors.clip.head_mlp.fc1.weight": torch.zeros(2),
        "radio_model.model.patch_generator.video_embedder.weight": torch.zeros(2),
    }
    save_file({**load_file(file), **extra}, file)
    notes = load(str(tmp_path / "own")).notes
    assert any("the space of a teacher" in note for note in notes)
    assert any("only videos use it" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_cls_tokens": 4}, "its rows cannot be split 4:2"),
        ({"summary_idxs": [1]}, "summary_idxs is [1] in config.json, and [0, 2] in the file"),
        ({"norm_std": [0.5, 0.5, 0.5]}, "norm_std is (0.5, 0.5, 0.5) in config.json"),
        ({"max_img_size": 96}, "pos_embed has 121 positions, and the config says 12x12"),
        ({"num_attention_heads": 5}, "num_attention_heads is 5"),
        ({"num_registers": -1}, "num_registers is -1"),
    ],
)
def test_a_config_of_another_model_is_refused(
    changes: dict[str, Any], said: str, saved: Path, tmp_path: Path
) -> None:
    copied(saved, tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    assert said in refusal(tmp_path)


def test_the_class_names_the_model_too(saved: Path, tmp_path: Path) -> None:
    copied(saved, tmp_path)
    edit_json(tmp_path / "config.json", model_type=...)
    assert load(str(tmp_path)).layout == "hf-radio"


@torch.inference_mode()
def test_the_tokens_of_the_summary_ask_where_the_model_looks(saved: Path) -> None:
    network = load(str(saved)).network
    assert isinstance(network, VisionTransformer)
    x = torch.from_numpy(pixels(1, 48, 72))
    weights = network.attention(x, [2])[2].mean(dim=1)  # (1, N, N)
    expected = weights[:, [0, 2], 5:].mean(dim=1).reshape(1, 1, 6, 9)
    torch.testing.assert_close(raw(network, x, [2]).maps[2], expected)


@torch.inference_mode()
def test_embed_says_which_tokens_it_joins(tmp_path: Path) -> None:
    theirs = tiny_radio("radio", tmp_path / "m")
    image = photo(48, 48)
    image.save(tmp_path / "a.png")
    inputs = Inputs(paths=(str(tmp_path / "a.png"),))
    embed(EmbedJob(model=str(tmp_path / "m"), inputs=inputs, out=tmp_path / "e.npy"))
    assert json.loads((tmp_path / "e.meta.json").read_text())["class_tokens"] == [1, 3]
    x = torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None] / 255)
    assert off(torch.from_numpy(np.load(tmp_path / "e.npy")), theirs(x).summary) < 1e-4


def test_a_folder_is_described(saved: Path) -> None:
    model = load(str(saved))
    described = model.config.describe()
    assert described["pooling"] == "the summary: class tokens 1, 3, joined, no final norm"
    assert "a table of 11x11" in described["positions"]
    json.dumps(model.config.sizes())
