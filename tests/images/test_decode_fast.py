"""`--decode fast` gives pixels close to the exact ones, by less work, and the same failures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.fixtures.photos import Corpus, stored_turned
from vitcli.images import decode as module
from vitcli.images.decode import decode
from vitcli.records import Failure, ImageRef, Limits, Preprocess, Sample, Size

SQUASH = Preprocess((48, 64), (48, 64))
CUT = Preprocess((48, 64), (72, 72), "shortest", resample="bicubic")
PLANS = {
    "squash": SQUASH,
    "cut": CUT,
    "lanczos": replace(SQUASH, resample="lanczos"),
    "timm": replace(CUT, fit="cover", resize=(60, 70), crop="timm"),
}


def picture(width: int, height: int) -> Image.Image:
    """Soft patches, edges, and a little grain: what a camera gives."""
    random = np.random.RandomState(7)
    patches = Image.fromarray(random.randint(0, 256, (24, 32, 3)).astype(np.uint8))
    soft = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    soft[height // 3 : height // 2, width // 5 :] *= 0.3
    grain = random.normal(0, 3, soft.shape)
    return Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def large() -> Image.Image:
    return picture(1203, 805)


def read(path: Path, plan: Preprocess) -> NDArray[Any]:
    result = decode(ImageRef(0, str(path)), (plan,), Limits())
    assert isinstance(result, Sample), result
    return result.pixels[0]


def difference(path: Path, plan: Preprocess) -> NDArray[Any]:
    exact, fast = read(path, plan), read(path, replace(plan, decode="fast"))
    assert exact.shape == fast.shape
    return np.abs(exact.astype(int) - fast)


def test_only_fast_plans_that_resize_smoothly_may_reduce() -> None:
    fast = replace(SQUASH, decode="fast")
    assert fast.reduces
    assert not SQUASH.reduces
    assert not replace(fast, resize=None).reduces
    assert not replace(fast, resample="nearest").reduces
    assert fast.steps() == ["reduced_decode(>= 2.5x)", *SQUASH.steps()]


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pixels_are_close(kind: str, name: str, large: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "large"
    large.save(path, kind, compress_level=1, method=0)
    delta = difference(path, PLANS[name])
    assert 0 < delta.max() <= 8
    assert delta.mean() < 0.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("plan", [SQUASH, CUT], ids=["squash", "cut"])
def test_a_turned_picture_is_turned(
    plan: Preprocess, orientation: int, kind: str, large: Image.Image, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned"
    stored_turned(large, orientation).save(path, kind, exif=exif, compress_level=1)
    for exif_turn in (True, False):
        delta = difference(path, replace(plan, exif=exif_turn))
        assert delta.max() <= 8
        assert delta.mean() < 0.5


def test_a_turned_tiff_is_turned_once(large: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.tif"
    stored_turned(large, 6).save(path, "TIFF", exif=exif)
    assert difference(path, CUT).max() <= 8


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_other_jpegs_are_close(
    mode: str, progressive: bool, large: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "other.jpg"
    large.convert(mode).save(path, progressive=progressive)
    delta = difference(path, SQUASH)
    assert delta.max() <= 8
    assert delta.mean() < 0.5


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "LA", "1", "I;16"])
def test_other_modes_are_close(mode: str, large: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "other.png"
    if mode == "I;16":
        Image.fromarray(np.asarray(large.convert("L")).astype(np.uint16) * 257).save(path)
    else:
        large.convert(mode).save(path)
    delta = difference(path, SQUASH)
    assert delta.max() <= 12
    assert delta.mean() < 0.7


@pytest.mark.parametrize(
    ("full", "targets", "scale"),  # heights and widths
    [
        ((1280, 1280), [(64, 64)], 8),
        ((1279, 1280), [(64, 64)], 4),
        ((640, 2000), [(64, 64)], 4),
        ((320, 400), [(64, 64)], 2),
        ((319, 400), [(64, 64)], 1),
        ((1280, 1280), [(64, 64), (64, 65)], 4),
        ((48, 64), [(48, 64)], 1),
        ((1, 1), [(48, 64)], 1),
    ],
)
def test_a_jpeg_is_read_at_a_fraction_of_its_size(
    full: Size, targets: list[Size], scale: int, tmp_path: Path
) -> None:
    path = tmp_path / "read.jpg"
    Image.new("RGB", (full[1], full[0])).save(path)
    plans = [Preprocess(target, target, decode="fast") for target in targets]
    with Image.open(path) as image:
        assert module._load(image, plans) == (full, scale)
        assert image.size == (-(-full[1] // scale), -(-full[0] // scale))


def test_one_exact_plan_keeps_the_whole_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "read.jpg"
    picture(400, 300).save(path)
    plans = SQUASH, replace(SQUASH, size=(20, 24), resize=(20, 24), decode="fast")
    sample = decode(ImageRef(0, str(path)), plans, Limits())
    assert isinstance(sample, Sample)
    np.testing.assert_array_equal(sample.pixels[0], read(path, SQUASH))
    assert (
        np.abs(sample.pixels[1].astype(int) - read(path, replace(plans[1], decode="exact"))).max()
        <= 8
    )


def test_a_picture_that_is_hardly_larger_is_read_exactly(photos: Corpus) -> None:
    for path in photos.good:  # of 96x64 and less, or turned by a quarter
        if not path.name.startswith(("turned", "size")):
            assert not difference(path, SQUASH).any(), path


def test_strips_and_points_are_read(photos: Corpus) -> None:
    for path in photos.good:
        for plan in PLANS.values():
            assert read(path, replace(plan, decode="fast")).shape == (48, 64, 3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("lost", ["half", 1000, 64, 8, 3])
def test_a_jpeg_cut_short_fails_as_it_does_exactly(
    lost: str | int, progressive: bool, large: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "cut.jpg"
    large.save(path, progressive=progressive)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if isinstance(lost, str) else data[:-lost])
    for target in ((16, 16), (48, 64), (80, 120), (200, 300)):
        plan = Preprocess(target, target)
        exact = decode(ImageRef(0, str(path)), (plan,), Limits())
        fast = decode(ImageRef(0, str(path)), (replace(plan, decode="fast"),), Limits())
        assert isinstance(exact, Failure)
        assert exact.message.startswith("truncated image")
        assert (fast.ref, fast.type, fast.message.split("(")[0]) == (
            exact.ref,
            exact.type,
            exact.message.split("(")[0],
        )


def test_bad_files_fail_alike(photos: Corpus) -> None:
    fast = replace(SQUASH, decode="fast")
    for path in (*photos.bad, *[p.with_name("missing") for p in photos.good[:1]]):
        ref = ImageRef(0, str(path))
        assert decode(ref, (fast,), Limits()) == decode(ref, (SQUASH,), Limits())


def test_a_strip_that_would_explode_is_refused_alike(tmp_path: Path) -> None:
    path = tmp_path / "strip.jpg"
    Image.new("RGB", (60_000, 1)).save(path)
    plan = Preprocess((224, 224), (224, 224), "shortest")
    results = [
        decode(ImageRef(0, str(path)), (p,), Limits()) for p in (plan, replace(plan, decode="fast"))
    ]
    assert isinstance(results[0], Failure)
    assert results[1] == results[0]
    assert "would be resized to 13440000x224" in results[0].message
