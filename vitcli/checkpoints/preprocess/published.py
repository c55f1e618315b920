"""The defaults of the libraries for keys that a file leaves out, and the published evaluation
preprocessing of the model families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitcli.records import Resample, Size

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

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
}
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
    "swin": "ViT",
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
    the family's preprocessing in open_clip's words."""

    name: str
    evaluation: Evaluation
    processor: str = "vit"
    open_clip: Mapping[str, Any] = field(default_factory=dict)


def _swin(size: Size) -> Mapping[str, Any]:
    return {"interpolation": "bicubic", "crop_pct": 1.0 if size[0] == 384 else 0.9}


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
BEIT = Family("beit", always(**_HALF, interpolation="bicubic", crop_pct=0.9), "beit")
SWIN = Family("swin", _swin, "swin")
TIMM_DEFAULT = always(interpolation="bicubic", crop_pct=0.875)
