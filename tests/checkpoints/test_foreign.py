"""Models that no layout reads are refused for what they are, by name before by tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.files import copied, edit_json, loaded, refusal
from tests.fixtures.meta import extra
from tests.models.goldens import Golden
from vitcli.checkpoints.detect import check_named, check_tensors, is_architecture
from vitcli.checkpoints.load import load
from vitcli.errors import CheckpointError


@pytest.fixture(scope="module")
def vit() -> Golden:
    return Golden.read("vit")


# Their tensors can be those of a plain ViT.
NAMED = {
    "vit_pe_video_tiny_patch16_384.fb": "a Perception Encoder",
    "vit_base_patch16_rope_other_224.naver_in1k": "rotary positions (RoPE-ViT)",
    "vit_base_patch32_dinov3.lvd1689m": "a DINOv3",
    "eva03_base_patch14_224": "an EVA",
    "eva02_enormous_patch14_clip_224.laion2b": "norms come after",
    "vit_base_patch16_sapiens2": "a Sapiens2",
    "beit3_base_itc_patch16_224": "a BEiT-3",
    "vit_base_patch16_rpn_224": "norms come after",
    "vit_relpos_base_patch16_224": "relative positions",
    "samvit_base_patch16": "a SAM",
    "vit_base_patch16_18x2_224": "parallel",
    "vit_base_patch16_radio_of_tomorrow": "a RADIO",
    "naflexvit_base_patch16_radio_v3": "NaFlex",
    "naflexvit_base_patch16_siglip": "NaFlex",
    "hiera_base_224": "a Hiera",
    "cait_s24_224": "a CaiT",
    "vit_base_r50_s16_224": "a hybrid",
    "convnext_base": "a ConvNeXt",
    "resnet50": "a ResNet",
    "a_model_of_tomorrow": "which no layout knows",
}


@pytest.mark.parametrize("name", NAMED)
def test_timms_name_decides_before_the_tensors(name: str, vit: Golden, tmp_path: Path) -> None:
    folder = vit.save(tmp_path / "m", vit.json | {"architecture": name})
    assert NAMED[name] in refusal(folder)


def test_the_name_in_timms_inner_config_decides_too(vit: Golden, tmp_path: Path) -> None:
    inner = vit.json["pretrained_cfg"] | {"architecture": "vit_pe_video_tiny_patch16_384.fb"}
    json = {k: v for k, v in vit.json.items() if k != "architecture"} | {"pretrained_cfg": inner}
    assert "a Perception Encoder" in refusal(vit.save(tmp_path / "m", json))


TYPES = {
    "dinov3_vit": "the config and the weights belong to different models",
    "dinov3_convnext": "a ConvNeXt of DINOv3's",
    "sapiens2": "a Sapiens2",
    "ijepa": "has no place in the model",
    "radio": "the config and the weights belong to different models",
    "beit": "the config and the weights belong to different models",
    "data2vec-vision": "the config and the weights belong to different models",
    "perception_encoder": "a Perception Encoder",
    "vjepa2": "a V-JEPA",
    "sam_vision_model": "a SAM",
    "siglip2_vision_model": "the config and the weights belong to different models",
    "tipsv2": "the config and the weights belong to different models",
    "vit-hybrid": "a hybrid",
    "my_vit": "model_type is my_vit, which no layout knows",
    "dinov2": "the config and the weights belong to different models",
}


@pytest.mark.parametrize("kind", TYPES)
def test_the_model_type_decides_before_the_tensors(
    kind: str, tiny_model: Any, tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path / "m")
    edit_json(folder / "config.json", model_type=kind)
    assert TYPES[kind] in refusal(folder)


def test_a_class_of_ones_own_and_any_tag_load(vit: Golden, tiny_model: Any, tmp_path: Path) -> None:
    folder = copied(tiny_model("vit"), tmp_path / "hf")
    edit_json(folder / "config.json", architectures=["MyOwnClassifier"])
    assert loaded(folder).layout == "hf-vit"
    edit_json(folder / "config.json", model_type="my_vit")
    assert loaded(folder, layout="hf-vit").layout == "hf-vit"
    name = f"hf-hub:timm/{vit.config['architecture']}.my_own_tag"
    assert loaded(vit.save(tmp_path / "timm", vit.json | {"architecture": name})).layout == "timm"


@pytest.mark.parametrize("argument", ["qk_norm", "pool_include_prefix", "pos_embed"])
def test_an_argument_of_timms_that_changes_the_numbers_is_refused(
    argument: str, vit: Golden, tmp_path: Path
) -> None:
    value = {"pos_embed": "rope"}.get(argument, True)
    json = vit.json | {"model_args": vit.json["model_args"] | {argument: value}}
    assert f"timm's {argument}=" in refusal(vit.save(tmp_path / "m", json))


def test_tensors_of_other_families_are_told() -> None:
    for names, said in {
        "storage_tokens blocks.0.attn.wq.weight": "a Sapiens2",
        "rope_embed.periods cls_norm.weight": "norms of their own",
        "stages.0.layers.0.depthwise_conv.weight": "a ConvNeXt",
        "attn_pool.latent norm_pre.weight": "a Perception Encoder",
        "visual.blocks.0.norm1.weight visual.blocks.0.attn.qkv.weight": "an EVA-CLIP of 8 or 18",
        "beit3.encoder.layers.0.ffn.A.fc1.weight": "a BEiT-3 of images and texts",
        "radio_model.model.levels.0.blocks.0.conv1.weight": "an E-RADIO",
        "base_model.patch_generator.embedder.weight": "NVIDIA's RADIO, without the config",
        "patch_embed.proj.weight blocks.0.attn.qkv.weight": "without a final norm",
        "module.base_encoder.cls_token": "MoCo v3",
        "blocks_token_only.0.gamma_1": "a CaiT",
        "stages.0.blocks.0.attn.meta_mlp.fc1.weight": "timm's own variant of Swin V2",
        "features.0.0.weight features.1.0.attn.relative_position_index": "torchvision's names",
        "layer1.0.conv1.weight": "a ResNet",
        "stages.0.blocks.0.conv_dw.weight": "a ConvNeXt",
    }.items():
        with pytest.raises(CheckpointError, match=said):
            check_tensors(dict.fromkeys(names.split(), torch.zeros(1)))


def test_a_bare_file_that_may_be_a_rope_vit_is_not_guessed(tmp_path: Path) -> None:
    state = Golden.read("bare_deit3").state
    state = {n.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t
             for n, t in state.items()}  # fmt: skip
    save_file(state, tmp_path / "model.safetensors")
    assert "may be a DeiT-III or a RoPE-ViT" in refusal(tmp_path / "model.safetensors", num_heads=2)
    torch.save({"model": state}, tmp_path / "deit_3_small.pth")
    assert load(str(tmp_path / "deit_3_small.pth"), num_heads=2).layout == "deit"
    for name in ("rope_ape_small.pth", "vit-pe-tiny.pth", "PECore-B16.pth"):
        torch.save({"model": state}, tmp_path / name)
        assert "may have rotary positions" in refusal(tmp_path / name, num_heads=2)


def test_a_bare_perception_encoder_is_told(vit: Golden, tmp_path: Path) -> None:
    state = {n: t for n, t in vit.state.items() if n != "patch_embed.proj.bias"}
    state |= extra(attn_pool__latent=(1, 1, 24), norm_pre__weight=(24,))
    save_file(state, tmp_path / "model.safetensors")
    assert "a Perception Encoder" in refusal(tmp_path / "model.safetensors", num_heads=2)


def test_names_of_the_published_models_are_known() -> None:
    for name in [
        "vit_base_patch16_clip_quickgelu_224",
        "vit_so400m_patch14_siglip_gap_378",
        "swin_s3_tiny_224",
        "vit_small_patch16_36x1_224",
        "vit_base_patch14_reg4_dinov2",
        "vit_so150m2_patch16_reg1_gap_256",
        "vit_base_patch16_224_in21k",
        "deit3_base_patch16_224_in21ft1k",
        "deit_tiny_patch16_224",
        "swin_base_patch4_window12_384_in22k",
        "swinv2_large_window12to24_192to384_22kft1k",
        "vit_large_patch14_224_clip_laion2b",
        "flexivit_small",
        "vit_base_patch14_reg1_tipsv2",
        "deit_base_distilled_patch16_384",
        "eva_large_patch14_336",
        "beit3_giant_patch14_336",
    ]:
        assert is_architecture(name), name
        assert check_named({"architecture": name})
