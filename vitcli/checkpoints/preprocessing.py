"""Preprocessing JSON into a `Preprocess` and back, as transformers, timm and open_clip write it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from vitcli.checkpoints.layouts.layout import Json, number, pair
from vitcli.checkpoints.published import (
    CLIP_MEAN,
    CLIP_STD,
    HUB,
    HUB_SIZE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    OWN,
    PROCESSOR_OF,
    PROCESSORS,
    PUBLISHED,
    RESAMPLE,
)
from vitcli.errors import CheckpointError
from vitcli.records import Preprocess, Resample, Size


@dataclass(frozen=True, slots=True)
class Found:
    """A preprocessing, what a user should know of it, and where its steps came from, by name
    (`plan.source` where a step is not named)."""

    plan: Preprocess
    notes: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)


# The keys that each step is read from.
HF_KEYS = {
    "resize": ("size", "resample"),
    "center_crop": ("crop_size",),
    "rescale": ("rescale_factor",),
    "normalize": ("image_mean", "image_std"),
}
TIMM_KEYS = {"resize": ("crop_pct", "interpolation"), "normalize": ("mean", "std")}


def origins(
    keys: Mapping[str, Sequence[str]], given: Json, file: str, default: str
) -> dict[str, str]:
    """Where each step came from: the file, a default, or both for different keys."""
    found = {}
    for step, names in keys.items():
        silent = [name for name in names if given.get(name) is None]
        if len(silent) == len(names):
            found[step] = default
        else:
            found[step] = f"{file}; {', '.join(silent)}: {default}" if silent else file
    return found


def from_hf(processor: Json, model_type: str, model_size: Size, image_size: Size | None) -> Found:
    """All three generations of `preprocessor_config.json`; `image_size` overrides its own.
    Where there is none, the defaults are scaled to the model's own size, or to the one that the
    family is evaluated at.

    Generation one has integers only, two has `feature_extractor_type`, three has
    `image_processor_type` and sizes as objects. Integers mean a square for ViT and DeiT, the
    shortest edge for BiT and CLIP.
    """
    kind = _processor_kind(processor, model_type)
    known = {k: v for k, v in processor.items() if v is not None}
    hub = HUB.get(model_type, {}) if not processor else {}
    values = {**PROCESSORS[kind], **hub, **known}
    crop = _crop_size(values)
    resize: Size | None
    resize, fit, longest = _resize(values)
    if not values.get("do_resize", True):
        resize = None
    if crop is None and (resize is None or fit == "shortest"):
        crop = model_size
    size = crop or resize or model_size
    if not processor and image_size is None:
        image_size = HUB_SIZE.get(model_type, model_size)
    if image_size is not None:
        if resize is not None:
            resize, fit = _scaled(resize, size, image_size, fit)
        size, longest = image_size, None
    mean, std = values["image_mean"], values["image_std"]
    if not values.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    notes = []
    rescale = _positive(values.get("rescale_factor", 1 / 255), "rescale_factor")
    if not values.get("do_rescale", True):
        rescale = 1.0
        notes.append("preprocessor_config.json says do_rescale: false; pixels stay 0 to 255")
    default = f"{model_type} on the hub" if hub else f"{kind}ImageProcessor's default"
    sources = origins(HF_KEYS, processor, "preprocessor_config.json", default)
    if not values.get("do_center_crop", False):
        sources["center_crop"] = "config.json: image_size"
    plan = Preprocess(
        size=size,
        resize=resize,
        fit=fit,
        longest=longest,
        resample=_resample(values["resample"]),
        rescale=rescale,
        mean=_triple(mean, "image_mean"),
        std=_positive_triple(std, "image_std"),
        source="preprocessor_config.json" if processor else f"{default}s" if not hub else default,
    )
    return Found(plan, tuple(notes), sources)


def from_timm(cfg: Json, model_size: Size, image_size: Size | None, source: str) -> Preprocess:
    """timm's `pretrained_cfg` -> evaluation preprocessing, as `create_transform` builds it."""
    size = image_size or model_size
    crop_pct = _positive(cfg.get("crop_pct") or 0.875, "crop_pct")
    mode = cfg.get("crop_mode") or "center"
    scaled = math.floor(size[0] / crop_pct), math.floor(size[1] / crop_pct)
    mean = _triple(cfg.get("mean", IMAGENET_MEAN), "mean")
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
        resample=_resample(cfg.get("interpolation") or "bicubic"),
        crop="timm",
        fill=tuple(round(255 * m) for m in mean) if mode == "border" else (0, 0, 0),  # type: ignore[arg-type]
        mean=mean,
        std=_positive_triple(cfg.get("std", IMAGENET_STD), "std"),
        source=source,
    )


# open_clip's resize_mode in timm's words.
_CROP_MODES = {"shortest": "center", "squash": "squash", "longest": "border"}


def from_open_clip(cfg: Json, model_size: Size, image_size: Size | None, source: str) -> Preprocess:
    """open_clip's `preprocess_cfg` -> evaluation preprocessing, as its `image_transform` builds it.

    The steps are timm's with nothing cut off, except the colour of the border.
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


def published(family: str, size: Size, source: str) -> Preprocess:
    """What the family was evaluated with, for files that do not say."""
    return from_timm(_words(PUBLISHED, family, size), size, None, source)


def own(layout: str, model_size: Size, image_size: Size | None) -> Found:
    """What the repository of this layout evaluates its files with, and a note that says so."""
    cfg = _words(OWN, layout, model_size)
    plan = from_timm(cfg, cfg.get("size", model_size), image_size, f"{layout}'s own evaluation")
    note = f"the file has no preprocessing: {plan.source} is taken: {plan.describe()}"
    return Found(plan, (note,))


def _words(table: Mapping[str, dict[str, Any]], name: str, size: Size) -> dict[str, Any]:
    """A family's row, which some have for one size apart."""
    return table.get(f"{name} at {size[0]}", table[name])


