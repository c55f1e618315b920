"""Preprocessing JSON of every generation, against the processor transformers makes of the same."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoImageProcessor

from tests.checkpoints.files import copied, edit_json, loaded, refusal
from tests.fixtures.weights import photo
from tests.models.goldens import Golden
from vitcli.checkpoints.layouts import LAYOUTS
from vitcli.checkpoints.load import Model
from vitcli.checkpoints.preprocess import published as p
from vitcli.checkpoints.preprocess.choose import choose_preprocess
from vitcli.checkpoints.preprocess.hf import from_hf, to_hf
from vitcli.checkpoints.preprocess.published import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    RESAMPLE,
)
from vitcli.checkpoints.preprocess.timm import from_timm, to_timm
from vitcli.checkpoints.resolve import resolve
from vitcli.errors import CheckpointError
from vitcli.images.preprocess import preprocess
from vitcli.models.normalise import Normalisation
from vitcli.models.prepare import prepare
from vitcli.records import Preprocess, Size

TinyModel = Callable[[str], Path]
Json = dict[str, Any]

# (width, height): landscape, a sliver, off by one, one pixel, too small for the crop
PICTURES = ((500, 375), (33, 1000), (225, 223), (1, 1), (40, 30))

IMAGENET = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
PROCESSORS: dict[str, tuple[str, Json]] = {
    # the first generation: google/vit-base-patch16-224 has these five keys and no others
    "integers": (
        "vit",
        {
            "do_normalize": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "size": 224,
        },
    ),
    "integers, deit": ("deit", {"size": 73, "crop_size": 64, "do_center_crop": True, **IMAGENET}),
    "integers, dinov2": ("dinov2", {"size": 73, "crop_size": 64, **IMAGENET}),
    # the second: feature extractors
    "ViTFeatureExtractor": (
        "vit",
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 64, "resample": 2, **IMAGENET},
    ),
    "DeiTFeatureExtractor": (
        "deit",
        {
            "feature_extractor_type": "DeiTFeatureExtractor",
            "do_center_crop": True,
            "crop_size": 64,
            "size": 73,
            "resample": 3,
            **IMAGENET,
        },
    ),
    "CLIPFeatureExtractor": (
        "vit",
        {"feature_extractor_type": "CLIPFeatureExtractor", "size": 80, "crop_size": 64},
    ),
    # the third: image processors
    "ViTImageProcessor": (
        "vit",
        {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 64, "width": 48},
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "do_convert_rgb": None,
            "_valid_processor_keys": ["images", "size"],
        },
    ),
    "ViTImageProcessorFast": (
        "vit",
        {
            "image_processor_type": "ViTImageProcessorFast",
            "size": {"height": 64, "width": 64},
            "crop_size": None,
            "do_center_crop": None,
            "default_to_square": True,
        },
    ),
    "DeiTImageProcessor": ("deit", {"image_processor_type": "DeiTImageProcessor"}),
    "BitImageProcessor": (
        "dinov2",
        {
            "image_processor_type": "BitImageProcessor",
            "do_center_crop": True,
            "crop_size": {"height": 64, "width": 56},
            "size": {"shortest_edge": 73},
            "resample": 3,
            **IMAGENET,
        },
    ),
    "BitImageProcessor, silent": ("dinov2", {"image_processor_type": "BitImageProcessor"}),
    "shortest and longest": (
        "dinov2",
        {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": 73, "longest_edge": 100},
            "crop_size": 64,
        },
    ),
    "SiglipImageProcessor": (
        "vit",
        {"image_processor_type": "SiglipImageProcessor", "size": {"height": 64, "width": 64}},
    ),
    "BeitImageProcessor": (
        "vit",
        {"image_processor_type": "BeitImageProcessor", "do_reduce_labels": True, "resample": 2},
    ),
    "BeitFeatureExtractor": (
        "vit",
        {"feature_extractor_type": "BeitFeatureExtractor", "size": 64, "do_center_crop": False},
    ),
    "GotOcr2ImageProcessorFast": ("vit", {"image_processor_type": "GotOcr2ImageProcessorFast"}),
    "no normalisation": ("vit", {"do_normalize": False, "size": 64}),
    "no rescaling": ("vit", {"do_rescale": False, "size": 64}),
    "crop of a squash": (
        "vit",
        {"size": 70, "do_center_crop": True, "crop_size": {"height": 57, "width": 64}},
    ),
    **{
        f"resample {number}": ("vit", {"size": 64, "resample": number, **IMAGENET})
        for number in RESAMPLE
    },
}


def pixels(model: Model, width: int, height: int) -> Tensor:
    """What the network is fed with for one picture, (1, 3, H, W)."""
    uint8 = preprocess(photo(width, height), model.preprocess)
    return prepare(model.network, model.preprocess, "cpu").pixels(uint8[None].copy())


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_bit_for_bit_those_of_the_processor(
    name: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    family, processor = PROCESSORS[name]
    folder = copied(tiny_model(family), tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    theirs = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = loaded(folder)
    for width, height in PICTURES:
        expected = theirs(photo(width, height), return_tensors="pt").pixel_values
        assert torch.equal(pixels(model, width, height), expected)


def test_the_processor_of_images_and_texts_holds_one_of_images(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    """transformers 5 saves it in there, and reads that first."""
    folder = copied(tiny_model("vit"), tmp_path)
    nested = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 64, "width": 32}}
    for processor, file in (
        ({"processor_class": "CLIPProcessor"}, "preprocessor_config.json"),
        ({"image_processor": nested}, "processor_config.json"),
    ):
        (folder / "processor_config.json").write_text(json.dumps(processor))
        theirs = AutoImageProcessor.from_pretrained(folder, backend="pil")
        model = loaded(folder)
        expected = theirs(photo(90, 70), return_tensors="pt").pixel_values
        assert torch.equal(pixels(model, 90, 70), expected)
        assert model.preprocess.source == file


def scaled(size: Size, pct: float) -> Size:
    return math.floor(size[0] / pct), math.floor(size[1] / pct)


@pytest.mark.parametrize(
    ("cfg", "fit", "resize"),
    [
        ({"crop_pct": 0.9}, "shortest", (248, 248)),
        ({"crop_pct": 0.875, "crop_mode": "center"}, "shortest", (256, 256)),
        ({"crop_pct": 0.9, "crop_mode": "squash"}, "squash", (248, 248)),
        ({"crop_pct": 0.95, "crop_mode": "border"}, "contain", (235, 235)),
        ({}, "shortest", (256, 256)),
        ({"crop_pct": None, "crop_mode": None, "interpolation": None}, "shortest", (256, 256)),
    ],
    ids=str,
)
def test_a_timm_cfg_is_a_plan(cfg: Json, fit: str, resize: Size) -> None:
    plan = from_timm(cfg, (224, 224), None, "test")
    assert (plan.fit, plan.resize, plan.size, plan.crop) == (fit, resize, (224, 224), "timm")
    assert plan.resample == "bicubic"
    assert (plan.mean, plan.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_a_timm_cfg_for_pictures_that_are_not_square_covers_them() -> None:
    plan = from_timm({"crop_pct": 0.9}, (224, 160), None, "test")
    assert (plan.fit, plan.resize) == ("cover", scaled((224, 160), 0.9))


def test_a_timm_cfg_says_kernel_and_statistics() -> None:
    cfg = {"interpolation": "bilinear", "mean": list(CLIP_MEAN), "std": list(CLIP_STD)}
    plan = from_timm(cfg, (224, 224), None, "test")
    assert (plan.resample, plan.mean, plan.std) == ("bilinear", CLIP_MEAN, CLIP_STD)
    assert plan.fill == (0, 0, 0)
    border = from_timm(cfg | {"crop_mode": "border"}, (224, 224), None, "test")
    assert border.fill == (123, 117, 104)


def test_a_plan_from_timm_gives_timms_pixels() -> None:
    path = Path(__file__).parents[1] / "golden" / "timm" / "preprocess.json"
    for case in json.loads(path.read_text())[::5]:
        cfg = case["cfg"]
        plan = from_timm(cfg, tuple(cfg["input_size"][1:]), None, "test")
        image = photo(case["width"], case["height"], case["mode"]).convert("RGB")
        digest = hashlib.sha256(preprocess(image, plan).tobytes()).hexdigest()
        assert digest == case["sha256"], case


@pytest.fixture
def timm_folder(tmp_path: Path) -> Path:
    golden = Golden.read("vit")
    cfg = golden.json["pretrained_cfg"] | {"crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}
    return golden.save(tmp_path / "timm", golden.json | {"pretrained_cfg": cfg})


def test_a_plan_says_where_it_came_from(
    tiny_model: TinyModel, timm_folder: Path, tmp_path: Path
) -> None:
    assert loaded(tiny_model("vit")).preprocess.source == "preprocessor_config.json"
    assert loaded(timm_folder).preprocess.source == "config.json: pretrained_cfg"
    folder = copied(tiny_model("vit"), tmp_path)
    (folder / "preprocessor_config.json").unlink()
    assert loaded(folder).preprocess.source == "ViTImageProcessor's defaults"


def test_preprocess_timm_takes_the_published_one_of_the_family(tiny_model: TinyModel) -> None:
    vit = loaded(tiny_model("vit"), preprocess="timm").preprocess
    assert (vit.fit, vit.resize, vit.resample, vit.crop) == (
        "shortest",
        (71, 71),
        "bicubic",
        "timm",
    )
    assert vit.mean == HALF
    deit = loaded(tiny_model("deit"), preprocess="timm").preprocess
    assert (deit.resize, deit.mean) == ((71, 71), IMAGENET_MEAN)
    dinov2 = loaded(tiny_model("dinov2"), preprocess="timm").preprocess
    assert (dinov2.resize, dinov2.mean) == ((64, 64), IMAGENET_MEAN)


def test_preprocess_hf_takes_the_squash_and_clamps_16_bit_grey(
    tiny_model: TinyModel, timm_folder: Path
) -> None:
    own = loaded(tiny_model("vit"))
    hf = loaded(tiny_model("vit"), preprocess="hf")
    assert (own.preprocess.grey16, hf.preprocess.grey16) == ("scale", "clamp")
    assert hf.preprocess.resize == own.preprocess.resize
    plan = loaded(timm_folder, preprocess="hf").preprocess
    assert (plan.fit, plan.resize, plan.resample, plan.crop) == (
        *("squash", (64, 48), "bilinear", "hf"),
    )
    assert loaded(timm_folder).preprocess == loaded(timm_folder, preprocess="timm").preprocess


def test_exif_is_applied_unless_it_is_turned_off(tiny_model: TinyModel) -> None:
    assert loaded(tiny_model("vit")).preprocess.exif
    assert not loaded(tiny_model("vit"), exif=False).preprocess.exif


def test_a_deit_file_that_says_one_half_is_obeyed_and_said(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    folder = copied(tiny_model("deit"), tmp_path)
    assert loaded(folder).notes == ()
    edit_json(folder / "preprocessor_config.json", image_mean=[0.5] * 3, image_std=[0.5] * 3)
    model = loaded(folder)
    assert model.preprocess.mean == HALF
    (note,) = model.notes
    assert "DeiT was trained with ImageNet's mean and std" in note
    published = loaded(folder, preprocess="timm")
    assert published.preprocess.mean == IMAGENET_MEAN
    assert published.notes == ()


def test_a_file_that_does_not_rescale_is_obeyed_and_said(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path)
    edit_json(folder / "preprocessor_config.json", do_rescale=False)
    model = loaded(folder)
    assert model.preprocess.rescale == 1
    assert any("do_rescale: false" in note for note in model.notes)


def test_tiles_that_are_not_cut_are_said() -> None:
    processor = {"image_processor_type": "GotOcr2ImageProcessorFast", "crop_to_patches": True}
    (note,) = from_hf(processor, "internvl_vision", (448, 448), None).notes
    assert note.startswith("preprocessor_config.json says crop_to_patches: true")


def test_without_a_file_the_defaults_are_taken_at_the_models_size_and_said(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path)
    (folder / "preprocessor_config.json").unlink()
    model = loaded(folder)
    assert model.preprocess.size == model.config.image_size == (64, 64)
    (note,) = model.notes
    assert note.startswith("no preprocessor_config.json: ")
    assert "resize(squash 64x64, bilinear)" in note


@pytest.mark.parametrize(
    ("family", "fit", "resize", "size"),
    [
        ("deit", "squash", 64, 64),
        ("mae", "squash", 64, 64),
        ("dinov2", "shortest", 256, 224),
        ("dinov2-reg", "shortest", 256, 224),
    ],
)
def test_without_a_file_a_family_is_seen_as_its_files_on_the_hub_say(
    family: str, fit: str, resize: int, size: int, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """The defaults of transformers' classes are another family's: BiT's, with CLIP's colours."""
    folder = copied(tiny_model(family), tmp_path)
    (folder / "preprocessor_config.json").unlink()
    model = loaded(folder)
    plan = model.preprocess
    assert (plan.mean, plan.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert (plan.fit, plan.resize, plan.size) == (fit, (resize, resize), (size, size))
    assert plan.source.endswith("on the hub")
    assert any(note.startswith("no preprocessor_config.json: ") for note in model.notes)
    assert model.config.image_size == model.preprocess.size
    other = loaded(folder, image_size=(112, 112)).preprocess
    assert other.resize == ((128, 128) if fit == "shortest" else (112, 112))


@pytest.mark.parametrize(
    ("family", "image_size", "fit", "resize"),
    [
        ("vit", (96, 96), "squash", (96, 96)),
        ("vit", (96, 64), "squash", (96, 64)),
        ("deit", (128, 128), "squash", (146, 146)),
        ("dinov2", (128, 128), "shortest", (146, 146)),
        ("dinov2", (128, 64), "cover", (146, 73)),
    ],
)
def test_another_image_size_keeps_the_crop_ratio(
    family: str, image_size: Size, fit: str, resize: Size, tiny_model: TinyModel
) -> None:
    plan = loaded(tiny_model(family), image_size=image_size).preprocess
    assert (plan.size, plan.fit, plan.resize) == (image_size, fit, resize)
    for width, height in PICTURES:
        assert preprocess(photo(width, height), plan).shape == (*image_size, 3)


def test_another_image_size_keeps_timms_crop_ratio(timm_folder: Path) -> None:
    plan = loaded(timm_folder, image_size=(96, 128)).preprocess
    assert (plan.size, plan.resize) == ((96, 128), scaled((96, 128), 0.9))


def test_a_picture_without_resizing_is_cropped_to_the_models_size() -> None:
    found = from_hf({"do_resize": False}, "vit", (64, 48), None)
    assert (found.plan.resize, found.plan.size) == (None, (64, 48))
    assert preprocess(photo(100, 100), found.plan).shape == (64, 48, 3)


def test_a_description_is_one_line_of_steps(tiny_model: TinyModel) -> None:
    assert loaded(tiny_model("dinov2")).preprocess.describe() == (
        "exif_turn | rgb | resize(shortest 73, bicubic) | center_crop(64x64) | "
        "normalize(mean=0.485/0.456/0.406, std=0.229/0.224/0.225)"
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_processor_type": "SamImageProcessor"}, "asks for a Sam image processor"),
        ({"size": {"longest_edge": 64}}, "size is {'longest_edge': 64}, which is not supported"),
        ({"size": "big"}, "size is 'big'"),
        ({"size": 0}, "size is [0, 0]"),
        ({"size": {"height": 64, "width": -1}}, "size is [64, -1]"),
        ({"size": {"shortest_edge": 64, "longest_edge": "x"}}, "longest_edge is 'x'"),
        ({"do_center_crop": True, "crop_size": {"height": 64}}, "crop_size is [64, None]"),
        ({"resample": 9}, "resample is 9"),
        ({"resample": [2]}, "resample is [2]"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is [0.5, 0.5]: expected three numbers"),
        ({"image_mean": "half"}, "image_mean is 'half'"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std is 0"),
        ({"image_std": [0.5, 0.5, float("nan")]}, "image_std is nan"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"rescale_factor": "x"}, "rescale_factor is 'x'"),
        ({"do_pad": True, "pad_size": {"height": 80, "width": 80}}, "do_pad is not supported"),
    ],
    ids=str,
)
def test_a_processor_that_lies_is_refused_by_the_name_of_its_field(
    changes: Json, says: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path)
    edit_json(folder / "preprocessor_config.json", **changes)
    assert says in refusal(folder)


def test_one_number_stands_for_three_channels() -> None:
    plan = from_hf({"image_mean": 0.25, "image_std": 0.5}, "vit", (64, 64), None).plan
    assert (plan.mean, plan.std) == ((0.25,) * 3, HALF)


def test_an_unknown_crop_mode_is_refused() -> None:
    with pytest.raises(CheckpointError, match="crop_mode is 'corner'"):
        from_timm({"crop_mode": "corner"}, (224, 224), None, "test")


@pytest.mark.parametrize(
    ("family", "size", "described"),
    [
        (p.DINOV3, 256, "shortest 256, bicubic, imagenet"),
        (p.PE, 336, "shortest 336, bicubic, half"),
        (p.EVA02, 224, "shortest 248, bicubic, clip"),
        (p.EVA02, 336, "shortest 336, bicubic, clip"),
        (p.EVA02, 448, "squash 448, bicubic, clip"),
        (p.BEIT, 224, "shortest 248, bicubic, half"),
        (p.BEIT, 384, "shortest 384, bicubic, half"),
        (p.TIPS, 448, "shortest 448, bicubic, zero"),
        (p.RADIO, 512, "shortest 512, bicubic, clip"),
        (p.INTERNVIT, 448, "shortest 448, bicubic, imagenet"),
        (p.AIMV2, 224, "shortest 224, bicubic, clip"),
        (p.IJEPA, 224, "shortest 248, bicubic, imagenet"),
        (p.IJEPA, 448, "shortest 448, bicubic, imagenet"),
        (p.SWIN, 256, "shortest 284, bicubic, imagenet"),
    ],
    ids=lambda value: value.name if isinstance(value, p.Family) else str(value),
)
def test_a_family_is_evaluated_as_timm_publishes_it(
    family: p.Family, size: int, described: str
) -> None:
    """As the `pretrained_cfg` of timm 1.0.31's models of this size."""
    plan = from_timm(family.evaluation((size, size)), (size, size), None, "test")
    assert described == words_of(plan)


