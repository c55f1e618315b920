"""What the libraries take where a file is silent, and what the families were evaluated with."""

from __future__ import annotations

from typing import Any

from vitcli.records import Resample

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

# What a processor class of transformers takes where the JSON is silent.
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
# What all of a family's files on the hub say, where the class's defaults are none of its own; and
# the size that it is evaluated at, where that is not the model's.
_IMAGENET = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
HUB: dict[str, dict[str, Any]] = {
    "deit": {**_SQUASH, **_IMAGENET},
    "vit_mae": _IMAGENET,
    "dinov2": {"size": {"shortest_edge": 256}, **_IMAGENET},
    "dinov2_with_registers": {"size": {"shortest_edge": 256}, **_IMAGENET},
    "swin": {"resample": 3, **_IMAGENET},
}
HUB_SIZE = {"dinov2": (224, 224), "dinov2_with_registers": (224, 224)}

# The same for open_clip's models, in its words.
OPEN_CLIP: dict[str, dict[str, Any]] = {
    "clip": {},
    "siglip": {"mean": HALF, "std": HALF, "resize_mode": "squash"},
}

# The families' published evaluation preprocessing in timm's words, for `--preprocess timm` and
# for timm's files that carry none.
PUBLISHED: dict[str, dict[str, Any]] = {
    "vit": {"mean": HALF, "std": HALF, "interpolation": "bicubic", "crop_pct": 0.9},
    "deit": {"interpolation": "bicubic", "crop_pct": 0.9},
    "dino": {"interpolation": "bicubic", "crop_pct": 0.9},
    "mae": {"interpolation": "bicubic", "crop_pct": 0.9},
    "dinov2": {"interpolation": "bicubic", "crop_pct": 1.0},
    "clip": {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "crop_pct": 1.0},
    "siglip": {"mean": HALF, "std": HALF, "interpolation": "bicubic", "crop_pct": 0.9},
    "swin": {"interpolation": "bicubic", "crop_pct": 0.9},
    "swin at 384": {"interpolation": "bicubic", "crop_pct": 1.0},
    "timm": {"interpolation": "bicubic", "crop_pct": 0.875},
}

# The evaluation of the repository that a layout comes from, in the same words, for its own files,
# which carry none: DINO's `eval_knn.py`, DeiT's `datasets.py`, MAE's `util/datasets.py`, DINOv2's
# `dinov2/data/transforms.py`, Swin's `data/build.py`, `vit_jax/input_pipeline.py`, and the
# transforms of torchvision's weights. DINOv2
# trains at 518 in the end and evaluates at 224. Swin's configs for 384 say `CROP: False`.
_CROPPED = {"interpolation": "bicubic", "crop_pct": 0.875}
OWN: dict[str, dict[str, Any]] = {
    "dino": _CROPPED,
    "deit": _CROPPED,
    "mae": _CROPPED,
    "dinov2": {**_CROPPED, "size": (224, 224)},
    "swin": _CROPPED,
    "swin at 384": {"interpolation": "bicubic", "crop_mode": "squash", "crop_pct": 1.0},
    "torchvision": {"interpolation": "bilinear", "crop_pct": 0.875},
    **{
        f"torchvision at {size}": {"interpolation": "bicubic", "crop_pct": 1.0}
        for size in (384, 512, 518)  # of SWAG's weights
    },
    "google": {
        "mean": HALF,
        "std": HALF,
        "interpolation": "bilinear",
        "crop_mode": "squash",
        "crop_pct": 1.0,
    },
}
