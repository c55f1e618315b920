"""SigLIP 2 for images of any shape (NaFlex): the numbers of transformers, whose batches are padded
and masked, from batches that are run in parts of one size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import vitcli
from tests.checkpoints.files import edit_json
from tests.conftest import Vit
from tests.fixtures.clip import MAX_PATCHES, PATCH_SIZE, patches_of, tiny_clip
from tests.fixtures.two_towers import two_towers
from vitcli.checkpoints.load import load
from vitcli.checkpoints.preprocess.hf import from_hf
from vitcli.errors import CheckpointError, UsageError
from vitcli.images.preprocess import patch_grid, preprocess, preprocessed
from vitcli.models import onednn
from vitcli.models.normalise import Normalisation

SIZES = (  # height, width
    *((1, 8), (8, 1), (17, 300), (1000, 20), (64, 64), (5, 5), (1, 1), (97, 140), (140, 97)),
    *((98, 141), (16, 300), (33, 47)),
)
NAMES = ("cat", "dog", "red car")


class Made(NamedTuple):
    folder: Path
    theirs: Any
    files: list[Path]
    inputs: dict[str, Tensor]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A model of images and texts, images of many shapes, and their inputs by the original."""
    folder, images = tmp_path_factory.mktemp("naflex"), tmp_path_factory.mktemp("images")
    theirs = two_towers("naflex", folder)
    draw = np.random.default_rng(0)
    files = [images / f"{number:02}.png" for number in range(len(SIZES))]
    for file, size in zip(files, SIZES, strict=True):
        Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)
    processor = transformers.Siglip2ImageProcessorPil.from_pretrained(folder)
    inputs = processor(images=[Image.open(file) for file in files], return_tensors="pt")
    return Made(folder, theirs, files, dict(inputs))


def assert_close(found: Any, expected: Tensor) -> None:
    """Equal within 1e-5 of the values' mean size."""
    scale = float(expected.abs().mean())
    np.testing.assert_allclose(np.asarray(found), expected.numpy(), rtol=0, atol=1e-5 * scale)


def test_an_images_grid_is_the_processors() -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import (
        get_image_size_for_max_num_patches as reference,
    )

    draw = np.random.default_rng(1)
    drawn = [tuple(map(int, np.exp(draw.uniform(0, 9, 2)))) for _ in range(400)]
    for height, width in (*SIZES, *drawn, (1, 60_000), (60_000, 1)):
        for patch, most in ((16, 256), (16, 1024), (14, 1), (8, 20)):
            rows, columns = patch_grid((height, width), patch, most)
            expected = reference(height, width, patch, most)
            assert (rows * patch, columns * patch) == expected
            assert rows * columns <= most


def test_patches_are_bit_for_bit_the_processors(made: Made) -> None:
    plan = load(str(made.folder)).preprocess
    normalise = Normalisation(plan)
    images = []
    for file in made.files:
        pixels = torch.from_numpy(preprocess(Image.open(file), plan).copy())
        images.append(normalise(pixels.permute(2, 0, 1)[None])[0])
    found = patches_of(images, MAX_PATCHES)
    assert len({tuple(grid) for grid in found["spatial_shapes"].tolist()}) > 5
    for name, tensor in made.inputs.items():
        assert torch.equal(found[name], tensor), name


def test_a_file_that_names_the_class_for_tensors_resizes_as_torch_does(made: Made) -> None:
    """As the published files do."""
    processor = json.loads((made.folder / "preprocessor_config.json").read_text())
    fast = {**processor, "image_processor_type": "Siglip2ImageProcessorFast"}
    plan = from_hf(fast, "siglip2", (32, 32), None).plan
    image = np.array(Image.open(made.files[7]))
    x = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    resized = torch.nn.functional.interpolate(x, (32, 40), mode="bilinear", antialias=True)
    assert np.array_equal(preprocessed(image, plan), resized[0].permute(1, 2, 0).numpy())
    assert from_hf({}, "siglip2", (256, 256), None).plan.resizer == "torch"


