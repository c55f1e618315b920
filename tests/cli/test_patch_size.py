"""`--patch-size` in every command that takes it: its effect, what is recorded, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import Vit
from tests.fixtures.cpu import needs_int8
from tests.fixtures.photos import Corpus
from tests.fixtures.weights import pixels
from vitcli.checkpoints.layouts.hf_dinov2 import refusals
from vitcli.checkpoints.load import load

Models = Callable[[str], Path]
NOTE = "not trained on patches of 16x32, but on 8x8"


def test_embed_records_it_and_resumes_with_it(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    args = ("embed", *photos.good[:2], "-m", tiny_model("vit"), "--pool", "patches", "-j", "0")
    args += ("-o", "f.npy", "--resume")
    patched = vit(*args, "--patch-size", "16x32")
    assert patched.code == 0 and NOTE in patched.err
    assert np.load(tmp_path / "f.npy").shape == (2, 4 * 2, 32)
    meta = json.loads((tmp_path / "f.meta.json").read_text())
    assert (meta["patch_size"], meta["stored_patch_size"]) == ([16, 32], [8, 8])
    assert meta["grid"] == [4, 2]
    assert "is already complete" in vit(*args, "--patch-size", "16x32").err
    assert "--patch-size 16, 32 (now 16, 16)" in vit(*args, "--patch-size", "16").err
    assert vit(*args[:-3], "-o", "plain.npy").code == 0
    assert "patch_size" not in (tmp_path / "plain.meta.json").read_text()
    fingerprint = (tmp_path / ".plain.npy.journal").read_text().partition('"defaults"')[0]
    assert "--patch-size" not in fingerprint


@pytest.mark.parametrize(
    "more", [("--dtype", "bf16"), pytest.param(("--quantize", "int8"), marks=needs_int8)]
)
def test_low_precision_agrees(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path, more: tuple[str, ...]
) -> None:
    args = ("embed", *photos.good[:2], "-m", tiny_model("vit"), "--patch-size", "16", "-j", "0")
    for name, options in (("a.npy", ()), ("b.npy", more)):
        assert vit(*args, "-o", name, *options).code == 0
    a, b = (np.load(tmp_path / name) for name in ("a.npy", "b.npy"))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.99


def test_several_models_and_attention(vit: Vit, tiny_model: Models, photos: Corpus) -> None:
    image = photos.good[0]
    both = ("-m", tiny_model("vit"), "-m", tiny_model("deit"), "--patch-size", "16x32")
    classified = vit("classify", image, *both, "-j", "0")
    assert classified.code == 0 and classified.err.count(NOTE) == 2
    looked = vit("attention", image, "-m", tiny_model("vit"), *both[-2:], "-o", "looks")
    assert json.loads(looked.out.splitlines()[0])["grid"] == [4, 2]


def test_info_tells_what_is_resampled(vit: Vit, tiny_model: Models) -> None:
    ended = vit("info", tiny_model("vit"), "--patch-size", "16x32", "--json")
    found = json.loads(ended.out)
    assert (found["sizes"]["patch_size"], found["sizes"]["grid"]) == ([16, 32], [4, 2])
    assert NOTE in found["notes"][0]
    assert found["notes"][1:] == [
        "the patch embedding of 8x8 pixels is resampled for 16x32",
        "position embeddings of 8x8 patches are resampled for 4x2",
    ]


@pytest.mark.parametrize(("to", "patch"), [("hf", (4, 16)), ("timm", (4, 16))])
def test_convert_writes_the_resampled_model(
    vit: Vit, tiny_model: Models, tmp_path: Path, to: str, patch: tuple[int, int]
) -> None:
    out, asked = tmp_path / "o", f"{patch[0]}x{patch[1]}"
    args = ("convert", tiny_model("vit"), out, "--to", to, "--patch-size", asked, "--verify")
    ended = vit(*args)
    assert ended.code == 0, ended.err
    model = load(str(tiny_model("vit")), patch_size=patch)
    back = load(str(out))
    assert (back.config.patch_size, back.config.image_size) == (patch, (64, 64))
    assert torch.equal(back.network.patch_embed.proj.weight, model.network.patch_embed.proj.weight)
    if to == "hf":
        images = torch.from_numpy(pixels(2, 64, 64))
        theirs = transformers.ViTForImageClassification.from_pretrained(out)
        with torch.inference_mode():
            logits = theirs(images).logits
            torch.testing.assert_close(model.network(images), logits, atol=1e-5, rtol=0)
    else:
        args_of = json.loads((out / "config.json").read_text())["model_args"]
        assert args_of["patch_size"] == list(patch)


def test_patches_that_a_library_cannot_express_are_refused(tiny_model: Models) -> None:
    """A grid that is square although the patches are not."""
    model = load(str(tiny_model("dinov2")), patch_size=(11, 12))
    assert model.config.grid == (5, 5)
    assert refusals(model.config) == ["patches of 11x12, which are not square"]


def test_reconstruct_refuses(vit: Vit, tiny_model: Models, photos: Corpus) -> None:
    mae = tiny_model("mae-pretraining")
    ended = vit("reconstruct", photos.good[0], "-m", mae, "--patch-size", "4", "-o", "drawn")
    assert ended.code == 2 and "predicts patches of 8x8 pixels" in ended.err


@pytest.mark.parametrize("size", ["0", "8x", "-4", "8x8x8", "99999"])
def test_what_is_no_size_is_a_usage_error(vit: Vit, size: str) -> None:
    ended = vit("info", "demo", "--patch-size", size)
    assert ended.code == 2 and "--patch-size" in ended.err
