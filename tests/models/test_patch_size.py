"""Patches of another size: timm's numbers, the paper's formula, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.fixtures.swin import tiny_swin
from tests.fixtures.weights import pixels, weight
from tests.models.goldens import FOLDER, Golden
from vitcli.checkpoints.load import load
from vitcli.errors import UsageError
from vitcli.models.config import ViTConfig
from vitcli.models.patch_size import change_patch_size, resample_patch_embed
from vitcli.models.vit import VisionTransformer
from vitcli.records import Size

Models = Callable[[str], Path]
PATCHES = FOLDER.with_name("timm_patches")
MEASURE = "measure its results (vit evaluate)"
CLOSE = {"atol": 1e-5, "rtol": 0.0}


def resized(images: Tensor, size: Size) -> Tensor:
    """(..., H, W) -> (..., *size)"""
    planes = images.reshape(-1, 1, *images.shape[-2:])
    planes = F.interpolate(planes, size=size, mode="bicubic", antialias=True)
    return planes.reshape(*images.shape[:-2], *size)


def cut(images: Tensor, patch: Size) -> Tensor:
    """(B, C, H, W) -> (B, h, w, C, *patch)"""
    return (
        images.unfold(2, patch[0], patch[0]).unfold(3, patch[1], patch[1]).permute(0, 2, 3, 1, 4, 5)
    )


def test_kernels_are_resampled_as_timm_does() -> None:
    golden = Golden.read("kernels", PATCHES)
    for case in golden.config["cases"]:
        shape = (2, case["in_chans"], *case["old"])
        kernel = torch.from_numpy(weight("patch_embed.proj.weight", shape))
        kernel = kernel.to(getattr(torch, case["dtype"]))
        ours = resample_patch_embed(kernel, tuple(case["new"]), case["how"])
        theirs = golden[case["key"]]
        assert ours.dtype == kernel.dtype
        ulp = 0 if kernel.dtype == torch.float32 else torch.finfo(kernel.dtype).eps
        torch.testing.assert_close(ours.float(), theirs, atol=1e-5, rtol=ulp)


@pytest.mark.parametrize(
    ("old", "new"), [((8, 8), (16, 16)), ((8, 8), (5, 5)), ((6, 9), (11, 4)), ((4, 4), (4, 7))]
)
def test_the_formula_of_the_paper(old: Size, new: Size) -> None:
    """w' = pinv(B)^T w, where B resizes patches as vectors."""
    kernel = torch.from_numpy(weight("patch_embed.proj.weight", (5, 2, *old)))
    basis = torch.eye(old[0] * old[1]).reshape(-1, *old)
    B = resized(basis, new).reshape(len(basis), -1).T.double().numpy()
    expected = kernel.reshape(10, -1).double().numpy() @ np.linalg.pinv(B, rcond=1e-6)
    ours = resample_patch_embed(kernel, new).reshape(10, -1).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["flexivit", "clip", "swin"])
@torch.inference_mode()
def test_models_on_other_patches_are_timms(name: str, tmp_path: Path) -> None:
    golden = Golden.read(name, PATCHES)
    size, patch = (tuple(golden.config[key]) for key in ("img_size", "patch_size"))
    model = load(str(golden.save(tmp_path / name)), image_size=size, patch_size=patch)
    assert (model.config.image_size, model.config.patch_size) == (size, patch)
    tokens = model.network.tokens(golden.pixels).x
    torch.testing.assert_close(tokens, golden["features"], **CLOSE)
    torch.testing.assert_close(model.network(golden.pixels), golden["logits"], **CLOSE)


@pytest.mark.parametrize("family", ["vit", "dinov2-reg"])
@torch.inference_mode()
def test_enlarged_patches_give_the_same_numbers(tiny_model: Models, family: str) -> None:
    """An image of which each patch is enlarged, on a model for patches of that size."""
    small = load(str(tiny_model(family)))
    large = load(str(tiny_model(family)), patch_size=(12, 16), image_size=(96, 128))
    images = torch.from_numpy(pixels(2, 64, 64))
    patches = resized(cut(images, (8, 8)), (12, 16))
    enlarged = patches.permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 96, 128)
    assert torch.equal(large.network.pos_embed, small.network.pos_embed)
    torch.testing.assert_close(large.network(enlarged), small.network(images), **CLOSE)


