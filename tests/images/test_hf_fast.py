"""--preprocess hf-fast: the bytes of transformers' fast image processors, as goldens have them."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.weights import photo
from tests.images.stubs import HasTorch
from vitcli.checkpoints.preprocess.hf import as_fast, from_hf, to_hf
from vitcli.errors import CheckpointError
from vitcli.images import torch_resize
from vitcli.images.augment import LEVELS, AugmentJob
from vitcli.images.decode import decode
from vitcli.images.preprocess import preprocess
from vitcli.images.torch_resize import resize_bytes, resize_image
from vitcli.images.workers import iter_decoded
from vitcli.records import Failure, ImageRef, Limits, Preprocess, Sample

GOLDEN = Path(__file__).parents[1] / "golden" / "fast.json"
RECORDS: list[dict[str, Any]] = json.loads(GOLDEN.read_text("utf-8"))
CASES = {f"{r['processor']} {json.dumps(r['options'])}": r for r in RECORDS}
FAST = Preprocess((64, 48), (64, 48), resizer="torch", crop="hf-fast")


def fast(**processor: Any) -> Preprocess:
    return as_fast(from_hf(processor, "vit", (224, 224), None), "--preprocess hf-fast").plan


@pytest.mark.parametrize("case", CASES)
def test_bytes_equal_transformers(case: str, tmp_path: Path) -> None:
    """Pictures of every shape; through `decode`, from a file."""
    processor, options = CASES[case]["processor"], CASES[case]["options"]
    plan = fast(image_processor_type=f"{processor}ImageProcessorFast", **options)
    same = [r for r in RECORDS if (r["processor"], r["options"]) == (processor, options)]
    assert len(same) == 12
    for record in same:
        path = tmp_path / "photo.tiff"
        photo(record["width"], record["height"]).save(path)
        sample = decode(ImageRef(0, str(path)), (plan,), Limits())
        if record["shape"] is None:
            assert isinstance(sample, Failure)
            assert sample.message == "height and width must be > 0"
            continue
        assert isinstance(sample, Sample), sample
        assert list(sample.pixels[0].shape) == record["shape"]
        assert hashlib.sha256(sample.pixels[0].tobytes()).hexdigest() == record["sha256"], record


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 900), (901, 11), (224, 160), (60, 160), (224, 97)])
def test_without_torch_and_in_strips_bytes_are_the_same(
    shape: tuple[int, int], mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    expected = resize_image(image, (224, 160), mode)
    np.testing.assert_array_equal(resize_bytes(np.asarray(image), (224, 160), mode), expected)
    monkeypatch.setattr(torch_resize, "MAX_STRIP_BYTES", 1000)
    whole, torchs = torch_resize._tensor, []

    def in_blocks(part: Image.Image) -> Any:
        torchs.append(part.height)
        if part is image:
            raise ValueError("in several blocks")
        return whole(part)

    monkeypatch.setattr(torch_resize, "_tensor", in_blocks)
    found = resize_image(image, (224, 160), mode)
    np.testing.assert_array_equal(found, expected, strict=True)
    assert sum(torchs) == 2 * shape[0]
    monkeypatch.delitem(sys.modules, "torch")
    np.testing.assert_array_equal(resize_image(image, (224, 160), mode), expected, strict=True)
    assert found.flags.c_contiguous


def test_workers_have_torch_where_it_resizes(tmp_path: Path) -> None:
    photo(300, 200).save(tmp_path / "photo.png")
    refs = [ImageRef(number, str(tmp_path / "photo.png")) for number in range(3)]
    exact, near = (replace(FAST, decode=name) for name in ("exact", "fast"))
    for plan, is_there in ((exact, 1), (near, 0), (Preprocess((64, 48), (64, 48)), 0)):
        found = list(iter_decoded(refs, HasTorch((plan,)), 2))
        assert [item.pixels[1].item() for item in found if isinstance(item, Sample)] == 3 * [
            is_there
        ]
        for item in found:
            assert isinstance(item, Sample)
            if plan is not near:
                expected = preprocess(photo(300, 200), plan)
                np.testing.assert_array_equal(item.pixels[0], expected)


def test_training_needs_no_torch_in_its_workers_but_validation_does() -> None:
    jobs = [AugmentJob(FAST, LEVELS[name], 0, 1) for name in ("none", "medium")]
    assert [job.imports_torch for job in jobs] == [True, False]


def test_what_is_written_is_read_again() -> None:
    crop = {"do_center_crop": True, "crop_size": 97}
    for values in (
        {"size": 64},
        {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 64}, **crop},
        {"image_processor_type": "DeiTImageProcessor", "size": 110, **crop},
    ):
        plan = fast(**values)
        assert (plan.resizer, plan.crop) == ("torch", "hf-fast")
        written = to_hf(plan)
        assert written["image_processor_type"].endswith("ImageProcessorFast")
        again = from_hf(written, "vit", (64, 64), None).plan
        assert replace(again, source="") == replace(plan, source="")
        assert "preprocessor_config.json" in again.source


def test_a_filter_that_tensors_do_not_have_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="hf-fast: a lanczos resize of tensors") as caught:
        fast(resample=1)
    assert caught.value.hint == "known are bilinear, bicubic; --preprocess hf resizes with Pillow"
    with pytest.raises(CheckpointError, match="vit_preprocess is 'hf-slow'"):
        from_hf({"vit_preprocess": "hf-slow"}, "vit", (64, 64), None)


def test_floats_stay_floats() -> None:
    """DINOv3's processor is a fast one already."""
    found = from_hf({}, "dinov3_vit", (224, 224), None)
    assert as_fast(found, "--preprocess hf-fast") == found