@torch.inference_mode()
def test_images_of_many_shapes_in_one_run(made: Made) -> None:
    model = load(str(made.folder))
    out = made.theirs.vision_model(**made.inputs, output_hidden_states=True)
    files = list(map(str, made.files))
    for batch_size in (1, 5, 64):
        found = vitcli.embed(files, model=model, batch_size=batch_size, workers=0)
        assert_close(found.embeddings, out.pooler_output)
    joint = vitcli.embed(files, model=model, pool="joint", workers=0)
    assert_close(joint.embeddings, made.theirs.get_image_features(**made.inputs).pooler_output)
    mask = made.inputs["pixel_attention_mask"][..., None]
    layer = vitcli.embed(files, model=model, layers=1, pool="mean", norm=False, workers=0)
    assert_close(layer.embeddings, (out.hidden_states[1] * mask).sum(1) / mask.sum(1))
    assert found.meta["grid"] is None


@torch.inference_mode()
def test_scores_of_classes_in_words(made: Made, vit: Vit) -> None:
    texts = [f"a photo of a {name}." for name in NAMES]
    tokens = transformers.AutoTokenizer.from_pretrained(made.folder)(
        texts, padding="max_length", max_length=64, return_tensors="pt"
    )
    logits = made.theirs(**tokens, **made.inputs).logits_per_image
    args = ("classify", *made.files, "-m", made.folder, "--classes", ", ".join(NAMES))
    args += ("--text-clean", "hf", "-j", "0", "-b", "7")
    for more, expected in (((), logits.sigmoid()), (("--scores", "logit"), logits)):
        ended = vit(*args, *more)
        assert ended.code == 0, ended.err
        rows = [json.loads(line)["predictions"] for line in ended.out.splitlines()]
        found = [[next(p["score"] for p in row if p["label"] == n) for n in NAMES] for row in rows]
        np.testing.assert_allclose(np.array(found), expected.numpy(), rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_a_classifier_reads_the_mean_of_the_patches(made: Made, tmp_path: Path) -> None:
    theirs = tiny_clip("Siglip2ForImageClassification", tmp_path)
    found = vitcli.classify(
        list(map(str, made.files)), model=str(tmp_path), scores="logit", top_k=9, workers=0
    )
    rows = [sorted(row.predictions, key=lambda p: p.index) for row in found]  # type: ignore[union-attr]
    assert_close([[p.score for p in row] for row in rows], theirs(**made.inputs).logits)


def test_rows_keep_their_order_and_failures_their_places(
    made: Made, vit: Vit, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    mixed = [*made.files[:4], bad, *made.files[4:], tmp_path / "gone.png"]
    args = ("embed", *mixed, "-m", made.folder, "-b", "6", "-j", "0")
    assert vit(*args, "-o", "all.npy").code == 3
    lines = map(json.loads, (tmp_path / "all.index.jsonl").read_text().splitlines())
    assert [Path(line["path"]) for line in lines] == mixed
    good = vitcli.embed(list(map(str, made.files)), model=str(made.folder), batch_size=1, workers=0)
    np.testing.assert_allclose(np.load(tmp_path / "all.npy"), good.embeddings, atol=2e-5)
    assert vit("embed", *mixed[:7], *args[-6:], "-o", "part.npy").code == 3
    assert vit(*args, "-o", "part.npy", "--resume").code == 3
    if onednn.has("avx512_vnni"):  # elsewhere, sums depend on how many images a batch has
        assert (tmp_path / "part.npy").read_bytes() == (tmp_path / "all.npy").read_bytes()
    parts = np.load(tmp_path / "part.npy"), np.load(tmp_path / "all.npy")
    np.testing.assert_allclose(*parts, atol=1e-6, rtol=1e-6)


def test_tokens_are_lines_of_json_with_their_grid(made: Made, vit: Vit, tmp_path: Path) -> None:
    args = ("embed", *made.files[:4], "-m", made.folder, "-j", "0", "--pool", "patches")
    assert vit(*args, "-o", "f.jsonl").code == 0
    rows = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    grids = [tuple(grid) for grid in made.inputs["spatial_shapes"][:4].tolist()]
    assert [tuple(row["grid"]) for row in rows] == grids
    with torch.inference_mode():
        hidden = made.theirs.vision_model(**made.inputs).last_hidden_state
    for number, row in enumerate(rows):
        assert_close(row["embedding"], hidden[number, : grids[number][0] * grids[number][1]])
    refused = vit(*args, "-o", "g.npy")
    assert (
        refused.code == 2 and "an array of --pool patches needs images of one size" in refused.err
    )
    with pytest.raises(UsageError, match="an array of --pool tokens"):
        vitcli.embed([str(made.files[0])], model=str(made.folder), pool="tokens")


def test_attention_has_the_images_own_grid(made: Made) -> None:
    wide = vitcli.attention(
        [str(made.files[2])], model=str(made.folder), layers=["pool"], workers=0
    )[0]
    maps = wide.maps[0]  # type: ignore[union-attr]
    assert maps.values.shape[1:] == tuple(made.inputs["spatial_shapes"][2].tolist())
    assert maps.box == (0, 0, 1, 1)
    for method in ("raw", "rollout", "similarity"):
        rows = vitcli.attention(
            list(map(str, made.files[:3])),
            model=str(made.folder),
            method=method,
            query=(0, 0),
            workers=0,
        )
        shapes = [row.maps[0].values.shape[1:] for row in rows]  # type: ignore[union-attr]
        assert shapes == [tuple(grid) for grid in made.inputs["spatial_shapes"][:3].tolist()]


def test_a_search_embeds_as_the_index_was(made: Made, vit: Vit, tmp_path: Path) -> None:
    index = ("embed", *made.files, "-m", made.folder, "--pool", "joint", "--max-patches", "50")
    assert vit(*index, "-j", "0", "-o", "i.npy").code == 0
    meta = json.loads((tmp_path / "i.meta.json").read_text())
    assert meta["model_options"] == {"max_patches": 50}
    assert "at most 50 patches of 8x8" in meta["preprocess"]
    found = vit("search", "i.npy", made.files[7], "-k", "1", "-j", "0", "--format", "jsonl")
    assert found.code == 0, found.err
    result = json.loads(found.out)["results"][0]
    assert (Path(result["path"]), round(result["score"], 4)) == (made.files[7], 1)
    by_text = vit("search", "i.npy", "--text", "a red car", "-k", "1", "--format", "jsonl")
    assert by_text.code == 0, by_text.err


def test_max_patches_is_the_processors(made: Made) -> None:
    """The positions of any grid come from the stored ones, also beyond their number."""
    processor = transformers.Siglip2ImageProcessorPil.from_pretrained(made.folder)
    images = [Image.open(file) for file in made.files]
    inputs = processor(images=images, max_num_patches=70, return_tensors="pt")
    with torch.inference_mode():
        expected = made.theirs.vision_model(**inputs).pooler_output
    model = load(str(made.folder), max_patches=70)
    found = vitcli.embed(list(map(str, made.files)), model=model, workers=0)
    assert_close(found.embeddings, expected)
    assert (model.preprocess.size, model.config.image_size) == ((64, 64), (32, 32))


def test_what_is_written_for_transformers_is_the_same_model(
    made: Made, vit: Vit, tmp_path: Path
) -> None:
    ended = vit("convert", made.folder, "out", "--to", "hf", "--verify")
    assert ended.code == 0, ended.err
    before, after = (load_file(f / "model.safetensors") for f in (made.folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].view_as(after[name]), after[name]) for name in before)
    written = transformers.Siglip2ImageProcessorPil.from_pretrained(tmp_path / "out")
    assert (written.patch_size, written.max_num_patches) == (PATCH_SIZE, MAX_PATCHES)
    assert load(str(tmp_path / "out")).preprocess == load(str(made.folder)).preprocess
    assert (tmp_path / "out" / "tokenizer.json").exists()
    again = transformers.Siglip2Model.from_pretrained(tmp_path / "out")
    assert again.config.vision_config.num_patches == 16


def test_info_says_that_the_shape_is_kept(made: Made, vit: Vit) -> None:
    found = json.loads(vit("info", made.folder, "--json").out)
    assert found["layout"] == "hf-siglip2"
    assert (
        found["sizes"]["any_grid"]
        and "of any shape, in patches of 8x8" in vit("info", made.folder).out.decode()
    )
    more = json.loads(vit("info", made.folder, "--json", "--max-patches", "64").out)
    assert more["parameters"] == found["parameters"] and more["gflops"] > 3 * found["gflops"]
    assert any("64 patches" in step["step"] for step in more["preprocess"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("embed", "IMAGE", "-o", "f.npy", "--image-size", "64"), "--max-patches N sets"),
        (("embed", "IMAGE", "-o", "f.npy", "--patch-size", "16"), "--max-patches N sets"),
        (("embed", "IMAGE", "-o", "f.npy", "--preprocess", "timm"), "keeps the shape"),
        (("embed", "IMAGE", "-o", "f.npy", "--max-patches", "0"), "from 1 to"),
        (
            ("embed", "IMAGE", "-o", "f.npy", "--engine", "onnx"),
            "--engine onnx needs images of one",
        ),
        (("bench", "--on", "IMAGE"), "--on needs images of one size"),
    ],
)
def test_options_for_images_of_one_size_are_refused(
    args: tuple[str, ...], words: str, made: Made, vit: Vit
) -> None:
    named = [str(made.files[4]) if arg == "IMAGE" else arg for arg in args]
    named[1:1] = [str(made.folder)] if args[0] == "bench" else ["-m", str(made.folder)]
    ended = vit(*named)
    assert ended.code == 2 and words in ended.err, ended.err