@pytest.mark.parametrize(("size", "grid"), [(None, (16, 10)), ((32, 48), (8, 8))])
@torch.inference_mode()
def test_positions_are_resampled_once(tiny_model: Models, size: Size | None, grid: Size) -> None:
    """At the same image size or another: as for an image that has the new grid in old patches."""
    patched = load(str(tiny_model("vit")), patch_size=(4, 6), image_size=size)
    assert patched.config.grid == grid, "a remainder smaller than a patch is left out"
    plain = load(str(tiny_model("vit")), image_size=(8 * grid[0], 8 * grid[1]))
    assert torch.equal(patched.network.pos_embed, plain.network.pos_embed)
    assert patched.preprocess.size == patched.config.image_size == (size or (64, 64))


@pytest.mark.parametrize("size", [None, (48, 80)])
@torch.inference_mode()
def test_a_swin_of_transformers_on_smaller_patches(size: Size | None, tmp_path: Path) -> None:
    """The same as its original with the kernel exchanged: windows and tables stay."""
    theirs = tiny_swin("SwinForImageClassification", tmp_path)
    model = load(str(tmp_path), patch_size=(2, 3), image_size=size and (48, 81))
    projection = theirs.swin.embeddings.patch_embeddings.projection
    kernel = resample_patch_embed(projection.weight, (2, 3))
    projection.weight = torch.nn.Parameter(kernel)
    projection.kernel_size = projection.stride = (2, 3)
    theirs.swin.embeddings.patch_embeddings.patch_size = (2, 3)
    images = torch.from_numpy(pixels(2, *model.config.image_size))
    logits = theirs(images, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(model.network(images), logits, **CLOSE)


@pytest.mark.parametrize(
    ("name", "tag", "patch", "said"),
    [
        ("flexivit", "1200ep_in1k", (16, 16), None),
        ("flexivit", "1200ep_in1k", (4, 4), "patches of 4x4, but on square ones of 8 to 48"),
        ("flexivit", "1200ep_in1k", (16, 8), "patches of 16x8, but on square ones of 8 to 48"),
        ("flexivit", "patch16_in21k", (16, 16), "patches of 16x16, but on 8x8"),
        ("clip", "openai", (16, 16), "patches of 16x16, but on 8x8"),
    ],
)
def test_a_note_says_that_a_model_was_not_trained_for_it(
    name: str, tag: str, patch: Size, said: str | None, tmp_path: Path
) -> None:
    golden = Golden.read(name, PATCHES)
    config = golden.json
    config["pretrained_cfg"] |= {"tag": tag}
    model = load(str(golden.save(tmp_path / "model", config)), patch_size=patch)
    noted = [note for note in model.notes if "not trained" in note]
    assert noted == ([] if said is None else [f"the model was not trained on {said}: {MEASURE}"])


def test_the_models_own_patches_change_nothing(tiny_model: Models) -> None:
    plain, same = load(str(tiny_model("vit"))), load(str(tiny_model("vit")), patch_size=(8, 8))
    assert same.config == plain.config and same.notes == plain.notes
    for ours, theirs in zip(same.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch_size": (65, 8)}, "an image of 64x64 is smaller than one patch of 65x8"),
        ({"patch_size": (0, 8)}, "--patch-size 0x8"),
        ({"patch_size": (12, 8), "image_size": (64, 64)}, "is not a multiple .* 12x8\n.* 60x64"),
    ],
)
def test_patches_that_do_not_fit_are_refused(
    tiny_model: Models, options: dict[str, Size], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        load(str(tiny_model("vit")), **options)


def test_a_model_of_one_grid_keeps_it() -> None:
    sizes = {"image_size": (16, 24), "patch_size": (8, 8), "embed_dim": 8, "depth": 1}
    config = ViTConfig(**sizes, num_heads=2, hidden_dim=8, fixed_grid=True)
    network = VisionTransformer(config)
    with pytest.raises(UsageError, match=r"a grid of 2x3 .* alone\n.* --image-size 8x12"):
        change_patch_size(network, (4, 4), (16, 24))
    change_patch_size(network, (4, 4), (8, 12))
    assert network(torch.zeros(1, 3, 8, 12)).shape == (1, 8)


@pytest.mark.parametrize("family", ["mae-pretraining", "vit-mim"])
def test_a_decoder_keeps_its_patches(tiny_model: Models, family: str) -> None:
    folder = str(tiny_model(family))
    with pytest.raises(UsageError, match="decoder predicts patches of 8x8 pixels"):
        load(folder, patch_size=(4, 4), keep_decoder=True)
    assert load(folder, patch_size=(8, 8), keep_decoder=True).reconstruction is not None
    encoder = load(folder, patch_size=(4, 4), keep_decoder=True, drop=("decoder*",))
    assert encoder.reconstruction is None and encoder.config.grid == (16, 16)
