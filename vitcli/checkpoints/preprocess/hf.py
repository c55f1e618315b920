"""Read transformers' `preprocessor_config.json` as a `Preprocess`, and write it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

from vitcli.checkpoints.layouts.layout import Json, pair
from vitcli.checkpoints.preprocess.fields import (
    FoundPreprocess,
    origins,
    positive,
    positive_triple,
    resample,
    triple,
    whole,
)
from vitcli.checkpoints.preprocess.published import (
    HUB,
    HUB_SIZE,
    ONE,
    PROCESSOR_OF,
    PROCESSORS,
    RESAMPLE,
    RESIZER_OF,
    TORCH_FILTERS,
    ZERO,
)
from vitcli.errors import CheckpointError
from vitcli.models.config import Triple
from vitcli.records import Fit, Preprocess, Resizer, Size

# The keys that each step is read from.
HF_KEYS = {
    "resize": ("size", "resample"),
    "center_crop": ("crop_size",),
    "rescale": ("rescale_factor",),
    "normalize": ("image_mean", "image_std"),
}

FAST: Final = "hf-fast"
_OWN_KEY = "vit_preprocess"  # which no library reads: a file written with hf-fast is read with it

_NAFLEX_KEYS = {"resize": ("patch_size", "max_num_patches", "resample")}
MAX_SIDE, MAX_PATCHES = 16_384, 65_536


def from_hf(
    processor: Json,
    model_type: str,
    model_size: Size,
    image_size: Size | None,
    file: str = "preprocessor_config.json",
) -> FoundPreprocess:
    """Read any generation of `preprocessor_config.json`; `image_size` overrides its size. Other
    files may hold the same object.

    Without a file, the defaults are scaled to the family's evaluation size, or to the model's size
    if it has none. The first generation has sizes as integers, the second adds
    `feature_extractor_type`, the third has `image_processor_type` and sizes as objects. An integer
    means a square for ViT and DeiT, the shortest edge for BiT and CLIP.
    """
    kind = _processor_kind(processor, model_type, file)
    known = {k: v for k, v in processor.items() if v is not None}
    hub = HUB.get(model_type, {}) if not processor else {}
    values = {**PROCESSORS[kind], **hub, **known}
    varies = "max_num_patches" in PROCESSORS[kind]
    crop = None if varies else _crop_size(values)
    resize: Size | None
    resize, fit, longest = (model_size, "patches", None) if varies else _resize(values, file)
    if varies and not values.get("do_resize", True):
        raise CheckpointError(f"{file}: images of any shape have to be resized (do_resize: false)")
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
    rescale = positive(values.get("rescale_factor", 1 / 255), "rescale_factor")
    if not values.get("do_rescale", True):
        rescale = 1.0
        notes.append(f"{file} says do_rescale: false; pixels stay 0 to 255")
    default = f"{model_type} on the hub" if hub else f"{kind}ImageProcessor's default"
    if values.get("crop_to_patches"):
        notes.append(f"{file} says crop_to_patches: true; the whole image is one of its tiles here")
    if values.get("do_pad") and values.get("pad_size"):
        raise CheckpointError(f"{file}: do_pad is not supported", "--preprocess timm overrides it")
    sources = origins(HF_KEYS, processor, file, default)
    if not values.get("do_center_crop", False):
        sources["center_crop"] = "config.json: image_size"
    plan = Preprocess(
        size=size,
        resize=resize,
        fit=fit,
        longest=longest,
        resample=resample(values["resample"]),
        rescale=rescale,
        mean=triple(mean, "image_mean"),
        std=positive_triple(std, "image_std"),
        source=file if processor else f"{default}s" if not hub else default,
    )
    if kind in RESIZER_OF and resize is not None:
        plan = _by_torch(plan, RESIZER_OF[kind], file)
    if varies:
        if not processor or _is_of_tensors(processor):
            plan = _by_torch(plan, "torch", file)
        patch = whole(values["patch_size"], "patch_size", 1, MAX_SIDE)
        plan = replace(plan, patch=patch, max_patches=values["max_num_patches"])
        plan = with_max_patches(plan, plan.max_patches, "max_num_patches")
        sources["resize"] = origins(_NAFLEX_KEYS, processor, file, default)["resize"]
    if (own := processor.get(_OWN_KEY)) not in (None, FAST):
        raise CheckpointError(f"{file}: {_OWN_KEY} is {own!r}", f"known is {FAST}")
    found = FoundPreprocess(plan, tuple(notes), sources)
    return found if own is None else as_fast(found, file)


def as_fast(found: FoundPreprocess, by: str) -> FoundPreprocess:
    """The preprocessing of transformers' fast processor, which resizes and crops tensors of bytes,
    as `by` asks. Raises CheckpointError for a filter that it does not have."""
    plan = found.plan
    if plan.resizer == "floats" or plan.crop == FAST:
        return found
    if plan.resize is not None:
        _check_filter(plan, by, "--preprocess hf resizes with Pillow")
        plan = replace(plan, resizer="torch")
    plan = replace(plan, crop=FAST, source=_and(plan.source, by))
    resize = _and(found.origins.get("resize", found.plan.source), by)
    return replace(found, plan=plan, origins={**found.origins, "resize": resize})


def _and(source: str, other: str) -> str:
    return source if other in source else f"{source}; {other}"


def _is_of_tensors(processor: Json) -> bool:
    """Whether a file of SigLIP 2's NaFlex names the class that resizes tensors, as the published
    ones do."""
    return str(processor.get("image_processor_type")).endswith("Fast")


def with_max_patches(plan: Preprocess, most: int, name: str) -> Preprocess:
    """The plan with another largest number of patches, which `name` gives. Raises CheckpointError
    for an impossible one."""
    side = math.isqrt(whole(most, name, 1, MAX_PATCHES)) * plan.patch
    return replace(plan, max_patches=most, size=(side, side), resize=(side, side))


def _by_torch(plan: Preprocess, resizer: Resizer, file: str) -> Preprocess:
    """The plan with another resizer. Raises CheckpointError for other filters, and for a crop that
    needs padding, which transformers' backend for tensors places differently."""
    assert plan.resize is not None
    _check_filter(plan, file, "--preprocess timm overrides it")
    if any(map(int.__lt__, plan.resize, plan.size)):
        (height, width), (rows, columns) = plan.resize, plan.size
        raise CheckpointError(
            f"{file}: a crop of {rows}x{columns} after a resize of tensors to "
            f"{height}x{width} is not supported",
            "--preprocess timm overrides it",
        )
    return replace(plan, resizer=resizer)