def test_exports_and_fine_tuning_are_refused(made: Made, vit: Vit, tmp_path: Path) -> None:
    onnx = vit("convert", made.folder, "m.onnx", "--to", "onnx")
    assert onnx.code == 2 and "--to onnx needs images of one size" in onnx.err
    timm = vit("convert", made.folder, "out", "--to", "timm")
    assert timm.code == 1 and "images of any shape (NaFlex)" in timm.err
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (30, 20)).save(tmp_path / "data" / label / f"{number}.png")
    tuned = vit("finetune", "data", "-m", made.folder, "-o", "tuned")
    assert tuned.code == 2 and "vit finetune needs images of one size" in tuned.err


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("preprocessor_config.json", {"patch_size": 16}, "is not of this model"),
        ("preprocessor_config.json", {"max_num_patches": 0}, "max_num_patches is 0"),
        ("preprocessor_config.json", {"max_num_patches": "256"}, "max_num_patches is '256'"),
        ("preprocessor_config.json", {"do_resize": False}, "have to be resized"),
        (
            "preprocessor_config.json",
            {"image_processor_type": "SiglipImageProcessor"},
            "is not of this model",
        ),
        ("config.json", {"num_patches": 15}, "num_patches is 15"),
        ("config.json", {"num_patches": 25}, "position_embedding"),
    ],
)
def test_files_of_another_model_are_refused(
    file: str, values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    tiny_clip("Siglip2VisionModel", tmp_path)
    edit_json(tmp_path / file, **values)
    with pytest.raises(CheckpointError, match=words):
        load(str(tmp_path))


def test_a_model_of_one_size_has_no_max_patches(tmp_path: Path) -> None:
    tiny_clip("SiglipVisionModel", tmp_path)
    with pytest.raises(UsageError, match="--max-patches: this model takes images of one size"):
        load(str(tmp_path), max_patches=64)
    edit_json(tmp_path / "preprocessor_config.json", image_processor_type="Siglip2ImageProcessor")
    with pytest.raises(CheckpointError, match="is not of this model, which takes one size"):
        load(str(tmp_path))
