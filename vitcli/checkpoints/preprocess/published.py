"""The defaults of the libraries for keys that a file leaves out, and the published evaluation
preprocessing of the model families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vitcli.records import Resample, Resizer, Size

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SAT_MEAN, SAT_STD = (0.43, 0.411, 0.296), (0.213, 0.156, 0.143)  # DINOv3's satellite images

# Pillow's numbers, as preprocessor_config.json writes them.
RESAMPLE: dict[int, Resample] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}

# The defaults of transformers' processor classes.
_SQUASH = {"size": {"height": 224, "width": 224}, "default_to_square": True}
_SHORTEST = {"size": {"shortest_edge": 224}, "default_to_square": False}
_CROP = {"do_center_crop": True, "crop_size": 224}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {**_SQUASH, "resample": 2, "image_mean": HALF, "image_std": HALF},
    "DeiT": {
        **_SQUASH,
        **_CROP,
        "size": {"height": 256, "width": 256},
        "resample": 3,
        "image_mean": HALF,
        "image_std": HALF,
    },
    "Bit": {**_SHORTEST, **_CROP, "resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    "CLIP": {**_SHORTEST, **_CROP, "resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    "Siglip": {
        **_SQUASH,
        "default_to_square": False,
        "resample": 3,
        "image_mean": HALF,
        "image_std": HALF,
    },
    "Siglip2": {
        "patch_size": 16,
        "max_num_patches": 256,
        "resample": 2,
        "image_mean": HALF,
        "image_std": HALF,
    },
    "Beit": {**_SQUASH, "resample": 3, "image_mean": HALF, "image_std": HALF},
    "DINOv3ViT": {
        **_SQUASH,
        "resample": 2,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    },
    "GotOcr2": {
        **_SQUASH,
        "size": {"height": 384, "width": 384},
        "resample": 3,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    },
    "Tipsv2": {
        "size": {"height": 448, "width": 448},
        "default_to_square": True,
        "resample": 2,
        "do_normalize": False,
        "image_mean": ZERO,
        "image_std": ONE,
    },
}
# The processors that exist for torch's tensors only, and the filters of those.
RESIZER_OF: dict[str, Resizer] = {"DINOv3ViT": "floats", "Tipsv2": "torch"}
TORCH_FILTERS: tuple[Resample, ...] = ("bilinear", "bicubic")
PROCESSOR_OF = {
    "vit": "ViT",
    "deit": "DeiT",
    "vit_mae": "ViT",
    "vit_msn": "ViT",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
    "clip": "CLIP",
    "clip_vision_model": "CLIP",
    "metaclip_2": "CLIP",
    "metaclip_2_vision_model": "CLIP",
    "siglip": "Siglip",
    "siglip_vision_model": "Siglip",
    "siglip2": "Siglip2",
    "siglip2_vision_model": "Siglip2",
    "swin": "ViT",
    "swinv2": "ViT",
    "dinov3_vit": "DINOv3ViT",
    "beit": "Beit",
    "data2vec-vision": "Beit",
    "tipsv2": "Tipsv2",
    "tipsv2_vision_model": "Tipsv2",
    "ijepa": "ViT",
    "pixio": "Bit",
    "mlcd": "CLIP",
    "mlcd_vision_model": "CLIP",
    "aimv2": "CLIP",
    "aimv2_vision_model": "CLIP",
    "intern_vit_6b": "CLIP",
    "internvl_chat": "CLIP",
    "internvl": "GotOcr2",
    "internvl_vision": "GotOcr2",
    "radio": "CLIP",
}
# The values that differ from the class's defaults in every file of a family on the hub; and the
# size that the family is evaluated at, if it is not the model's.
_IMAGENET = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
HUB: dict[str, dict[str, Any]] = {
    "deit": {**_SQUASH, **_IMAGENET},
    "vit_mae": _IMAGENET,
    "dinov2": {"size": {"shortest_edge": 256}, **_IMAGENET},
    "dinov2_with_registers": {"size": {"shortest_edge": 256}, **_IMAGENET},
    "swin": {"resample": 3, **_IMAGENET},
    "swinv2": {"resample": 3, **_IMAGENET},
    "beit": {"resample": 2},
    "ijepa": _IMAGENET,
    "pixio": {"size": {"height": 256, "width": 256}, "do_center_crop": False, **_IMAGENET},
    "intern_vit_6b": _IMAGENET,
    "internvl_chat": _IMAGENET,
    "internvl": _IMAGENET,
    "internvl_vision": _IMAGENET,
    "radio": {  # the model normalises its pixels
        "size": {"height": 224, "width": 224},
        "do_center_crop": False,
        "do_normalize": False,
    },
}
HUB_SIZE = {"dinov2": (224, 224), "dinov2_with_registers": (224, 224)}

# Maps a model's image size to its preprocessing, in timm's words.
Evaluation = Callable[[Size], Mapping[str, Any]]


def always(**words: Any) -> Evaluation:
    """The same preprocessing for every image size."""
    return lambda size: words


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models and its published preprocessing, for `--preprocess timm` and for files
    without one. `processor` is the `model_type` whose processor `--preprocess hf` uses, `open_clip`
    the family's preprocessing in open_clip's words. `variants` are the words that differ for models
    with this in their name."""

    name: str
    evaluation: Evaluation
    processor: str = "vit"
    open_clip: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _swin(size: Size) -> Mapping[str, Any]:
    return {"interpolation": "bicubic", "crop_pct": 1.0 if size[0] == 384 else 0.9}


