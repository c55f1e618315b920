"""open_clip's models with a tower of timm's, as its SigLIPs are: read as timm computes them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints.files import edit_json, read_state, refusal
from tests.fixtures.golden import EVA, golden, largest_error
from tests.fixtures.layouts import Source, open_clip_eva, open_clip_trunk
from vitcli.checkpoints.detect import claims
from vitcli.checkpoints.load import Model, load
from vitcli.models.vit import VisionTransformer

EXACT = 1e-5
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def siglip(tmp_path: Path) -> Source:
    return open_clip_trunk("jax_stacked", tmp_path)


def loaded(source: Source, name: str = "", **options: Any) -> Model:
    return load(str(source.path / name), **source.options, **options)


def edit_vision(source: Source, **changes: Any) -> None:
    config = source.path / "open_clip_config.json"
    vision = {"image_size": 64, "timm_model_name": "vit_base_patch16_siglip_224", **changes}
    edit_json(config, model_cfg={"vision_cfg": vision})


def error(model: Model, name: str) -> float:
    assert isinstance(model.network, VisionTransformer)
    return largest_error(model.network, golden(name))


def test_it_gives_the_numbers_of_timm(siglip: Source) -> None:
    model = loaded(siglip)
    assert (model.layout, model.config.pool) == ("open-clip-timm", "map")
    assert error(model, "jax_stacked") < EXACT
    assert set(model.provenance.dropped) == {
        "text.transformer.resblocks.0.ln_1.weight",
        "text.ln_final.bias",
        "logit_scale",
        "logit_bias",
    }


@pytest.mark.parametrize(
    ("name", "pool", "fit", "has_bias"),
    [("pe_core", "map", "squash", False), ("eva02_clip", "cls", "cover", True)],
)
def test_a_tower_of_timms_eva_has_its_projection_as_head(
    name: str, pool: str, fit: str, has_bias: bool, tmp_path: Path
) -> None:
    model, expected = loaded(open_clip_eva(name, tmp_path)), golden(name, EVA)
    assert (model.layout, model.preprocess.fit) == ("open-clip-timm", fit)
    assert (model.config.pool, model.config.projection_bias) == (pool, has_bias)
    assert model.config.projection == expected.config["num_classes"]
    assert isinstance(model.network, VisionTransformer)
    assert largest_error(model.network, expected) < EXACT


def test_a_bare_file_shows_its_pooling(siglip: Source) -> None:
    (siglip.path / "open_clip_config.json").unlink()
    assert error(loaded(siglip, WEIGHTS), "jax_stacked") < EXACT


@torch.inference_mode()
def test_a_projection_stands_behind_the_tower(tmp_path: Path) -> None:
    source = open_clip_trunk("bare_vit", tmp_path, projected=True)
    model, expected = loaded(source), golden("bare_vit")
    projection = _state(source)["visual.head.proj.weight"]
    assert (model.config.projection, model.config.pool) == (24, "cls")
    torch.testing.assert_close(
        model.network(expected.pixels),
        expected.answers["pre_logits"] @ projection.T,
        atol=EXACT,
        rtol=0,
    )


def test_the_json_says_which_model_of_timms_it_is(siglip: Source) -> None:
    """Of a SigLIP for 512 pixels timm takes tanh's GELU; the tensors do not tell."""
    assert loaded(siglip).config.act == "gelu"
    edit_vision(siglip, timm_model_name="vit_large_patch16_siglip_512")
    assert loaded(siglip).config.act == "gelu_tanh"


@pytest.mark.parametrize("cfg", [None, {"mean": [0.1, 0.2, 0.3], "resize_mode": "shortest"}])
def test_its_preprocessing_is_open_clips_or_siglips(siglip: Source, cfg: Any) -> None:
    if cfg:
        edit_json(siglip.path / "open_clip_config.json", preprocess_cfg=cfg)
    model = loaded(siglip)
    plan = model.preprocess
    expected = ("shortest", (0.1, 0.2, 0.3)) if cfg else ("squash", (0.5, 0.5, 0.5))
    assert (plan.fit, plan.mean, plan.resize, plan.resample) == (*expected, (64, 64), "bicubic")
    assert any("SIGLIP's is taken" in note for note in model.notes) == (cfg is None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timm_pool": "abs_attn"}, "open_clip's timm_pool='abs_attn' is not supported"),
        ({"image_size": "big"}, "img_size is 'big'"),
        (
            {"timm_model_name": "samvit_base_patch16"},
            "samvit_base_patch16: this is the image encoder of a SAM",
        ),
    ],
)
def test_what_computes_otherwise_is_refused(
    siglip: Source, changes: dict[str, Any], said: str
) -> None:
    edit_vision(siglip, **changes)
    assert said in refusal(siglip.path, **siglip.options)


@pytest.mark.parametrize(
    "make", [partial(open_clip_trunk, "jax_stacked"), partial(open_clip_trunk, "bare_vit")]
)
def test_exactly_one_layout_claims_it(make: Any, tmp_path: Path) -> None:
    state = _state(make(tmp_path))
    assert [layout.name for layout in claims(state)] == ["open-clip-timm"]


def _state(source: Source) -> dict[str, Tensor]:
    return read_state(source.path, WEIGHTS)
