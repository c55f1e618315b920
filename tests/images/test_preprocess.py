"""The uint8 pixels after resize and crop are transformers' and timm's, bit for bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from tests.fixtures.weights import MODES, photo
from vitcli.checkpoints.preprocess.timm import from_timm
from vitcli.images.decode import decode
from vitcli.images.preprocess import preprocess, resized_size
from vitcli.records import ImageRef, Limits, Preprocess, Sample

GOLDEN = Path(__file__).parents[1] / "golden" / "timm" / "preprocess.json"
RECORDS: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))

SHAPES = (  # width, height
    *((1, 1), (3, 1), (1, 50), (4000, 37), (37, 4000), (500, 375), (225, 223), (227, 231)),
    *((224, 224), (256, 255), (31, 1000)),
)
RESAMPLES = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def theirs(processor: str, image: Image.Image, **options: Any) -> np.ndarray:
    """What a processor of transformers makes of an RGB picture before it makes floats.

    (H, W, 3) -> (H, W, 3)
    """
    options = {"do_rescale": False, "do_normalize": False, **options}
    made = getattr(transformers, f"{processor}ImageProcessorPil")(**options)
    # As (3, H, W), and said: of a picture one or three pixels wide it would guess wrongly.
    planes = np.asarray(image).transpose(2, 0, 1)
    (pixels,) = made(planes, input_data_format="channels_first")["pixel_values"]
    assert pixels.dtype == np.uint8
    return pixels.transpose(1, 2, 0)


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


@pytest.mark.parametrize(("width", "height"), SHAPES)
@pytest.mark.parametrize(
    ("processor", "options", "plan"),
    [
        ("ViT", {}, Preprocess((224, 224), (224, 224))),
        (
            "ViT",
            {"size": {"height": 96, "width": 160}},
            Preprocess((96, 160), (96, 160)),
        ),
        ("Siglip", {}, Preprocess((224, 224), (224, 224), resample="bicubic")),
        ("DeiT", {}, Preprocess((224, 224), (256, 256), resample="bicubic")),
        (
            "DeiT",
            {"size": square(65), "crop_size": {"height": 32, "width": 48}},
            Preprocess((32, 48), (65, 65), resample="bicubic"),
        ),
        (
            "Bit",
            {"size": {"shortest_edge": 256}, "crop_size": square(224)},
            Preprocess((224, 224), (256, 256), "shortest", resample="bicubic"),
        ),
        (
            "Bit",
            {"size": {"shortest_edge": 64}, "crop_size": square(97)},
            Preprocess((97, 97), (64, 64), "shortest", resample="bicubic"),
        ),
        (
            "Bit",
            {"do_resize": False, "crop_size": {"height": 225, "width": 98}},
            Preprocess((225, 98), None),
        ),
        ("CLIP", {}, Preprocess((224, 224), (224, 224), "shortest", resample="bicubic")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pixels_equal_transformers(
    width: int, height: int, processor: str, options: dict[str, Any], plan: Preprocess
) -> None:
    image = photo(width, height)
    expected = theirs(processor, image, **options)
    np.testing.assert_array_equal(preprocess(image, plan), expected)


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize(("width", "height"), [(500, 375), (33, 70), (1, 1)])
def test_every_filter_equals_transformers(resample: Any, width: int, height: int) -> None:
    image = photo(width, height)
    plan = Preprocess((64, 48), (64, 48), resample=resample)
    size = {"height": 64, "width": 48}
    expected = theirs("ViT", image, size=size, resample=RESAMPLES[resample])
    np.testing.assert_array_equal(preprocess(image, plan), expected)


@pytest.mark.parametrize(("width", "height"), SHAPES)
@pytest.mark.parametrize(("shortest", "longest"), [(64, 100), (65, 65), (37, 90), (500, 700)])
def test_the_cap_on_the_longer_edge_equals_transformers(
    width: int, height: int, shortest: int, longest: int
) -> None:
    size = {"shortest_edge": shortest, "longest_edge": longest}
    plan = Preprocess((64, 64), (shortest, shortest), "shortest", longest, "bicubic")
    if 0 in resized_size((height, width), plan):
        with pytest.raises(ValueError, match="must be > 0"):
            preprocess(photo(width, height), plan)
        return
    expected = theirs("Bit", photo(width, height), size=size, crop_size=square(64))
    np.testing.assert_array_equal(preprocess(photo(width, height), plan), expected)


@pytest.mark.parametrize("crop", [1, 2, 7, 30, 31, 32, 33, 60, 61])
@pytest.mark.parametrize("side", [30, 31])
def test_odd_crops_and_paddings_equal_transformers(crop: int, side: int) -> None:
    image = photo(side, side + 3)
    expected = theirs("Bit", image, do_resize=False, crop_size=square(crop))
    np.testing.assert_array_equal(preprocess(image, Preprocess((crop, crop), None)), expected)


@pytest.mark.parametrize(
    "record", RECORDS, ids=[f"{i}-{r['width']}x{r['height']}" for i, r in enumerate(RECORDS)]
)
def test_pixels_equal_timm(record: dict[str, Any], tmp_path: Path) -> None:
    """Through `decode`, from a file of the record's mode."""
    cfg = record["cfg"]
    plan = from_timm(cfg, (cfg["input_size"][1], cfg["input_size"][2]), None, "timm")
    path = tmp_path / "photo.tiff"
    photo(record["width"], record["height"], record["mode"]).save(path)
    sample = decode(ImageRef(0, str(path)), (plan,), Limits())
    assert isinstance(sample, Sample), sample
    assert list(sample.pixels[0].shape) == record["shape"]
    assert hashlib.sha256(sample.pixels[0].tobytes()).hexdigest() == record["sha256"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_equals_transformers(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.tiff"
    photo(120, 90, mode).save(path)
    plan = Preprocess((64, 64), (64, 64))
    sample = decode(ImageRef(0, str(path)), (plan,), Limits())
    assert isinstance(sample, Sample), sample
    expected = theirs("ViT", photo(120, 90, mode).convert("RGB"), size=square(64))
    np.testing.assert_array_equal(sample.pixels[0], expected)


def test_padding_takes_the_fill() -> None:
    pixels = preprocess(photo(2, 2), Preprocess((6, 4), None, crop="timm", fill=(1, 2, 3)))
    assert pixels.shape == (6, 4, 3)
    assert (pixels[:2] == (1, 2, 3)).all() and (pixels[:, 0] == (1, 2, 3)).all()
    np.testing.assert_array_equal(pixels[2:4, 1:3], np.asarray(photo(2, 2)))


@pytest.mark.parametrize("fit", ["shortest", "cover"])
def test_a_strip_that_would_explode_is_refused(fit: Any) -> None:
    plan = Preprocess((224, 224), (224, 224), fit)
    with pytest.raises(ValueError, match="1x50000 would be resized to 224x"):
        preprocess(Image.new("RGB", (1, 50_000)), plan)
