"""timm's class `Eva`: what its tensors and arguments say, and what is refused of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.checkpoints.files import loaded, refusal
from tests.models.goldens import EVA, EVA_NAMES, Golden
from vitcli.checkpoints.detect import claims
from vitcli.checkpoints.keymap import to_ours
from vitcli.checkpoints.layouts import timm_eva
from vitcli.checkpoints.write import write_timm
from vitcli.errors import CheckpointError, UsageError
from vitcli.models.config import ViTConfig
from vitcli.models.vit import VisionTransformer
from vitcli.tasks.convert import ConvertJob, compare, convert

ENCODERS = ("pe_core", "pe_lang", "pe_spatial")
HEADS = {
    "vit_tiny_patch16_dinov3_qkvb": 3,
    "vit_small_plus_patch16_dinov3": 6,
    "vit_huge_plus_patch16_dinov3_qkvb": 20,
    "vit_7b_patch16_dinov3": 32,
    "vit_giant_patch16_lingbot": 24,
    "vit_pe_core_gigantic_patch14_448": 16,
    "vit_betwixt_patch16_rope_reg4_gap_256": 10,
    "eva_giant_patch14_560": 16,
    "eva02_base_patch16_clip_224": 12,
}


@pytest.fixture
def dino() -> Golden:
    return Golden.read("dinov3", EVA)


def with_args(golden: Golden, **args: Any) -> dict[str, Any]:
    return golden.json | {"model_args": golden.json["model_args"] | args}


def ours(golden: Golden) -> dict[str, Tensor]:
    return to_ours(golden.state, timm_eva.rules(golden.state)).tensors


@pytest.mark.parametrize("name", EVA_NAMES)
def test_the_tensors_of_a_bare_file_show_the_family(name: str) -> None:
    """Not of a Perception Encoder and of a RoPE-ViT whose rotations are not learned, which are not
    guessed: they are only read so if the user says it."""
    golden = Golden.read(name, EVA)
    is_claimed = [layout.name for layout in claims(golden.state)] == ["timm-eva"]
    assert is_claimed == (name not in (*ENCODERS, "rope_ape", "rope_axial"))
    size = {"model_args": {"img_size": golden.config.get("stored", golden.config["img_size"])}}
    heads = golden.config["traits"]["num_heads"]
    named = timm_eva.read_config(ours(golden), golden.json, heads)
    bare = timm_eva.read_config(ours(golden), size, heads)
    if name in ENCODERS:  # of its own grid, on which the reference changes nothing
        assert named.rope is not None and bare.rope is not None
        named = replace(named, rope=replace(named.rope, reference=None))
    assert bare == named


@pytest.mark.parametrize("name", ["rope_ape", "rope_axial"])
def test_a_bare_rope_vit_is_not_guessed(name: str, tmp_path: Path) -> None:
    golden = Golden.read(name, EVA)
    save_file(golden.state, tmp_path / "model.safetensors")
    assert "may be a DeiT-III or a RoPE-ViT" in refusal(tmp_path / "model.safetensors", num_heads=2)


@pytest.mark.parametrize("name", HEADS)
def test_the_name_says_how_many_heads(name: str) -> None:
    assert timm_eva._published(name)["num_heads"] == HEADS[name]


def test_width_and_depth_say_how_many_heads_a_bare_file_has() -> None:
    assert (timm_eva.heads_of(1280, 32), timm_eva.heads_of(4096, 40)) == (20, 32)
    with pytest.raises(CheckpointError, match="width 48 and 2 blocks"):
        timm_eva.heads_of(48, 2)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("qk_norm", True),
        ("num_kv_heads", 1),
        ("attn_only_layer_scale", True),
        ("use_post_norm", True),
        ("norm_layer", "rmsnorm"),
        ("use_naflex", True),
        ("eps", 1e-3),
        ("attn_type", "linear"),
        ("global_pool", "avgmax"),
        ("rope_type", "mrope"),
        ("rope_grid_indexing", "yx"),
        ("rope_grid_offset", 0.5),
        ("swiglu_mlp", "yes"),
        ("use_fc_norm", "no"),
    ],
)
def test_an_argument_that_changes_the_numbers_is_refused(
    argument: str, value: object, dino: Golden, tmp_path: Path
) -> None:
    folder = dino.save(tmp_path / "m", with_args(dino, **{argument: value}))
    assert f"timm's {argument}={value!r} is not supported" in refusal(folder)


def test_a_layout_that_leaves_out_the_rotations_is_refused(tmp_path: Path) -> None:
    folder = Golden.read("rope_ape", EVA).save(tmp_path / "m")
    assert "leave out --layout deit" in refusal(folder, layout="deit")


def test_the_name_may_be_in_the_inner_config(tmp_path: Path) -> None:
    golden = Golden.read("rope_ape", EVA)
    json = {key: value for key, value in golden.json.items() if key != "architecture"}
    json["pretrained_cfg"] = json["pretrained_cfg"] | {"architecture": golden.json["architecture"]}
    inner, outer = loaded(golden.save(tmp_path / "i", json)), loaded(golden.save(tmp_path / "o"))
    assert (inner.layout, inner.config) == ("timm-eva", outer.config)


def test_two_final_norms_are_refused(dino: Golden, tmp_path: Path) -> None:
    args = {"use_fc_norm": True, "use_post_transformer_norm": True}
    folder = dino.save(tmp_path / "m", with_args(dino, **args))
    assert "a norm before pooling and one after it" in refusal(folder)


def test_arguments_override_the_architecture(dino: Golden, tmp_path: Path) -> None:
    args = {"rope_type": "cat", "rope_grid_offset": 2, "rope_temperature": 50}
    args |= {"ref_feat_shape": [3, 4], "rope_grid_indexing": "xy", "global_pool": "avg"}
    config = loaded(dino.save(tmp_path / "m", with_args(dino, **args))).config
    assert isinstance(config, ViTConfig) and config.rope is not None
    rope = config.rope
    assert (rope.coordinates, rope.offset, rope.theta) == ("index", 2, 50)
    assert (rope.reference, rope.columns_first, rope.halves) == ((3, 4), True, True)
    assert config.pool == "mean", "it is not a DINOv3"


@pytest.mark.parametrize("args", [{}, {"global_pool": "avg"}, {"global_pool": "token"}])
def test_every_dinov3_is_pooled_by_its_class_token(
    args: dict[str, Any], dino: Golden, tmp_path: Path
) -> None:
    """timm writes its own default, the mean, into the arguments, too."""
    model = loaded(dino.save(tmp_path / "m", with_args(dino, **args)))
    assert model.config.pool == "cls"
    is_noted = any("--pool mean" in note for note in model.notes)
    assert is_noted == (args.get("global_pool") != "token")


def test_a_perception_encoder_keeps_its_grid(tmp_path: Path) -> None:
    folder = Golden.read("pe_core", EVA).save(tmp_path / "m")
    with pytest.raises(UsageError, match="positions for images of 48x64 alone"):
        loaded(folder, image_size=(64, 64))


@pytest.mark.parametrize("name", ["eva02_clip", "rope_mixed"])
def test_each_parameter_has_its_layer(name: str, tmp_path: Path) -> None:
    """For the decay of learning rates: rotations before the blocks, biases of q and v in theirs."""
    network = loaded(Golden.read(name, EVA).save(tmp_path / "m")).network
    layers = {parameter: network.layer_of(parameter) for parameter in network.state_dict()}
    for parameter, layer in layers.items():
        block = parameter.split(".")[1] if parameter.startswith("blocks.") else None
        is_after = parameter.split(".")[0] in ("norm", "head", "proj")
        assert layer == (int(block) + 1 if block else 4 * is_after), parameter
    assert "blocks.0.attn.q_bias" in layers or "rope.freqs" in layers


@torch.inference_mode()
def test_rounded_periods_are_told_and_measured(dino: Golden, tmp_path: Path) -> None:
    """Meta's DINOv3 has its periods in bf16, timm computes them."""
    model = loaded(dino.save(tmp_path / "m"))
    config = model.config
    assert isinstance(config, ViTConfig) and config.rope is not None
    exact = [100 ** (i / 4) for i in range(4)]
    for factor, obstacle in ((1 + 2**-9, ""), (1.1, "rotary periods that are not those of theta")):
        rope = replace(config.rope, periods=tuple(p * factor for p in exact))
        network = VisionTransformer(replace(config, rope=rope)).eval()
        network.load_state_dict(model.network.state_dict())
        rounded = replace(model, source=network)
        (tmp_path / obstacle).mkdir(exist_ok=True)
        if obstacle:
            with pytest.raises(CheckpointError, match=obstacle):
                write_timm(rounded, tmp_path / obstacle, "fp32")
        else:
            notes = write_timm(rounded, tmp_path, "fp32").notes
            assert any("rotary periods exactly" in note for note in notes)
            assert 1e-5 < max(compare(rounded, loaded(tmp_path)).values()) < 0.1