def _check_filter(plan: Preprocess, file: str, hint: str) -> None:
    if plan.resample not in TORCH_FILTERS:
        known = ", ".join(TORCH_FILTERS)
        raise CheckpointError(
            f"{file}: a {plan.resample} resize of tensors is not supported",
            f"known are {known}; {hint}",
        )


def _processor_kind(processor: Json, model_type: str, file: str) -> str:
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
            f"{file} asks for a {name} image processor",
            f"known are {known}; --preprocess timm overrides it",
        )
    return name


def _resize(values: Json, file: str) -> tuple[Size, Fit, int | None]:
    """Read any generation's `size` as (target, fit, limit of the longer edge)."""
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
    raise CheckpointError(f"{file}: size is {size!r}, which is not supported")


def _crop_size(values: Json) -> Size | None:
    if not values.get("do_center_crop", False):
        return None
    crop = values.get("crop_size", 224)
    if isinstance(crop, dict):
        if "shortest_edge" in crop:
            return pair(crop["shortest_edge"], "crop_size")
        return pair([crop.get("height"), crop.get("width")], "crop_size")
    return pair(crop, "crop_size")


def _scaled(resize: Size, size: Size, new: Size, fit: Fit) -> tuple[Size, Fit]:
    """Scale the resize with the crop, so that the crop ratio stays."""
    scaled = resize[0] * new[0] // size[0], resize[1] * new[1] // size[1]
    if fit == "shortest" and scaled[0] != scaled[1]:
        return scaled, "cover"
    return scaled, fit


def to_hf(plan: Preprocess) -> dict[str, Any]:
    """Write a `preprocessor_config.json`. Raises CheckpointError if no processor can express it."""
    height, width = plan.size
    target = {"height": height, "width": width}
    values: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": plan.resize is not None,
        "do_rescale": True,
        "rescale_factor": plan.rescale,
        "do_normalize": (plan.mean, plan.std) != (ZERO, ONE),
        "image_mean": list(plan.mean),
        "image_std": list(plan.std),
        "resample": next(n for n, name in RESAMPLE.items() if name == plan.resample),
        "size": target,
    }
    if plan.varies:
        del values["size"]
        patches = {"patch_size": plan.patch, "max_num_patches": plan.max_patches}
        kind = "Siglip2ImageProcessor" + ("Fast" if plan.resizer == "torch" else "")
        return {**values, "image_processor_type": kind, **patches}
    if plan.crop == FAST:
        values = to_hf(replace(plan, crop="hf", resizer="pillow"))
        kind = f"{values['image_processor_type']}Fast"
        return {**values, "image_processor_type": kind, _OWN_KEY: FAST}
    kinds = {resizer: f"{name}ImageProcessor" for name, resizer in RESIZER_OF.items()}
    by_torch = {"image_processor_type": kinds[plan.resizer]} if plan.resizer in kinds else {}
    if plan.resize is not None and plan.fit == "squash":
        values["size"] = {"height": plan.resize[0], "width": plan.resize[1]}
        if plan.resize == plan.size:
            return values | by_torch
        values["image_processor_type"] = "DeiTImageProcessor"
        return values | _cropped(target) | by_torch
    if plan.fit == "shortest" and plan.resize is not None and plan.longest is None:
        values["size"] = {"shortest_edge": plan.resize[0]}
        values["image_processor_type"] = "BitImageProcessor"
        return values | _cropped(target) | by_torch
    raise CheckpointError(f"transformers has no image processor for: {plan.describe()}")


def resizing(processor: Json) -> Json:
    """A RADIO's processor as NVIDIA's model cards call it, with `do_resize=True`. Their images keep
    their shape; here they are cropped to the processor's `crop_size`."""
    if not processor or processor.get("do_resize", True):
        return processor
    return {**processor, "do_resize": True, "do_center_crop": "crop_size" in processor}


def normalised_again(plan: Preprocess, own: tuple[Triple, Triple]) -> Preprocess:
    """The plan with the normalisation inside of the model, (x - mean) / std, after its own."""
    pairs = tuple(zip(plan.mean, plan.std, *own, strict=True))
    first, second, third = (m + s * own_mean for m, s, own_mean, _ in pairs)
    one, two, three = (s * own_std for _, s, _, own_std in pairs)
    return replace(plan, mean=(first, second, third), std=(one, two, three))


def normalised_less(plan: Preprocess, own: tuple[Triple, Triple]) -> Preprocess:
    """The inverse of `normalised_again`."""
    pairs = tuple(zip(plan.mean, plan.std, *own, strict=True))
    one, two, three = (s / own_std for _, s, _, own_std in pairs)
    means = zip(plan.mean, (one, two, three), own[0], strict=True)
    first, second, third = (m - s * own_mean for m, s, own_mean in means)
    return replace(plan, mean=(first, second, third), std=(one, two, three))


def _cropped(target: dict[str, int]) -> dict[str, Any]:
    return {"do_center_crop": True, "crop_size": target}