def words_of(plan: Preprocess) -> str:
    named = {IMAGENET_MEAN: "imagenet", HALF: "half", CLIP_MEAN: "clip", p.ZERO: "zero"}
    assert plan.resize is not None
    return f"{plan.fit} {plan.resize[0]}, {plan.resample}, {named.get(plan.mean, plan.mean)}"


@pytest.mark.parametrize(
    ("name", "family", "described"),
    [
        ("beit_base", p.BEIT, "shortest 71, bicubic, half"),
        ("beitv2_base.pth", p.BEIT, "shortest 71, bicubic, imagenet"),
        ("vitl16_sat493m.pth", p.DINOV3, f"shortest 64, bicubic, {p.SAT_MEAN}"),
        ("lingbot-vision", p.DINOV3, "squash 64, bilinear, imagenet"),
    ],
)
def test_a_files_name_tells_the_variant_of_a_family(
    name: str, family: p.Family, described: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model("vit")
    checkpoint = replace(resolve(str(model)), spec=str(tmp_path / name))
    layout = replace(LAYOUTS[0], words="hf", json_words="hf", family=family)
    config = replace(loaded(model).config, image_size=(64, 64))
    plan = choose_preprocess(checkpoint, layout, config, None, "timm").plan
    assert words_of(plan) == described


@pytest.mark.parametrize(
    ("model_type", "described"),
    [
        ("dinov3_vit", "squash 224, bilinear, imagenet"),
        ("beit", "squash 224, bilinear, half"),
        ("data2vec-vision", "squash 224, bicubic, half"),
        ("tipsv2_vision_model", "squash 448, bilinear, zero"),
        ("ijepa", "squash 224, bilinear, imagenet"),
        ("pixio", "squash 256, bicubic, imagenet"),
        ("swinv2", "squash 224, bicubic, imagenet"),
        ("aimv2", "shortest 224, bicubic, clip"),
        ("mlcd_vision_model", "shortest 224, bicubic, clip"),
        ("intern_vit_6b", "shortest 448, bicubic, imagenet"),
    ],
)
def test_a_family_of_transformers_has_a_processor(model_type: str, described: str) -> None:
    side = {"tipsv2_vision_model": 448, "intern_vit_6b": 448, "pixio": 256}.get(model_type, 224)
    plan = from_hf({}, model_type, (side, side), None).plan
    assert plan.size == (side, side)
    assert words_of(plan) == described
    own = {"dinov3_vit": "floats", "tipsv2_vision_model": "torch"}
    assert plan.resizer == own.get(model_type, "pillow")


def test_pixels_without_statistics_are_zero_to_one() -> None:
    plan = from_hf(
        {"image_processor_type": "Tipsv2ImageProcessor"}, "tipsv2", (448, 448), None
    ).plan
    assert plan.describe().endswith("bytes with torch) | normalize(mean=0, std=1)")
    for written in (
        from_hf(to_hf(plan), "vit", (448, 448), None).plan,
        from_timm(to_timm(plan), (448, 448), None, "test"),
    ):
        assert (written.mean, written.std) == (p.ZERO, p.ONE)
    x = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(Normalisation(plan)(x), x / 255)
    assert torch.equal(Normalisation(plan).inverse(x / 255), x)
