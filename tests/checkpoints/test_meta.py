"""DINO, DeiT, MAE and DINOv2 as their repositories publish them: recognised, read, and the same
numbers as timm's, whose models they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.conftest import Vit
from tests.fixtures.golden import Golden, golden, largest_error
from tests.fixtures.meta import (
    FILES,
    Make,
    deit,
    deit3,
    dino_training,
    dinov2,
    extra,
    mae_finetuned,
    mae_visualize,
)
from tests.fixtures.photos import Corpus
from vitcli.checkpoints.load import Model, load
from vitcli.errors import CheckpointError

EXACT = 1e-5


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
    with pytest.raises(CheckpointError, match="give it with --num-heads"):
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
        "pos_embed is missing",
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
    with pytest.raises(CheckpointError, match="a block of the same number"):
        load_made(state, expected, tmp_path, layout="dinov2")


def test_the_command_reads_a_bare_file(vit: Vit, tmp_path: Path, photos: Corpus) -> None:
    torch.save(dino_training(golden("bare_vit").state), tmp_path / "dino.pth")
    options = ("-m", "dino.pth", "--num-heads", "4", "--layout", "dino", "-o", "feats.npy")
    ended = vit("embed", photos.good[0], *options)
    assert ended.code == 0, ended.err
    assert "took 'teacher' of 'student', 'teacher'" in ended.err
    assert np.load(tmp_path / "feats.npy").shape == (1, 32)
