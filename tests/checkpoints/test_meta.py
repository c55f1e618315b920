"""DINO, DeiT, MAE and DINOv2 as their repositories publish them: recognised, read, and the same
numbers as timm's, whose models they are."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.conftest import Vit
from tests.fixtures.golden import Golden, golden, largest_error
from tests.fixtures.photos import Corpus
from tests.fixtures.weights import weight
from vitcli.checkpoints.load import Model, load
from vitcli.errors import CheckpointError

State = dict[str, Tensor]
EXACT = 1e-5


def extra(**shapes: tuple[int, ...]) -> State:
    """Tensors beside the backbone; `__` stands for a dot."""
    names = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return {name: torch.from_numpy(weight(name, shape)) for name, shape in names.items()}


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state: State) -> State:
    """The same names, other numbers: what must not be taken."""
    return {name: tensor + 1 for name, tensor in state.items()}


DINO_HEAD = extra(
    head__mlp__0__weight=(64, 32),
    head__mlp__0__bias=(64,),
    head__mlp__2__weight=(8, 64),
    head__mlp__2__bias=(8,),
    head__last_layer__weight_g=(16, 1),
    head__last_layer__weight_v=(16, 8),
)
MAE_DECODER = extra(
    mask_token=(1, 1, 16),
    decoder_embed__weight=(16, 32),
    decoder_embed__bias=(16,),
    decoder_pos_embed=(1, 17, 16),
    decoder_blocks__0__norm1__weight=(16,),
    decoder_blocks__0__attn__qkv__weight=(48, 16),
    decoder_norm__weight=(16,),
    decoder_pred__weight=(768, 16),
)


def dino_training(state: State) -> dict[str, Any]:
    """`main_dino.py`: both networks, the optimizer, and the options."""
    network = {**under("backbone.", state), **DINO_HEAD}
    return {
        "student": under("module.", other(network)),
        "teacher": network,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16, output_dir="."),
        "dino_loss": {"center": torch.zeros(1, 16)},
    }


def old_dino_training(state: State) -> dict[str, Any]:
    """A teacher of the first version: nothing before its names."""
    return {"student": under("module.", other(state)), "teacher": {**state, **DINO_HEAD}}


def deit(state: State) -> dict[str, Any]:
    return {"model": state}


def deit3(state: State) -> dict[str, Any]:
    return {"model": {re.sub(r"ls(\d)\.gamma", r"gamma_\1", n): t for n, t in state.items()}}


def mae_visualize(state: State) -> dict[str, Any]:
    return {"model": {**state, **MAE_DECODER}}


def mae_finetuned(state: State) -> dict[str, Any]:
    args = argparse.Namespace(global_pool=True, nb_classes=7)
    return {"model": state, "optimizer": {"state": {}}, "epoch": 99, "scaler": {}, "args": args}


def dinov2(state: State) -> State:
    """Names as in `dinov2/models/vision_transformer.py`. timm adds the class token's position to
    the token where there are registers; here it is taken out again."""
    state = {n.replace("reg_token", "register_tokens"): t for n, t in state.items()}
    if "register_tokens" in state:
        place = extra(place=(1, 1, 32))["place"]
        state["cls_token"] = state["cls_token"] - place
        state["pos_embed"] = torch.cat([place, state["pos_embed"]], dim=1)
    return {**state, **extra(mask_token=(1, 32))}


def dinov2_swiglu(state: State) -> State:
    named = {
        n.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): t for n, t in state.items()
    }
    return dinov2(named)


def dinov2_training(state: State) -> dict[str, Any]:
    """Both networks in one state dict, blocks in chunks, heads and losses beside them."""
    chunked = {re.sub(r"^blocks\.", "blocks.0.", n): t for n, t in dinov2(state).items()}
    chunked = {n.replace("blocks.0.1.", "blocks.1.1."): t for n, t in chunked.items()}
    heads = extra(dino_head__mlp__0__weight=(8, 32), ibot_head__last_layer__weight_v=(8, 8))
    networks = {**under("backbone.", chunked), **heads}
    losses = extra(dino_loss__center=(1, 8), ibot_patch_loss__center=(1, 1, 8))
    model = {**under("student.", other(networks)), **under("teacher.", networks), **losses}
    return {"model": model, "iteration": 12}


def dinov2_teacher(state: State) -> dict[str, Any]:
    return {"teacher": under("backbone.", dinov2(state))}


Make = Callable[[State], Any]

# golden, how its file is made, the layout that must claim it, what is said about it
FILES: tuple[tuple[str, Make, str, str], ...] = (
    ("bare_vit", dino_training, "dino", "took 'teacher' of 'student', 'teacher'"),
    ("bare_vit", old_dino_training, "dino", "took 'teacher' of 'student', 'teacher'"),
    ("bare_vit", dict, "timm", "--layout dino, deit or mae says so"),
    ("bare_head", deit, "timm", "--layout dino, deit or mae says so"),
    ("bare_distilled", deit, "timm", "--layout dino, deit or mae says so"),
    ("bare_deit3", deit3, "deit", "deit's own evaluation is taken"),
    ("bare_vit", deit, "timm", "--layout dino, deit or mae says so"),  # MAE, pre-trained
    ("bare_vit", mae_visualize, "mae", "only reconstruction uses it"),
    ("bare_avg", mae_finetuned, "timm", "--layout dino, deit or mae says so"),
    ("bare_dinov2", dinov2, "dinov2", "dinov2's own evaluation is taken"),
    ("bare_reg4", dinov2, "dinov2", "dinov2's own evaluation is taken"),
    ("bare_swiglu", dinov2_swiglu, "dinov2", "dinov2's own evaluation is taken"),
    ("bare_dinov2", dinov2_training, "dinov2", "the student: the teacher is taken"),
    ("bare_dinov2", dinov2_teacher, "dinov2", "dinov2's own evaluation is taken"),
)


def load_made(made: Any, expected: Golden, folder: Path, **options: Any) -> Model:
    file = folder / "model.pth"
    torch.save(made, file)
    options = {"image_size": expected.image_size, "num_heads": expected.num_heads, **options}
    return load(str(file), **options)


@pytest.mark.parametrize(("name", "make", "layout", "said"), FILES)
def test_a_file_is_recognised_and_gives_the_numbers_of_timm(
    name: str, make: Make, layout: str, said: str, tmp_path: Path
) -> None:
    expected = golden(name)
    model = load_made(make(expected.state), expected, tmp_path)
    assert model.layout == layout
    assert any(said in note for note in model.notes), model.notes
    assert model.config.norm_eps == 1e-6
    assert largest_error(model.network, expected) < EXACT


FORCED = (
    ("bare_vit", dict, "dino", "bicubic-offset"),
    ("bare_head", deit, "deit", "bicubic"),
    ("bare_distilled", deit, "deit", "bicubic"),
    ("bare_vit", deit, "mae", "bicubic"),
    ("bare_avg", mae_finetuned, "mae", "bicubic"),
    ("bare_vit", dict, "timm", "bicubic-antialias"),
    ("bare_dinov2", dict, "dinov2", "bicubic-offset"),  # without its mask token
    ("bare_reg4", dinov2, "dinov2", "bicubic-antialias"),
)


@pytest.mark.parametrize(("name", "make", "layout", "resize"), FORCED)
def test_a_layout_can_be_asked_for(
    name: str, make: Make, layout: str, resize: str, tmp_path: Path
) -> None:
    expected = golden(name)
    model = load_made(make(expected.state), expected, tmp_path, layout=layout)
    assert (model.layout, model.config.pos_resize) == (layout, resize)
    assert largest_error(model.network, expected) < EXACT


def test_positions_are_resampled_as_dino_does(tmp_path: Path) -> None:
    """By a scale factor with 0.1 added, height first: `interpolate_pos_encoding`."""
    expected = golden("bare_vit")
    made = dino_training(expected.state)
    model = load_made(made, expected, tmp_path, image_size=(96, 128))
    grid = expected.state["pos_embed"][:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(6.1 / 4, 8.1 / 4), mode="bicubic")
    assert grid.shape[2:] == (6, 8)
    pos = torch.cat(
        [expected.state["pos_embed"][:, :1], grid.permute(0, 2, 3, 1).reshape(1, 48, 32)], dim=1
    )
    assert torch.equal(model.network.pos_embed, pos)


PLANS = (
    ("bare_vit", dino_training, "resize(shortest 73, bicubic) | center_crop(64x64)"),
    ("bare_deit3", deit3, "resize(shortest 73, bicubic) | center_crop(64x64)"),
    ("bare_vit", mae_visualize, "resize(shortest 73, bicubic) | center_crop(64x64)"),
    ("bare_dinov2", dinov2, "resize(shortest 256, bicubic) | center_crop(224x224)"),
)


@pytest.mark.parametrize(("name", "make", "steps"), PLANS)
def test_a_bare_file_takes_the_evaluation_of_its_repository(
    name: str, make: Make, steps: str, tmp_path: Path
) -> None:
    expected = golden(name)
    model = load_made(make(expected.state), expected, tmp_path, image_size=None)
    said = f"{steps} | normalize(mean=0.485/0.456/0.406, std=0.229/0.224/0.225)"
    assert model.preprocess.describe().endswith(said)
    assert any(note.endswith(said) for note in model.notes)
    assert model.config.image_size == model.preprocess.size


def test_heads_are_asked_for_where_no_published_model_has_the_size(tmp_path: Path) -> None:
    expected = golden("bare_vit")
    with pytest.raises(CheckpointError, match="say it with --num-heads"):
        load_made(dino_training(expected.state), expected, tmp_path, num_heads=None)


def test_a_bare_head_of_1000_is_taken_for_imagenet(tmp_path: Path) -> None:
    expected = golden("bare_head")
    head = extra(head__weight=(1000, 32), head__bias=(1000,))
    model = load_made(deit({**expected.state, **head}), expected, tmp_path)
    assert model.labels[0] == "tench, Tinca tinca"
    assert any("ImageNet-1k" in note for note in model.notes)


REFUSED: tuple[tuple[Any, str], ...] = (
    (
        {
            "epoch": 1,
            "state_dict": extra(module__linear__weight=(9, 128), module__linear__bias=(9,)),
        },
        r"a linear classifier alone.*module\.linear\.weight \[9, 128\]",
    ),
    (extra(weight=(1000, 64), bias=(1000,)), r"DINOv2's linear heads \(weight \[1000, 64\]\)"),
    (
        {"model": {**golden("bare_vit").state, **extra(head__0__running_mean=(32,))}},
        "MAE's linear probe",
    ),
    (
        {"model": extra(blocks__0__norm1__weight=(8,), patch_embed__proj__weight=(8, 3, 4, 4))},
        "no known layout",
    ),
)


@pytest.mark.parametrize(("made", "said"), REFUSED)
def test_what_is_no_backbone_is_refused_by_name(made: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        load_made(made, golden("bare_vit"), tmp_path)


def test_chunks_that_count_their_blocks_anew_are_refused(tmp_path: Path) -> None:
    expected = golden("bare_dinov2")
    state = {n.replace("blocks.1.", "blocks.1.0."): t for n, t in dinov2(expected.state).items()}
    state = {re.sub(r"^blocks\.0\.(?=\D)", "blocks.0.0.", n): t for n, t in state.items()}
    with pytest.raises(CheckpointError, match="a block of one number"):
        load_made(state, expected, tmp_path, layout="dinov2")


def test_the_command_reads_a_bare_file(vit: Vit, tmp_path: Path, photos: Corpus) -> None:
    torch.save(dino_training(golden("bare_vit").state), tmp_path / "dino.pth")
    options = ("-m", "dino.pth", "--num-heads", "4", "--layout", "dino", "-o", "feats.npy")
    ended = vit("embed", photos.good[0], *options)
    assert ended.code == 0, ended.err
    assert "took 'teacher' of 'student', 'teacher'" in ended.err
    assert np.load(tmp_path / "feats.npy").shape == (1, 32)