def clamped(plan: Preprocess) -> Preprocess:
    """16-bit greyscale clamped to white, as transformers does it."""
    return replace(plan, grey16="clamp")


def _processor_kind(processor: Json, model_type: str) -> str:
    name = str(
        processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
    )
    for suffix in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(suffix)
    if not name:
        return PROCESSOR_OF.get(model_type, "ViT")
    if name not in PROCESSORS:
        known = ", ".join(PROCESSORS)
        raise CheckpointError(
            f"preprocessor_config.json asks for a {name} image processor",
            f"known are {known}; --preprocess timm overrides it",
        )
    return name


def _resize(values: Json) -> tuple[Size, Any, int | None]:
    """(target, fit, cap of the longer edge) of any generation's `size`."""
    size = values["size"]
    if isinstance(size, int):
        size = (
            {"height": size, "width": size}
            if values["default_to_square"]
            else {"shortest_edge": size}
        )
    if isinstance(size, list | tuple):
        return pair(size, "size"), "squash", None
    if isinstance(size, dict):
        size = {k: v for k, v in size.items() if v is not None}
        if {"height", "width"} <= size.keys():
            return pair([size["height"], size["width"]], "size"), "squash", None
        if "shortest_edge" in size:
            longest = size.get("longest_edge")
            cap = None if longest is None else pair(longest, "longest_edge")[0]
            return pair(size["shortest_edge"], "size"), "shortest", cap
    raise CheckpointError(f"preprocessor_config.json: size is {size!r}, which is not supported")


def _crop_size(values: Json) -> Size | None:
    if not values.get("do_center_crop", False):
        return None
    crop = values.get("crop_size", 224)
    if isinstance(crop, dict):
        if "shortest_edge" in crop:
            return pair(crop["shortest_edge"], "crop_size")
        return pair([crop.get("height"), crop.get("width")], "crop_size")
    return pair(crop, "crop_size")


def _scaled(resize: Size, size: Size, new: Size, fit: Any) -> tuple[Size, Any]:
    """Resize and crop grow together: the crop ratio stays."""
    scaled = resize[0] * new[0] // size[0], resize[1] * new[1] // size[1]
    if fit == "shortest" and scaled[0] != scaled[1]:
        return scaled, "cover"
    return scaled, fit


def _resample(value: object) -> Resample:
    if isinstance(value, int) and value in RESAMPLE:
        return RESAMPLE[value]
    if value == "random":  # timm, of its training augmentation
        return "bilinear"
    if value in RESAMPLE.values():
        return cast(Resample, value)
    known = ", ".join(RESAMPLE.values())
    raise CheckpointError(f"resample is {value!r}", f"known are {known}")


def _triple(value: object, name: str) -> tuple[float, float, float]:
    numbers: list[Any] = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(numbers) != 3:
        raise CheckpointError(f"{name} is {value!r}: expected three numbers")
    first, second, third = (float(number(n, name)) for n in numbers)
    return first, second, third


def _positive_triple(value: object, name: str) -> tuple[float, float, float]:
    numbers = _triple(value, name)
    for each in numbers:
        _positive(each, name)
    return numbers


def _positive(value: object, name: str) -> float:
    """A number to divide by."""
    found = number(value, name)
    if found <= 0:
        raise CheckpointError(f"{name} is {value!r}: expected a positive number")
    return float(found)


def to_hf(plan: Preprocess) -> dict[str, Any]:
    """A `preprocessor_config.json`. Raises CheckpointError for what transformers cannot do."""
    height, width = plan.size
    target = {"height": height, "width": width}
    values: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": plan.resize is not None,
        "do_rescale": True,
        "rescale_factor": plan.rescale,
        "do_normalize": True,
        "image_mean": list(plan.mean),
        "image_std": list(plan.std),
        "resample": next(n for n, name in RESAMPLE.items() if name == plan.resample),
        "size": target,
    }
    if plan.resize is not None and plan.fit == "squash":
        values["size"] = {"height": plan.resize[0], "width": plan.resize[1]}
        if plan.resize == plan.size:
            return values
        return {**values, "image_processor_type": "DeiTImageProcessor", **_cropped(target)}
    if plan.fit == "shortest" and plan.resize is not None and plan.longest is None:
        values["size"] = {"shortest_edge": plan.resize[0]}
        return {**values, "image_processor_type": "BitImageProcessor", **_cropped(target)}
    raise CheckpointError(f"transformers has no image processor for: {plan.describe()}")


def to_timm(plan: Preprocess) -> dict[str, Any]:
    """timm's `pretrained_cfg`. Raises CheckpointError for what timm cannot do."""
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


def written_plan(plan: Preprocess, library: Literal["transformers", "timm"]) -> Preprocess:
    """What a library makes of the JSON that is written for it, as read again. Raises
    CheckpointError where it cannot do it."""
    if library == "timm":
        return from_timm(to_timm(plan), plan.size, None, plan.source)
    return from_hf(to_hf(plan), "vit", plan.size, None).plan


def _crop_pct(plan: Preprocess) -> float:
    """A ratio that timm's floor(size / crop_pct) turns into the plan's `resize`."""
    if plan.resize is None:
        return 1.0
    sides = list(zip(plan.size, plan.resize, strict=True))
    low, high = max(s / (r + 1) for s, r in sides), min(s / r for s, r in sides)
    published = (1.0, 0.9, 0.875, 0.95, 0.96)
    return next((pct for pct in published if low < pct <= high), (low + high) / 2)


def _cropped(target: dict[str, int]) -> dict[str, Any]:
    return {"do_center_crop": True, "crop_size": target}