def _whole_if_large(**words: Any) -> Evaluation:
    """A crop of 0.9 at about 224, and the whole image at larger sizes."""
    return lambda size: {
        **words,
        "interpolation": "bicubic",
        "crop_pct": 1.0 if min(size) >= 320 else 0.9,
    }


def _eva02(size: Size) -> Mapping[str, Any]:
    """timm's evaluation: the 448 models are shown the whole image, distorted to a square."""
    words = _whole_if_large(**_CLIP)(size)
    return {**words, "crop_mode": "squash"} if min(size) >= 400 else words


_CLIP = {"mean": CLIP_MEAN, "std": CLIP_STD}
_HALF = {"mean": HALF, "std": HALF}
VIT = Family("vit", always(**_HALF, interpolation="bicubic", crop_pct=0.9))
DEIT = Family("deit", always(interpolation="bicubic", crop_pct=0.9))
DINO = Family("dino", always(interpolation="bicubic", crop_pct=0.9))
MAE = Family("mae", always(interpolation="bicubic", crop_pct=0.9))
DINOV2 = Family("dinov2", always(interpolation="bicubic", crop_pct=1.0), "dinov2")
CLIP = Family("clip", always(**_CLIP, interpolation="bicubic", crop_pct=1.0), "clip")
SIGLIP = Family(
    "siglip",
    always(**_HALF, interpolation="bicubic", crop_pct=0.9),
    open_clip={**_HALF, "resize_mode": "squash"},
)
SIGLIP2 = replace(SIGLIP, name="siglip2", processor="siglip2")
SWIN = Family("swin", _swin, "swin")
_SAT = {"mean": SAT_MEAN, "std": SAT_STD}
_LINGBOT = {"interpolation": "bilinear", "crop_mode": "squash", "size": (512, 512)}
DINOV3 = Family(
    "dinov3",
    always(interpolation="bicubic", crop_pct=1.0),
    "dinov3_vit",
    variants={"sat493m": _SAT, "lingbot": _LINGBOT},
)
PE = Family(
    "pe",
    always(**_HALF, interpolation="bicubic", crop_pct=1.0),
    open_clip={**_HALF, "interpolation": "bilinear", "resize_mode": "squash"},
)
EVA02 = Family("eva02", _eva02, "clip")
_V2 = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
BEIT = Family(
    "beit",
    _whole_if_large(**_HALF),
    "beit",
    variants={"beitv2": _V2},
)
BEIT3 = Family("beit3", always(interpolation="bicubic", crop_pct=1.0))
TIPS = Family("tips", always(mean=ZERO, std=ONE, interpolation="bicubic", crop_pct=1.0), "tipsv2")
RADIO = Family("radio", always(**_CLIP, interpolation="bicubic", crop_pct=1.0), "radio")
INTERNVIT = Family("internvit", always(interpolation="bicubic", crop_pct=1.0), "intern_vit_6b")
AIMV2 = Family("aimv2", always(**_CLIP, interpolation="bicubic", crop_pct=1.0), "aimv2")
IJEPA = Family("ijepa", _whole_if_large(), "ijepa")
# The evaluations of the repositories of Meta, Google and BAAI, for their own files, where they
# differ from timm's: DINOv3's README, `core/vision_encoder/transforms.py` of Perception Encoder,
# Pixio's README, TIPSv2's model card, EVA-02's README, `eva_clip/transform.py` of EVA-CLIP.
DINOV3_OWN = always(
    interpolation="bilinear", crop_pct=1.0, crop_mode="squash", size=(256, 256), resizer="torch"
)
PE_OWN = always(**_HALF, interpolation="bilinear", crop_pct=1.0, crop_mode="squash")
EVA_OWN = always(**_CLIP, interpolation="bicubic", crop_pct=1.0)
PIXIO_OWN = always(interpolation="bicubic", crop_pct=1.0, crop_mode="squash", size=(256, 256))
TIPS_OWN = always(
    mean=ZERO, std=ONE, interpolation="bilinear", crop_pct=1.0, crop_mode="squash", size=(448, 448)
)
PIXIO = Family("pixio", PIXIO_OWN, "pixio")
TIMM_DEFAULT = always(interpolation="bicubic", crop_pct=0.875)
