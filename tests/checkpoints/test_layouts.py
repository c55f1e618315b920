"""Whose names are these? Families recognised, and what their configs say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.files import copied, edit_json, loaded, read_state, refusal
from tests.fixtures.tiny import FAMILIES
from tests.models.goldens import NAMES, Golden
from vitcli.checkpoints.detect import claims as claims_of
from vitcli.checkpoints.detect import layout_of
from vitcli.checkpoints.layouts import LAYOUTS
from vitcli.checkpoints.layouts import timm as timm_layout
from vitcli.checkpoints.layouts.layout import RARE
from vitcli.checkpoints.load import load
from vitcli.errors import CheckpointError
from vitcli.models.block_config import Rope
from vitcli.models.config import ViTConfig

TinyModel = Callable[[str], Path]


def claims(state: dict[str, torch.Tensor]) -> list[str]:
    return [layout.name for layout in claims_of(state)]


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_one_layout_claims_a_family_of_transformers(
    family: str, tiny_model: TinyModel
) -> None:
    named = (f"hf-{name}" for name in ("dinov2", "dinov3") if family.startswith(name))
    expected = next(named, "hf-vit")
    assert claims(read_state(tiny_model(family))) == [expected]


@pytest.mark.parametrize("name", NAMES)
def test_exactly_one_layout_claims_a_model_of_timm(name: str) -> None:
    assert claims(Golden.read(name).state) == ["timm"]


# A value of each field of `RARE` that is not the usual one.
ODD: dict[str, Any] = {
    "pos_embed": False,
    "rope": Rope(),
    "rel_bias": "shared",
    "norm": "rms",
    "num_class_tokens": 2,
    "summary": (0,),
    "pos_grid": (9, 9),
    "gate_act": "gelu",
    "pool_heads": 1,
    "pool_hidden_dim": 8,
}


@pytest.mark.parametrize("field", RARE)
def test_a_rare_part_is_an_obstacle_in_words_to_every_layout_that_lacks_it(field: str) -> None:
    config = ViTConfig(
        image_size=(8, 8), patch_size=(4, 4), embed_dim=8, depth=1, num_heads=2, hidden_dim=16
    )
    usual, obstacle = RARE[field]
    odd = {"pos_prefix": 0, "rope": Rope(), "qkv_bias": False, "projection": 8}
    odd[field] = ODD.get(field, not usual)
    odd["num_classes"] = int(field == "cosine_head")
    for layout in LAYOUTS:
        if layout.writer and layout.writer.kind is ViTConfig and field not in layout.writer.rare:
            assert obstacle in layout.writer.obstacles(replace(config, **odd)), layout.name


def test_names_that_no_layout_knows_are_shown() -> None:
    with pytest.raises(CheckpointError, match=r"which start with conv1\.weight"):
        layout_of({"conv1.weight": torch.zeros(1)})


def test_a_layout_can_be_forced_by_name_and_must_exist() -> None:
    assert layout_of({}, "timm").name == "timm"
    with pytest.raises(CheckpointError, match="unknown layout 'caffe'"):
        layout_of({}, "caffe")


def test_the_wrong_layout_is_refused_by_the_names_it_does_not_know(tiny_model: TinyModel) -> None:
    said = refusal(tiny_model("vit"), layout="timm")
    assert "of unknown name: classifier.bias" in said


def test_a_tensor_with_and_without_the_prefix_is_refused(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path)
    state = read_state(folder)
    state["layernorm.weight"] = state["vit.layernorm.weight"].clone()
    save_file(state, folder / "model.safetensors")
    assert "layernorm.weight is there twice" in refusal(folder)


# The key contract: what a folder of transformers has inside. A new name would be refused on load.
BLOCK = (
    "attention.attention.{key,query,value}.{bias,weight} attention.output.dense.{bias,weight} "
    "intermediate.dense.{bias,weight} layernorm_{after,before}.{bias,weight} "
    "output.dense.{bias,weight}"
)


def spelled_out(pattern: str) -> set[str]:
    head, brace, rest = pattern.partition("{")
    if not brace:
        return {head}
    choices, _, tail = rest.partition("}")
    return {head + c + end for c in choices.split(",") for end in spelled_out(tail)}


def test_a_vit_on_disk_has_the_names_that_the_hub_has(tiny_model: TinyModel) -> None:
    patterns = [f"vit.encoder.layer.{{0,1,2}}.{part}" for part in BLOCK.split()]
    patterns += ["vit.embeddings.{cls_token,position_embeddings}"]
    patterns += ["vit.embeddings.patch_embeddings.projection.{bias,weight}"]
    patterns += ["{vit.layernorm,classifier}.{bias,weight}"]
    expected = set().union(*map(spelled_out, patterns))
    assert read_state(tiny_model("vit")).keys() == expected


# timm's config.json, in every form that the hub has.


@pytest.fixture
def vit() -> Golden:
    return Golden.read("vit")


def test_the_old_flat_config_reads_as_the_new_one(vit: Golden, tmp_path: Path) -> None:
    flat = vit.json | vit.json["pretrained_cfg"] | {"crop_pct": 0.8, "mean": [0.1, 0.2, 0.3]}
    nested = vit.json | {"pretrained_cfg": {**vit.json["pretrained_cfg"], "crop_pct": 0.8}}
    nested["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    del flat["pretrained_cfg"]
    old = loaded(vit.save(tmp_path / "old", flat))
    new = loaded(vit.save(tmp_path / "new", nested))
    assert old.config == new.config
    assert old.preprocess == new.preprocess
    assert old.preprocess.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("prefix", ["", "timm/", "hf-hub:timm/"])
@pytest.mark.parametrize("tag", ["", ".augreg_in21k_ft_in1k"])
def test_the_architecture_is_read_without_origin_and_tag(prefix: str, tag: str) -> None:
    name = f"{prefix}vit_base_patch16_224{tag}"
    assert timm_layout.architecture({"architecture": name}) == "vit_base_patch16_224"


def read(golden: Golden, config: dict[str, Any], num_heads: int | None = None) -> ViTConfig:
    """The config that the timm layout sees in a golden's tensors and some JSON."""
    state = {n.replace("reg_token", "register_tokens"): t for n, t in golden.state.items()}
    size = {"input_size": [3, *golden.config["img_size"]]}
    return timm_layout.read_config(state, size | config, num_heads)


