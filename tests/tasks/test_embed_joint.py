"""The joint space of images and texts: the numbers of transformers, run live."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, PreTrainedModel

import vitcli
from tests.conftest import Vit
from tests.fixtures.clip import PROJECTION, tiny_clip
from tests.fixtures.weights import photo

Towers = Callable[[str], tuple[PreTrainedModel, Path]]
HEADLESS = "-without-pooling"
CLOSE = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    """A tiny model by its class's name, and its folder, made once."""
    made: dict[str, tuple[PreTrainedModel, Path]] = {}

    def tower(name: str) -> tuple[PreTrainedModel, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp("towers") / name
            options = {"vision_use_head": False} if name.endswith(HEADLESS) else {}
            made[name] = tiny_clip(name.removesuffix(HEADLESS), folder, **options), folder
        return made[name]

    return tower


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "a.png"
    photo(50, 41).save(path)
    return path


@torch.inference_mode()
def image_features(theirs: PreTrainedModel, folder: Path, image: Path) -> np.ndarray:
    """Return what transformers compares with texts, (1, E)."""
    read = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    pixels = read(Image.open(image), return_tensors="pt")["pixel_values"]
    if not hasattr(theirs, "get_image_features"):
        return np.asarray(theirs(pixels).image_embeds)
    return np.asarray(theirs.get_image_features(pixels).pooler_output)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("CLIPModel", PROJECTION),
        ("CLIPVisionModelWithProjection", PROJECTION),
        ("SiglipModel", 32),
    ],
)
def test_images_are_those_of_transformers(
    vit: Vit, towers: Towers, image: Path, tmp_path: Path, name: str, width: int
) -> None:
    theirs, folder = towers(name)
    expected = image_features(theirs, folder, image)
    found = vitcli.embed(image, model=str(folder), pool="joint", workers=0)
    np.testing.assert_allclose(found.embeddings, expected, **CLOSE)
    args = ("embed", image, "-m", folder, "-j", "0", "--pool", "joint", "--l2", "-o", "f.npy")
    ended = vit(*args)
    assert ended.code == 0, ended.err
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), unit, **CLOSE)
    meta = json.loads((tmp_path / "f.meta.json").read_text())
    assert (meta["pool"], meta["row_shape"], meta["layers"]) == ("joint", [width], [3])


@pytest.mark.parametrize(
    ("name", "args", "code", "said"),
    [
        ("CLIPForImageClassification", (), 2, "has a classifier, and no joint space"),
        ("CLIPVisionModel", (), 1, "has no joint space of images and texts"),
        ("SiglipVisionModel", (), 1, "vit models --for words"),
        ("SiglipModel" + HEADLESS, (), 1, "has no joint space"),
        ("CLIPModel", ("--layer", "2"), 2, "leave out --layer"),
        ("CLIPModel", ("--layers", "1,-1"), 2, "leave out --layer"),
        ("CLIPModel", ("--no-norm",), 2, "leave out --no-norm"),
    ],
)
def test_without_a_joint_space(
    vit: Vit, towers: Towers, image: Path, name: str, args: tuple[str, ...], code: int, said: str
) -> None:
    folder = towers(name)[1]
    ended = vit("embed", image, "-m", folder, "-j", "0", "--pool", "joint", *args)
    assert (ended.code, ended.out) == (code, b"")
    assert said in ended.err
