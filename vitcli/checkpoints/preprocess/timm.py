"""Read the preprocessing JSON of timm and open_clip as a `Preprocess`, and write timm's."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from vitcli.checkpoints.layouts.layout import Json, pair
from vitcli.checkpoints.preprocess.fields import positive, positive_triple, resample, triple
from vitcli.checkpoints.preprocess.published import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from vitcli.errors import CheckpointError
from vitcli.records import Preprocess, Size

# The keys that each step is read from.
TIMM_KEYS = {"resize": ("crop_pct", "interpolation"), "normalize": ("mean", "std")}


def from_timm(cfg: Json, model_size: Size, image_size: Size | None, source: str) -> Preprocess:
    """Read timm's `pretrained_cfg` as the evaluation that timm's `create_transform` builds."""
    size = image_size or model_size
    crop_pct = positive(cfg.get("crop_pct") or 0.875, "crop_pct")
    mode = cfg.get("crop_mode") or "center"
    scaled = math.floor(size[0] / crop_pct), math.floor(size[1] / crop_pct)
    mean = triple(cfg.get("mean", IMAGENET_MEAN), "mean")
    is_square = scaled[0] == scaled[1]
    if mode not in ("center", "squash", "border"):
        raise CheckpointError(f"crop_mode is {mode!r}: expected center, squash or border")
    return Preprocess(
        size=size,
        resize=scaled,
        fit="squash"
        if mode == "squash"
        else "contain"
        if mode == "border"
        else "shortest"
        if is_square
        else "cover",
        resample=resample(cfg.get("interpolation") or "bicubic"),
        crop="timm",
        fill=tuple(round(255 * m) for m in mean) if mode == "border" else (0, 0, 0),  # type: ignore[arg-type]
        mean=mean,
        std=positive_triple(cfg.get("std", IMAGENET_STD), "std"),
        source=source,
    )


# open_clip's resize_mode, and timm's crop_mode for it.
_CROP_MODES = {"shortest": "center", "squash": "squash", "longest": "border"}


def from_open_clip(cfg: Json, model_size: Size, image_size: Size | None, source: str) -> Preprocess:
    """Read open_clip's `preprocess_cfg` as the evaluation that its `image_transform` builds.

    The steps are timm's with a crop ratio of 1; only the colour of the border differs.
    """
    cfg = {key: value for key, value in cfg.items() if value is not None}
    mode = cfg.get("resize_mode", "shortest")
    if mode not in _CROP_MODES:
        known = ", ".join(_CROP_MODES)
        raise CheckpointError(f"resize_mode is {mode!r}: expected one of {known}")
    words = {
        "mean": cfg.get("mean", CLIP_MEAN),
        "std": cfg.get("std", CLIP_STD),
        "interpolation": "bilinear" if cfg.get("interpolation") == "bilinear" else "bicubic",
        "crop_pct": 1.0,
        "crop_mode": _CROP_MODES[mode],
    }
    size = pair(cfg["size"], "size") if "size" in cfg else model_size
    grey = int(cfg.get("fill_color", 0))
    return replace(from_timm(words, size, image_size, source), fill=(grey, grey, grey))


def to_timm(plan: Preprocess) -> dict[str, Any]:
    """Write timm's `pretrained_cfg`, with which timm resizes as Pillow does. Raises CheckpointError
    if timm has no such transform."""
    if plan.varies:
        raise CheckpointError(f"timm has no transform for: {plan.describe()}")
    modes = {"squash": "squash", "shortest": "center", "cover": "center", "contain": "border"}
    cfg = {
        "input_size": [3, *plan.size],
        "fixed_input_size": True,
        "interpolation": plan.resample,
        "crop_pct": _crop_pct(plan),
        "crop_mode": modes[plan.fit],
        "mean": list(plan.mean),
        "std": list(plan.std),
    }
    again = from_timm(cfg, plan.size, None, plan.source)
    if plan.resize is None or plan.longest or again.resize != plan.resize:
        raise CheckpointError(f"timm has no transform for: {plan.describe()}")
    return cfg


def _crop_pct(plan: Preprocess) -> float:
    """A ratio that timm's floor(size / crop_pct) turns into the plan's `resize`."""
    if plan.resize is None:
        return 1.0
    sides = list(zip(plan.size, plan.resize, strict=True))
    low, high = max(s / (r + 1) for s, r in sides), min(s / r for s, r in sides)
    published = (1.0, 0.9, 0.875, 0.95, 0.96)
    return next((pct for pct in published if low < pct <= high), (low + high) / 2)