def test_model_args_say_what_the_name_does_not(vit: Golden) -> None:
    args = {"img_size": [32, 96], "num_heads": 4, "act_layer": "quick_gelu", "global_pool": "avg"}
    config = read(vit, {"architecture": "vit_tiny_patch16_224", "model_args": args})
    assert config.image_size == (32, 96)
    assert config.num_heads == 4
    assert config.act == "quick_gelu"
    assert config.pool == "mean"


@pytest.mark.parametrize(
    ("golden", "said", "pool"),
    [
        ("vit", None, "cls"),
        ("vit", "token", "cls"),
        ("vit", "avg", "mean"),
        ("vit_avg", None, "mean"),
        ("siglip_gap", None, "mean"),
        ("siglip_map", None, "map"),
    ],
)
def test_global_pool_is_what_the_config_says_or_the_tensors_show(
    golden: str, said: str | None, pool: str
) -> None:
    json = {"model_args": {"num_heads": 2}} | ({"global_pool": said} if said else {})
    assert read(Golden.read(golden), json).pool == pool


def test_an_unknown_global_pool_is_refused(vit: Golden) -> None:
    with pytest.raises(CheckpointError, match="global_pool='max' is not supported"):
        read(vit, {"model_args": {"num_heads": 2}, "global_pool": "max"})


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads"),
    [
        ("", 192, 12, 3),
        ("", 768, 12, 12),
        ("", 1280, 32, 16),
        ("", 1536, 40, 24),
        ("vit_base_patch16_gap_224", 768, 12, 16),
        ("vit_giantopt_patch16_siglip_256", 1536, 40, 16),
    ],
)
def test_heads_are_known_by_width_depth_and_name(
    name: str, width: int, depth: int, heads: int
) -> None:
    assert timm_layout._heads(name, width, depth) == heads


def test_an_unknown_pair_of_width_and_depth_asks_for_the_heads(vit: Golden) -> None:
    with pytest.raises(CheckpointError, match="width 24 and 3 blocks") as caught:
        read(vit, {})
    assert caught.value.hint == "give it with --num-heads"
    assert read(vit, {}, num_heads=2).num_heads == 2


# Bare files, and folders that miss something.


def test_a_bare_file_of_timm_needs_no_config(vit: Golden, tmp_path: Path) -> None:
    state = {**vit.state, "pos_embed": torch.zeros(1, 1 + 9, 24)}  # a square grid of 3x3
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    model = load(str(path), num_heads=2)
    assert model.config.image_size == (48, 48)
    assert model.labels[:2] == ("LABEL_0", "LABEL_1")
    assert any("no preprocessing" in note for note in model.notes)


def test_a_bare_grid_that_is_not_square_is_refused(vit: Golden, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(vit.state, path)
    assert "of 12 patches is not square" in refusal(path, num_heads=2)


def test_a_bare_file_takes_the_config_beside_it_where_no_other_file_can_be_meant(
    vit: Golden, tmp_path: Path
) -> None:
    folder = vit.save(tmp_path)
    model = load(str(folder / "model.safetensors"))
    assert model.config.image_size == (64, 48)
    assert "config.json next to model.safetensors is used" in model.notes
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    (folder / "model.bin").touch()
    assert "its image size is not in the file" in refusal(folder / "mine.safetensors")


def test_a_folder_of_transformers_without_config_is_refused(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path)
    (folder / "config.json").unlink()
    assert "has no config.json, and hf-vit tensors do not show all sizes" in refusal(folder)


def test_keys_that_a_config_leaves_out_are_transformers_defaults(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path / "vit")
    edit_json(folder / "config.json", layer_norm_eps=..., hidden_act=..., qkv_bias=...)
    assert loaded(folder).config.norm_eps == 1e-12
    folder = copied(tiny_model("dinov2"), tmp_path / "dinov2")
    edit_json(folder / "config.json", layer_norm_eps=..., mlp_ratio=..., qkv_bias=...)
    assert loaded(folder).config.norm_eps == 1e-6
