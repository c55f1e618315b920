"""DINOv3 of its own repository and of transformers: the same numbers, and refusals in words.
tests/models/test_vit.py compares the options of transformers' config."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests.checkpoints.files import edit_json, read_state, refusal, write_state
from tests.fixtures.dinov3 import tiny_meta
from tests.fixtures.meta import extra, other, under
from tests.fixtures.tiny import tiny_hf
from tests.fixtures.weights import pixels
from vitcli.checkpoints.layouts.dinov3 import rope_of
from vitcli.checkpoints.load import Model, load
from vitcli.models.block_config import Rope
from vitcli.tasks.convert import ConvertJob, convert

EXACT = 1e-5
SIZES = ((64, 64), (48, 80), (104, 72))
State = dict[str, Tensor]


def saved(state: Any, folder: Path, name: str = "model.pth", **options: Any) -> Model:
    torch.save(state, folder / name)
    return load(str(folder / name), keep_grid=True, **options)


@torch.inference_mode()
def largest_error(model: Model, theirs: transformers.PreTrainedModel) -> float:
    """The largest difference of the tokens and the embedding, relative to their mean size."""
    errors = []
    for size in SIZES:
        images = torch.from_numpy(pixels(2, *size))
        answer = theirs(images)
        for ours, expected in (
            (model.network.tokens(images).x, answer.last_hidden_state),
            (model.network(images), answer.pooler_output),
        ):
            errors.append(float((ours - expected).abs().max() / expected.abs().mean()))
    return max(errors)


OPTIONS: dict[str, dict[str, Any]] = {
    "masked": {},
    "wide-heads": {"num_attention_heads": 1, "hidden_size": 64, "rope_theta": 50.0},
    "all-biases": {"key_bias": True},
    "7b": {"family": "dinov3-7b"},
    "plain": {"num_register_tokens": 0, "proj_bias": False, "mlp_bias": False},
    "patches": {"patch_size": (16, 8)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_file_of_the_repository_has_its_own_rounded_periods(name: str, tmp_path: Path) -> None:
    theirs, state = tiny_meta(tmp_path, **OPTIONS[name])
    model = saved(state, tmp_path)
    assert model.layout == "dinov3"
    assert model.config.num_heads == theirs.config.num_attention_heads
    assert largest_error(model, theirs) < EXACT
    computed = transformers.DINOv3ViTModel.from_pretrained(tmp_path)
    assert largest_error(model, computed) > 10 * EXACT


def test_a_teacher_is_taken_from_a_pre_training(tmp_path: Path) -> None:
    theirs, state = tiny_meta(tmp_path)
    state |= extra(local_cls_norm__weight=(32,), local_cls_norm__bias=(32,))
    state |= extra(projectors__0__weight=(8, 32))  # EUPE's
    heads = extra(dino_head__mlp__0__weight=(8, 32), ibot_head__last_layer__weight_v=(8, 8))
    network = {**under("backbone.", state), **heads}
    whole = {**under("student.", other(network)), **under("teacher.", network)}
    for made in (whole, {"teacher": network}):
        model = saved(made, tmp_path)
        assert largest_error(model, theirs) < EXACT
        assert any("that of the published models, 1e-5, is taken" in note for note in model.notes)


def test_a_file_in_memory_under_a_users_own_module_loads(tmp_path: Path) -> None:
    theirs = tiny_hf("dinov3", tmp_path)
    state = {**under("encoder.dino.", theirs.state_dict()), "encoder.unused": torch.zeros(1)}
    write_state(tmp_path, {n: t.clone() for n, t in state.items() if n != "encoder.unused"})
    assert largest_error(load(str(tmp_path), keep_grid=True), theirs) < EXACT
    edit_json(tmp_path / "config.json", model_type=..., architectures=["DINOv3ViTBackbone"])
    assert load(str(tmp_path)).layout == "hf-dinov3"


def test_what_differs_from_the_repositorys_network_is_refused_by_name(tmp_path: Path) -> None:
    _, state = tiny_meta(tmp_path)
    mask = "blocks.0.attn.qkv.bias_mask"
    odd = {
        "bias_mask": {**state, mask: state[mask] * 0.5},
        "blocks.1.attn.qkv.bias_mask": {n: t for n, t in state.items() if n != mask},
        "rope_embed.periods is missing": {n: t for n, t in state.items() if "rope" not in n},
        "norms of their own": {**state, **extra(cls_norm__weight=(32,), cls_norm__bias=(32,))},
        "has 3 periods": {**state, "rope_embed.periods": torch.ones(3)},
        "need positive periods": {**state, "rope_embed.periods": torch.tensor([1.0, -2.0])},
    }
    for said, changed in odd.items():
        torch.save(changed, tmp_path / "model.pth")
        assert said in refusal(tmp_path / "model.pth")


def test_what_differs_from_transformers_network_is_refused_by_name(tmp_path: Path) -> None:
    tiny_hf("dinov3", tmp_path)
    tiny_hf("dinov3", tmp_path / "k", key_bias=True)
    config = tmp_path / "config.json"
    for said, changes in {
        "config.json: num_register_tokens is None": {"num_register_tokens": None},
        "layer.0.mlp.up_proj.weight": {"use_gated_mlp": True},
        "value_bias is 'no': expected true or false": {"value_bias": "no"},
        "rope_theta is None: expected a number": {"rope_theta": None},
        "need positive periods": {"rope_theta": 0},
    }.items():
        before = config.read_text()
        edit_json(config, **changes)
        assert said in refusal(tmp_path)
        config.write_text(before)
    edit_json(tmp_path / "k" / "config.json", value_bias=False)
    assert "value_bias is false, and the file has biases of v_proj" in refusal(tmp_path / "k")


def test_periods_are_computed_from_theta_where_they_are_its_powers() -> None:
    powers = [100.0 ** (i / 16) for i in range(16)]
    exact = tuple(torch.tensor(powers).tolist())
    rounded = tuple(torch.tensor(powers).bfloat16().tolist())
    assert rope_of(exact) == Rope(theta=100.0)
    assert rope_of(rounded) == Rope(theta=100.0, periods=rounded)
    assert 0 < rope_of(rounded).rounding <= 2**-8
    assert (
        rope_of(
            tuple(torch.tensor([30.0 ** (i / 16) for i in range(16)]).bfloat16().tolist())
        ).theta
        == 30
    )
    other_theta = rope_of(tuple(9.0 ** (i / 16) for i in range(16)))
    assert math.isclose(other_theta.theta, 9.0) and not other_theta.periods
    assert rope_of((0.5, 2.0, 30.0)).rounding > 2**-8


def test_a_bare_file_is_prepared_as_the_readme_does_by_its_name(tmp_path: Path) -> None:
    _, state = tiny_meta(tmp_path)
    steps = "resize(squash 256x256, bilinear, bytes with torch) | normalize"
    for name, numbers in {
        "dinov3_vits16_pretrain_lvd1689m-08c60483.pth": "0.485/0.456/0.406, std=0.229/0.224/0.225",
        "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth": "0.43/0.411/0.296, std=0.213/0.156/0.143",
    }.items():
        torch.save(state, tmp_path / name)
        plan = load(str(tmp_path / name)).preprocess
        assert plan.describe().endswith(f"{steps}(mean={numbers})")


def test_rounded_periods_are_computed_after_a_conversion_and_the_difference_is_told(
    tmp_path: Path,
) -> None:
    _, state = tiny_meta(tmp_path / "theirs", num_attention_heads=2)
    torch.save(state, tmp_path / "model.pth")
    job = ConvertJob(
        source=str(tmp_path / "model.pth"), target=tmp_path / "hf", to="hf", verify=True
    )
    done = convert(job)
    assert any("has them rounded by up to 0." in note for note in done.notes)
    alone = {d.what: d for d in done.deltas}["embedding, by the rotary periods alone"]
    assert alone.found > 1e-4 and alone.allowed == math.inf
    written = read_state(tmp_path / "hf")
    for name, tensor in read_state(tmp_path / "theirs").items():
        if name != "embeddings.mask_token":
            assert torch.equal(written[name], tensor)
