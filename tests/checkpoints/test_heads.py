"""DINO's and DINOv2's linear classifiers with their backbones: the numbers of their own code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.conftest import Vit
from tests.fixtures.golden import golden
from tests.fixtures.meta import dino_training, dinov2, extra
from tests.fixtures.photos import Corpus
from tests.fixtures.tiny import tiny_hf
from vitcli.checkpoints.load import Model, load
from vitcli.errors import CheckpointError, UsageError

CLASSES = 9


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """DINO's ViT with two blocks of width 32."""
    torch.save(dino_training(golden("bare_vit").state), tmp_path / "dino.pth")
    return tmp_path / "dino.pth"


def dino_head(folder: Path, width: int, classes: int = CLASSES) -> Path:
    """`linearweights.pth`, as `eval_linear.py` saves it."""
    linear = extra(module__linear__weight=(classes, width), module__linear__bias=(classes,))
    torch.save({"epoch": 100, "state_dict": linear, "best_acc": 0.7}, folder / "linear.pth")
    return folder / "linear.pth"


def loaded(backbone: Path, head: Path) -> Model:
    return load(str(backbone), head=head, image_size=(64, 64), num_heads=4)


def last_layers(model: Model, n: int) -> list[Tensor]:
    """DINO's `get_intermediate_layers`: the normed outputs of the last n blocks."""
    depth = model.config.depth
    x = golden("bare_vit").pixels
    states = model.network.hidden_states(x, range(depth - n + 1, depth + 1))
    return [model.network.norm(tokens.x) for tokens in states.values()]


@pytest.mark.parametrize(("width", "n", "avgpool"), [(32, 1, False), (64, 1, True)])
@torch.inference_mode()
def test_logits_are_those_of_dinos_evaluation(
    width: int, n: int, avgpool: bool, backbone: Path
) -> None:
    head = dino_head(backbone.parent, width)
    model = loaded(backbone, head)
    linear = torch.load(head, weights_only=True)["state_dict"]
    layers = last_layers(model, n)
    x = torch.cat([layer[:, 0] for layer in layers], dim=-1)
    if avgpool:  # one number of the token, one of the mean, and so on: eval_linear.py
        x = torch.stack([x, layers[-1][:, 1:].mean(dim=1)], dim=-1).reshape(len(x), -1)
    expected = F.linear(x, linear["module.linear.weight"], linear["module.linear.bias"])
    found = model.network(golden("bare_vit").pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert any("is taken to read the class token" in note for note in model.notes)
    assert model.labels[-1] == f"LABEL_{CLASSES - 1}"


@torch.inference_mode()
def test_a_wide_head_reads_the_class_tokens_of_as_many_blocks(tmp_path: Path) -> None:
    """n=3 of 3 blocks, of a DINO that transformers saved."""
    theirs = tiny_hf("vit-backbone", tmp_path / "dino")
    head = dino_head(tmp_path, 96)
    model = load(str(tmp_path / "dino"), head=head)
    assert model.config.head_blocks == 3
    x = torch.randn(2, 3, 64, 64)
    states = theirs(x, output_hidden_states=True).hidden_states[1:]
    tokens = torch.cat([theirs.layernorm(state)[:, 0] for state in states], dim=-1)
    linear = torch.load(head, weights_only=True)["state_dict"]
    expected = F.linear(tokens, linear["module.linear.weight"], linear["module.linear.bias"])
    torch.testing.assert_close(model.network(x), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_head_of_dinov2_reads_token_and_mean_one_behind_the_other(tmp_path: Path) -> None:
    expected = golden("bare_reg4")
    torch.save(dinov2(expected.state), tmp_path / "dinov2.pth")
    linear = extra(weight=(CLASSES, 64), bias=(CLASSES,))
    torch.save(linear, tmp_path / "head.pth")
    model = load(
        str(tmp_path / "dinov2.pth"),
        head=tmp_path / "head.pth",
        image_size=expected.image_size,
        num_heads=4,
    )
    x = model.network.tokens(expected.pixels)
    pooled = torch.cat([x.x[:, 0], x.patches.mean(dim=1)], dim=-1)
    logits = F.linear(pooled, linear["weight"], linear["bias"])
    torch.testing.assert_close(model.network(expected.pixels), logits, atol=1e-5, rtol=0)


def test_the_hash_covers_backbone_and_head(backbone: Path) -> None:
    head = dino_head(backbone.parent, 32)
    both = hashlib.sha256(backbone.read_bytes() + head.read_bytes()).hexdigest()
    assert loaded(backbone, head).sha256 == both


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (31, r"reads 31 numbers, and the class token of a block has 32"),
        (128, r"reads 128 numbers"),  # four blocks of two
        (0, r"reads 0 numbers"),
    ],
)
def test_a_head_of_another_backbone_is_refused(width: int, said: str, backbone: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        loaded(backbone, dino_head(backbone.parent, width))


def test_what_is_no_head_and_what_needs_none_is_refused(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a linear classifier alone"):
        loaded(backbone, backbone)
    tiny_hf("vit", tmp_path / "vit")
    with pytest.raises(CheckpointError, match="this model has a head of its own"):
        load(str(tmp_path / "vit"), head=dino_head(tmp_path, 32))
    with pytest.raises(CheckpointError, match="this one with --head"):
        load(str(dino_head(tmp_path, 32)))


def test_the_commands_take_a_head(vit: Vit, tmp_path: Path, photos: Corpus, backbone: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {i}" for i in range(CLASSES)))
    head = dino_head(tmp_path, 32)
    options = ("--num-heads", "4", "--head", head, "--labels", names)
    ended = vit("classify", photos.good[0], "-m", backbone, *options, "-k", "1")
    assert ended.code == 0, ended.err
    [label] = [p["label"] for p in json.loads(ended.out)["predictions"]]
    assert label.startswith("class ")
    ended = vit("convert", backbone, "out", *options, "--to", "hf", "--verify")
    assert ended.code == 0, ended.err
    assert load(str(tmp_path / "out")).labels == tuple(names.read_text().splitlines())
    ended = vit("convert", backbone, "t", *options[:3], dino_head(tmp_path, 64), "--to", "hf")
    assert ended.code == 1
    assert "cannot express pool=cls+mean" in ended.err


@pytest.mark.parametrize("to", ["hf", "timm"])
def test_a_head_on_several_blocks_fits_no_other_library(to: str, vit: Vit, tmp_path: Path) -> None:
    tiny_hf("vit-backbone", tmp_path / "dino")
    options = ("--head", dino_head(tmp_path, 96), "--to", to)
    ended = vit("convert", tmp_path / "dino", tmp_path / "out", *options)
    assert ended.code == 1
    assert "head_blocks=3" in ended.err or "a classifier on the last 3 blocks" in ended.err
    assert not (tmp_path / "out").exists()


def test_weights_can_be_held_to_their_hash(vit: Vit, tmp_path: Path, backbone: Path) -> None:
    digest = hashlib.sha256(backbone.read_bytes()).hexdigest()
    options = {"image_size": (64, 64), "num_heads": 4}
    assert load(str(backbone), sha256=digest.upper(), **options).sha256 == digest
    with pytest.raises(CheckpointError, match=f"the sha256 is {digest}, expected {'0' * 64}"):
        load(str(backbone), sha256="0" * 64, **options)
    with pytest.raises(UsageError, match="is not a SHA-256"):
        load(str(backbone), sha256="abc", **options)
    assert vit("info", backbone, "--num-heads", "4", "--sha256", digest).code == 0
    assert vit("info", backbone, "--num-heads", "4", "--sha256", "1" * 64).code == 1
