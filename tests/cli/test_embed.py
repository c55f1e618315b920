"""`vit embed` as a process: numbers of transformers, and the files around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from PIL import Image, ImageOps

from tests.conftest import Vit
from tests.fixtures.cpu import needs_int8
from tests.fixtures.photos import Corpus, photo

Models = Callable[[str], Path]


@pytest.fixture(scope="session")
def images(photos: Corpus) -> list[Path]:
    """A few good files whose pixels transformers sees as we do."""
    kinds = (".jpg", ".png", ".webp", ".bmp")
    good = [p for p in photos.good if p.suffix.lower() in kinds and "16" not in p.name]
    return good[:8]


def hidden_states(model: Path, images: list[Path]) -> tuple[list[np.ndarray], np.ndarray]:
    """transformers' hidden_states and last_hidden_state, image by image."""
    processor = transformers.AutoImageProcessor.from_pretrained(model)
    network = transformers.AutoModel.from_pretrained(model)
    states, last = [], []
    for image in images:
        rgb = ImageOps.exif_transpose(Image.open(image)).convert("RGB")
        with torch.inference_mode():
            out = network(**processor(rgb, return_tensors="pt"), output_hidden_states=True)
        states.append([state[0].numpy() for state in out.hidden_states])
        last.append(out.last_hidden_state[0].numpy())
    return [np.stack(layer) for layer in zip(*states, strict=True)], np.stack(last)


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "dinov2-reg"])
def test_layers_and_pools_are_those_of_transformers(
    vit: Vit, tiny_model: Models, images: list[Path], tmp_path: Path, family: str
) -> None:
    model = tiny_model(family)
    states, last = hidden_states(model, images)
    prefix = {"vit": 1, "deit": 2, "dinov2": 1, "dinov2-reg": 5}[family]
    prefix = last.shape[1] - 64 if family == "dinov2-reg" else prefix
    wanted = {
        ("--layer", "-1"): last[:, 0],
        ("--layer", "2", "--no-norm"): states[2][:, 0],
        ("--layer", "0", "--no-norm", "--pool", "tokens"): states[0],
        ("--pool", "mean"): last[:, prefix:].mean(1),
        ("--pool", "cls+mean"): np.concatenate([last[:, 0], last[:, prefix:].mean(1)], axis=-1),
        ("--pool", "patches"): last[:, prefix:],
        ("--layers", "1,3", "--no-norm"): np.concatenate([states[1][:, 0], states[3][:, 0]], -1),
        ("--l2",): last[:, 0] / np.linalg.norm(last[:, 0], axis=-1, keepdims=True),
    }
    for args, expected in wanted.items():
        ended = vit("embed", *images, "-m", model, "-o", "f.npy", "--overwrite", *args)
        assert ended.code == 0, ended.err
        np.testing.assert_allclose(np.load(tmp_path / "f.npy"), expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize(
    ("args", "least", "quantize"),
    [
        (("--dtype", "bf16"), 0.999, None),
        pytest.param(("--quantize", "int8"), 0.99, "int8", marks=needs_int8),
    ],
    ids=["bf16", "int8"],
)
def test_low_precision_is_close_and_recorded(
    args: tuple[str, ...],
    least: float,
    quantize: str | None,
    vit: Vit,
    tiny_model: Models,
    photos: Corpus,
    tmp_path: Path,
) -> None:
    run = ("embed", *photos.good[:3], "-m", tiny_model("dinov2"), "-j", "0", "-o")
    for name, more in (("exact", ()), ("low", args)):
        ended = vit(*run, f"{name}.npy", *more)
        assert ended.code == 0, ended.err
    exact, low = (np.load(tmp_path / f"{name}.npy") for name in ("exact", "low"))
    cosine = (exact * low).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(low, axis=1)
    assert least < cosine.min() < 1
    meta = json.loads((tmp_path / "low.meta.json").read_text())
    assert meta["quantize"] == quantize


def test_index_and_meta_stand_beside_the_array(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    bad = next(iter(photos.bad))
    inputs = [photos.good[0], bad, photos.good[1]]
    ended = vit("embed", *inputs, "-m", tiny_model("dinov2"), "-o", "feats.npy")
    assert ended.code == 3
    index = [json.loads(line) for line in (tmp_path / "feats.index.jsonl").open()]
    assert [line["row"] for line in index] == [0, None, 1]
    assert [line["path"] for line in index] == [str(p) for p in inputs]
    assert index[1]["error"]["type"] == photos.bad[bad]
    meta = json.loads((tmp_path / "feats.meta.json").read_text())
    assert meta["shape"] == [2, 32]
    assert (meta["images"], meta["failed"]) == (2, 1)
    assert meta["layers"] == [3]
    assert len(meta["sha256"]) == 64
    assert "resize" in meta["preprocess"]
    assert {p.name for p in tmp_path.iterdir()} == {
        ".feats.npy.journal",
        "feats.npy",
        "feats.index.jsonl",
        "feats.meta.json",
    }


def test_every_format_holds_the_same_numbers(
    vit: Vit, tiny_model: Models, images: list[Path], tmp_path: Path
) -> None:
    for name in ("f.npy", "z.npz", "s.safetensors", "j.jsonl"):
        assert vit("embed", *images, "-m", tiny_model("vit"), "-o", name).code == 0
    expected = np.load(tmp_path / "f.npy")
    with np.load(tmp_path / "z.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["embeddings"], expected)
        assert archive["paths"].tolist() == [str(p) for p in images]
    tensors = safetensors.numpy.load_file(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(tensors["embeddings"], expected)
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").open()]
    np.testing.assert_array_equal(np.array([r["embedding"] for r in lines], np.float32), expected)
    piped = vit("embed", *images, "-m", tiny_model("vit"))
    assert piped.out == (tmp_path / "j.jsonl").read_bytes()


def test_half_precision_storage(
    vit: Vit, tiny_model: Models, images: list[Path], tmp_path: Path
) -> None:
    vit("embed", *images, "-m", tiny_model("vit"), "-o", "a.npy")
    vit("embed", *images, "-m", tiny_model("vit"), "-o", "b.npy", "--store", "fp16")
    whole, half = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, whole.astype(np.float16))


def test_image_size_interpolates_positions(
    vit: Vit, tiny_model: Models, images: list[Path], tmp_path: Path
) -> None:
    model = tiny_model("dinov2")
    args = ("embed", *images, "-m", model, "--image-size", "48x80", "--pool", "patches")
    assert vit(*args, "-o", "f.npy").code == 0
    assert np.load(tmp_path / "f.npy").shape == (len(images), 6 * 10, 32)
    assert json.loads((tmp_path / "f.meta.json").read_text())["grid"] == [6, 10]


def test_fast_decoding_is_close_and_recorded(vit: Vit, tiny_model: Models, tmp_path: Path) -> None:
    photo("large", 640, 480).save(tmp_path / "large.jpg")
    args = ("embed", "large.jpg", "-m", tiny_model("vit"))
    assert vit(*args, "-o", "exact.npy").code == 0
    assert vit(*args, "-o", "fast.npy", "--decode", "fast").code == 0
    exact, fast = np.load(tmp_path / "exact.npy")[0], np.load(tmp_path / "fast.npy")[0]
    assert 0 < np.abs(exact - fast).max() < 0.05
    assert exact @ fast / np.linalg.norm(exact) / np.linalg.norm(fast) > 0.999
    steps = [
        json.loads((tmp_path / f"{name}.meta.json").read_text())["preprocess"]
        for name in ("exact", "fast")
    ]
    assert steps[1] == f"reduced_decode(>= 2.5x) | {steps[0]}"


def test_no_images_give_an_empty_array(vit: Vit, tiny_model: Models, tmp_path: Path) -> None:
    assert vit("embed", "-", "-m", tiny_model("vit"), "-o", "f.npy", input=b"").code == 0
    assert np.load(tmp_path / "f.npy").shape == (0, 32)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--layer", "9"), 2, "the model has 3 blocks"),
        (("--layer", "-5"), 2, "the model has 3 blocks"),
        (("--layers", "1,x"), 2, "--layers 1,x"),
        (("--layer", "1", "--layers", "1,2"), 2, "both given"),
        (("--pool", "map"), 2, "attention-pooling"),
        (("--l2", "--pool", "tokens"), 2, "--l2 is for vectors"),
        (("-o", "f.csv"), 2, "known are npy"),
        (("-o", "/dev/null", "--format", "npy"), 2, "cannot be written to a pipe"),
    ],
)
def test_a_mistake_is_one_clear_line(
    vit: Vit, tiny_model: Models, photos: Corpus, args: tuple[str, ...], code: int, said: str
) -> None:
    ended = vit("embed", photos.good[0], "-m", tiny_model("vit"), *args)
    assert (ended.code, ended.out) == (code, b"")
    assert said in ended.err
