"""An image whose result holds NaN or infinity has an error row, in every command and sink."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.conftest import Vit
from tests.fixtures.cpu import needs_int8
from tests.fixtures.extras import needs
from tests.fixtures.tiny import tiny_hf

Models = Callable[[str], Path]
KIND = "NotFinite"


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose hidden states overflow for pictures that are not black."""
    folder = tmp_path_factory.mktemp("overflow") / "model"
    tiny_hf("vit", folder, num_hidden_layers=1)
    edit(folder, 3e38)
    return folder


def edit(folder: Path, size: float) -> None:
    """The first feature of a patch is `size` times its first pixel: 0 for black, 2 for white."""
    tensors = load_file(folder / "model.safetensors")
    [name] = [name for name in tensors if name.endswith("patch_embeddings.projection.weight")]
    tensors[name][0] = 0
    tensors[name][0, 0, 0, 0] = size
    tensors[name.replace("weight", "bias")][0] = size
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two that are good, and a white one between them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("a", 0), ("b", 255), ("c", 0)):
        Image.new("RGB", (64, 64), (colour,) * 3).save(folder / f"{name}.png")
    return folder


@needs("parquet")
def test_the_neighbours_of_an_image_that_overflows_are_good(
    vit: Vit, broken: Path, pictures: Path, tmp_path: Path
) -> None:
    expected = [None, KIND, None]
    common = ("-m", broken, "-j", "0")
    for scores in ("prob", "logit"):
        ended = vit("classify", pictures, *common, "--scores", scores)
        assert (ended.code, kinds(ended.out)) == (3, expected), ended.err
        assert "overflow in fp32" in ended.err
    for name in ("a.npy", "b.npz", "c.safetensors", "d.parquet", "e.jsonl"):
        ended = vit("embed", pictures, *common, "-o", name)
        assert ended.code == 3, ended.err
        assert "2 of 3 images done, 1 failed" in ended.err
    assert kinds((tmp_path / "e.jsonl").read_bytes()) == expected
    assert kinds((tmp_path / "a.index.jsonl").read_bytes()) == expected
    assert np.isfinite(np.load(tmp_path / "a.npy")).all()
    for more in (("--l2",), ("--pool", "patches"), ("--layers", "0,1", "--pool", "mean")):
        ended = vit("embed", pictures, *common, *more)
        assert (ended.code, kinds(ended.out)) == (3, expected), ended.err


@pytest.mark.parametrize("method", ["raw", "grad"])
def test_attention_that_overflows_is_not_drawn(
    vit: Vit, broken: Path, pictures: Path, tmp_path: Path, method: str
) -> None:
    args = ("attention", pictures, "-m", broken, "-j", "0", "--out", "maps", "--method", method)
    ended = vit(*args, "--html", "page.html")
    assert ended.code == 3, ended.err
    assert kinds((tmp_path / "maps" / "attention.jsonl").read_bytes()) == [None, KIND, None]
    assert len([*(tmp_path / "maps").rglob("*.png")]) == 2


def test_evaluate_counts_an_image_that_overflows_for_nobody(
    vit: Vit, broken: Path, pictures: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(("fern", "teapot")):
        for file in pictures.iterdir():
            folder = tmp_path / "data" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}{file.name}").write_bytes(file.read_bytes())
    for more in ((), ("--knn", "1"), ("-m", "demo", "--knn", "1")):
        ended = vit("evaluate", "data", "-m", broken, "-j", "0", "--json", *more)
        assert ended.code == 3, ended.err
        found = json.loads(ended.out)
        assert (found["images"], found["failed"]) == (4, 2)
    args = ("finetune", "data", "-m", broken, "-j", "0")
    ended = vit(*args, *("--out", "run", "--train", "head", "--epochs", "1"))
    assert ended.code == 3, ended.err
    assert len(re.findall(r"^vit: NotFinite: data/", ended.err, re.MULTILINE)) == 2, ended.err


def test_features_that_do_not_fit_fp16_are_not_stored(
    vit: Vit, tiny_model: Models, pictures: Path, tmp_path: Path
) -> None:
    model = tmp_path / "large"
    tiny_hf("vit", model, num_hidden_layers=1)
    edit(model, 1e5)
    args = ("embed", pictures, "-m", model, "-j", "0", "--layer", "0", "--no-norm")
    for more in (("--pool", "mean"), ("--pool", "patches")):
        assert vit(*args, *more, "-o", "wide.npy", "--overwrite").code == 0
        ended = vit(*args, *more, "--store", "fp16", "-o", "half.npy", "--overwrite")
        assert ended.code == 3, ended.err
        assert "too large for --store fp16" in ended.err
        assert np.isfinite(np.load(tmp_path / "half.npy")).all()


@needs_int8
def test_int8_of_an_image_that_overflows_leaves_its_neighbours(
    vit: Vit, broken: Path, pictures: Path
) -> None:
    ended = vit("classify", pictures, "-m", broken, "-j", "0", "--quantize", "int8")
    assert (ended.code, kinds(ended.out)) == (3, [None, KIND, None]), ended.err


def kinds(lines: bytes) -> list[str | None]:
    """The kind of error in each row."""
    rows = [json.loads(line) for line in lines.splitlines()]
    return [row["error"]["type"] if "error" in row else None for row in rows]
