"""The resize of torch, which torchvision calls for tensors and so transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.fixtures.weights import MODES, photo
from vitcli.checkpoints.preprocess.hf import from_hf, to_hf
from vitcli.checkpoints.preprocess.published import IMAGENET_MEAN, IMAGENET_STD, TORCH_FILTERS
from vitcli.errors import CheckpointError
from vitcli.images.decode import decode
from vitcli.images.loader import collate
from vitcli.images.preprocess import preprocess
from vitcli.images.torch_resize import CURVES, resize_bytes, resize_floats
from vitcli.models.normalise import Normalisation
from vitcli.records import ImageRef, Limits, Preprocess, Sample, Size

DINOV3 = from_hf({}, "dinov3_vit", (224, 224), None).plan
SHAPES = (  # height, width
    *((1, 1), (2, 2), (50, 1), (7, 900), (901, 11), (223, 161), (224, 224), (375, 500)),
)


def pixels_of(width: int, height: int, mode: str = "RGB") -> np.ndarray:
    return np.array(photo(width, height, mode).convert("RGB"))


def noise(shape: Size) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


def by_torch(pixels: np.ndarray, size: Size, mode: str = "bilinear") -> torch.Tensor:
    """Rescale, then resize, as transformers' processor does: (h, w, 3) -> (3, H, W)"""
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous() * (1 / 255)
    return F.interpolate(x, size, mode=mode, antialias=True, align_corners=False)[0]


@pytest.mark.parametrize("mode", CURVES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_noise_is_resized_as_by_torch(shape: Size, mode: Any) -> None:
    """Noise shows a wrong weight; Pillow's weights differ from torch's by up to 2e-5 here."""
    expected = by_torch(noise(shape), (224, 160), mode).permute(1, 2, 0).numpy()
    found = resize_floats(noise(shape), (224, 160), mode) / 255
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < (1e-6 if mode == "bilinear" else 2e-6)


@pytest.mark.parametrize("mode", CURVES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_bytes_are_resized_as_by_torch(shape: Size, mode: Any) -> None:
    x = torch.from_numpy(noise(shape)).permute(2, 0, 1)[None].contiguous()
    made = F.interpolate(x, (97, 160), mode=mode, antialias=True, align_corners=False)
    found = resize_bytes(noise(shape), (97, 160), mode)
    np.testing.assert_array_equal(found, made[0].permute(1, 2, 0).numpy(), strict=True)


def test_tipsv2s_processor_resizes_bytes_with_torch() -> None:
    plan = from_hf({}, "tipsv2", (448, 448), None).plan
    assert plan.describe().endswith("bytes with torch) | normalize(mean=0, std=1)")
    image = photo(300, 200)
    found = preprocess(image, plan)
    np.testing.assert_array_equal(found, resize_bytes(np.array(image), (448, 448), "bilinear"))
    assert found.dtype == np.uint8
    back = from_hf(to_hf(plan), "vit", (448, 448), None).plan
    assert back == replace(plan, source="preprocessor_config.json")


@pytest.mark.parametrize("shape", [(375, 500), (40, 30), (1, 1)], ids=str)
def test_dinov3s_pixels_are_those_of_its_processor(shape: Size) -> None:
    """The processor rescales, resizes and then normalises."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    image = photo(shape[1], shape[0])
    expected = (by_torch(np.array(image), (224, 224)) - mean) / std
    pixels = preprocess(image, DINOV3)
    assert pixels.dtype == np.float32
    normalised = Normalisation(DINOV3)(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
    assert (normalised - expected).abs().max() < 1e-6 / min(IMAGENET_STD)


def test_the_plan_says_floats_and_is_written_as_it_is_read() -> None:
    assert DINOV3.describe() == (
        "exif_turn | rgb | resize(squash 224x224, bilinear, floats with torch) | "
        "normalize(mean=0.485/0.456/0.406, std=0.229/0.224/0.225)"
    )
    crop = {"do_center_crop": True, "crop_size": 64}
    for size in ({}, {"size": 73, **crop}, {"size": {"shortest_edge": 73}, **crop}):
        processor = {"image_processor_type": "DINOv3ViTImageProcessorFast", **size}
        plan = from_hf(processor, "dinov3_vit", (64, 64), None).plan
        written = to_hf(plan)
        assert written["image_processor_type"] == "DINOv3ViTImageProcessor"
        assert from_hf(written, "dinov3_vit", (64, 64), None).plan == plan
        assert plan.resizer == "floats"


def test_without_a_resize_pixels_stay_bytes() -> None:
    plan = from_hf({"do_resize": False}, "dinov3_vit", (64, 64), None).plan
    assert (plan.resizer, plan.dtype) == ("pillow", "uint8")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"resample": 1}, "a lanczos resize of tensors is not supported"),
        ({"size": 64, "do_center_crop": True, "crop_size": 65}, "a crop of 65x65 after a resize"),
    ],
    ids=str,
)
def test_what_tensors_do_not_know_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        from_hf(values, "dinov3_vit", (64, 64), None)


def test_the_filters_of_a_plan_are_those_of_the_resize() -> None:
    assert set(TORCH_FILTERS) == set(CURVES)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_resized_as_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.tiff"
    photo(120, 90, mode).save(path)
    sample = decode(ImageRef(0, str(path)), (DINOV3, Preprocess((64, 64), (64, 64))), Limits())
    assert isinstance(sample, Sample), sample
    floats, pixels = sample.pixels
    expected = by_torch(pixels_of(120, 90, mode), (224, 224))
    assert np.abs(floats / 255 - expected.permute(1, 2, 0).numpy()).max() < 1e-6
    assert [array.dtype for array in collate([sample]).pixels] == [np.float32, np.uint8]
    assert pixels.shape == (64, 64, 3)


def test_a_crop_of_floats_is_the_middle(tmp_path: Path) -> None:
    plan = Preprocess((64, 48), (80, 73), resizer="floats")
    expected = by_torch(pixels_of(100, 90), (80, 73))[:, 8:72, 12:60]
    found = preprocess(photo(100, 90), plan) / 255
    assert np.abs(found - expected.permute(1, 2, 0).numpy()).max() < 1e-6


def test_normalising_floats_leaves_them_unchanged() -> None:
    """A user's batch is not written to."""
    pixels = torch.full((1, 3, 2, 2), 100.0)
    back = Normalisation(DINOV3).inverse(Normalisation(DINOV3)(pixels))
    assert pixels.unique().tolist() == [100.0]
    assert back.unique().tolist() == [100]