def test_what_is_written_for_timm_is_verified(dino: Golden, tmp_path: Path) -> None:
    source = dino.save(tmp_path / "m")
    job = ConvertJob(source=str(source), target=tmp_path / "timm", to="timm", verify=True)
    assert convert(job).written == "timm-eva"


def test_a_head_as_wide_as_a_clip_is_a_classifier_where_the_config_says_so(tmp_path: Path) -> None:
    clip = Golden.read("eva02_clip", EVA)
    model = loaded(clip.save(tmp_path / "clip"))
    assert (model.config.projection, model.config.num_classes) == (512, 0)
    assert any("label_names in config.json" in note for note in model.notes)
    names = {"label_names": [f"class {number}" for number in range(512)]}
    base = "eva02_base_patch14_224"
    pretrained = {"pretrained_cfg": {**clip.json["pretrained_cfg"], "num_classes": 1000}}
    large = "eva02_large_patch14_clip_224"  # its projection has a width of 768
    token = {"model_args": {**clip.json["model_args"], "scale_attn_inner": True}}
    token["model_args"] |= {"global_pool": "token"}
    for number, changes in enumerate((names, {"architecture": base, **token}, pretrained)):
        other = loaded(clip.save(tmp_path / str(number), {**clip.json, **changes}))
        assert (other.config.projection, other.config.num_classes) == (0, 512), changes
    other = loaded(clip.save(tmp_path / "large", {**clip.json, "architecture": large}))
    assert other.config.num_classes == 512
    write_timm(other, tmp_path / "large", "fp32")
    again = loaded(tmp_path / "large")
    assert (again.config.num_classes, again.labels) == (512, other.labels)
    bare = tmp_path / "clip" / "model.safetensors"
    (tmp_path / "clip" / "config.json").unlink()
    assert "or a classifier of 512 classes" in refusal(bare)
