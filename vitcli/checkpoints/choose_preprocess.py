"""Which preprocessing a checkpoint gets: its own, in whose words it is written, or another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vitcli.checkpoints.layouts.layout import Json, Layout
from vitcli.checkpoints.layouts.openai import model_config
from vitcli.checkpoints.layouts.timm import image_size as timm_image_size
from vitcli.checkpoints.layouts.timm import pretrained_cfg
from vitcli.checkpoints.preprocessing import (
    HF_KEYS,
    TIMM_KEYS,
    Found,
    clamped,
    from_hf,
    from_open_clip,
    from_timm,
    origins,
    own,
    published,
)
from vitcli.checkpoints.published import HALF, OPEN_CLIP
from vitcli.checkpoints.resolve import Checkpoint
from vitcli.errors import UsageError
from vitcli.models.config import Config
from vitcli.records import Size

MAX_SIDE = 16_384


def choose(
    checkpoint: Checkpoint,
    layout: Layout,
    config: Config,
    image_size: Size | None,
    override: str | None,
) -> Found:
    """The checkpoint's own preprocessing, or the one asked for ("hf" or "timm"), with the origin
    of every step. Raises UsageError for an image size that does not fit the patches."""
    found = _choose(checkpoint, layout, config, image_size, override)
    if override == "hf":
        found = replace(found, plan=clamped(found.plan))
    _check_size(found.plan.size, config, asked=image_size is not None)
    return replace(found, origins=_origins(found, asked=image_size is not None))


def _choose(
    checkpoint: Checkpoint,
    layout: Layout,
    config: Config,
    image_size: Size | None,
    override: str | None,
) -> Found:
    json, size, family = checkpoint.config, config.image_size, _family(checkpoint, layout)
    is_old_timm = layout.name == "swin" and json
    words = "timm" if is_old_timm else layout.words
    if override == "timm" and words != "timm":
        source = f"--preprocess timm: {family} as published"
        return Found(published(family, image_size or size, source))
    if override == "hf" and words != "hf":
        kind = family if family in ("dinov2", "clip", "swin") else "vit"
        return from_hf({}, kind, size, image_size)
    if words == "hf":
        return _hf(checkpoint, family, size, image_size)
    if words == "timm":
        return _timm(json, family, size, image_size)
    if words == "open_clip":
        return _open_clip(json, layout, config, image_size)
    return own(layout.name, size, image_size)


def _hf(checkpoint: Checkpoint, family: str, size: Size, image_size: Size | None) -> Found:
    processor, model_type = checkpoint.processor, str(checkpoint.config.get("model_type", ""))
    found = from_hf(processor, model_type, size, image_size)
    if not processor:
        note = f"no preprocessor_config.json: {found.plan.describe()} is taken"
    elif family == "deit" and found.plan.mean == HALF:
        note = (
            "DeiT was trained with ImageNet's mean and std, this file says 0.5; "
            "the file is obeyed (--preprocess timm takes the published one)"
        )
    else:
        return found
    return replace(found, notes=(*found.notes, note))


def _timm(json: Json, family: str, size: Size, image_size: Size | None) -> Found:
    cfg = pretrained_cfg(json)
    size = timm_image_size(json) or size
    if "mean" in cfg or "crop_pct" in cfg:
        source = "config.json: pretrained_cfg"
        plan = from_timm(cfg, size, image_size, source)
        return Found(plan, origins=origins(TIMM_KEYS, cfg, source, "timm's default"))
    if family == "swin":
        plan = published("swin", image_size or size, "timm's Swin as published")
    else:
        plan = published("timm", image_size or size, "timm's default")
    note = f"the file has no preprocessing: {plan.source} is taken: {plan.describe()}"
    if not json and family != "swin":
        note += "; a file of DINO, DeiT or MAE looks the same: --layout dino, deit or mae says so"
    return Found(plan, (note,))


def _open_clip(json: Json, layout: Layout, config: Config, image_size: Size | None) -> Found:
    """open_clip's own; what is not said is said to be taken, the activation too."""
    cfg, size, called = json.get("preprocess_cfg"), config.image_size, layout.family.upper()
    source = "open_clip_config.json: preprocess_cfg" if cfg else f"{called}'s default"
    plan = from_open_clip(cfg or OPEN_CLIP[layout.family], size, image_size, source)
    notes = []
    if not cfg:
        notes.append(f"the file has no preprocessing: {called}'s is taken: {plan.describe()}")
    if "vision_cfg" not in model_config(json) and layout.family == "clip":
        names = {"quick_gelu": "QuickGELU, as OpenAI's weights have it"}
        taken = names.get(config.act, "GELU (--layout openai takes QuickGELU)")
        notes.append(f"no open_clip_config.json says the activation: {taken} is taken")
    return Found(plan, tuple(notes))


def _origins(found: Found, *, asked: bool) -> dict[str, str]:
    """Where each step of the preprocessing came from, by its name."""
    sources = {name: found.plan.source for name in HF_KEYS} | dict(found.origins)
    if asked:
        for name in ("resize", "center_crop"):
            sources[name] += "; size: --image-size"
    is_clamped = found.plan.grey16 == "clamp"
    return {
        "reduced_decode": "--decode fast",
        "exif_turn": "vitcli; --no-exif omits it",
        "rgb": "--preprocess hf" if is_clamped else "vitcli; 16-bit grey is scaled",
        **sources,
    }


def _family(checkpoint: Checkpoint, layout: Layout) -> str:
    """Whose published preprocessing fits: told by the layout or the config, or by the name for
    DeiT, whose plain models call themselves ViT."""
    if layout.family:
        return layout.family
    config, called = checkpoint.config, Path(checkpoint.spec).name
    kind = f"{config.get('model_type', '')} {config.get('architecture', '')}"
    if "deit" in f"{called} {config.get('_name_or_path', '')} {kind}".lower():
        return "deit"
    if "vit_mae" in kind:
        return "mae"
    return "dinov2" if "dinov2" in kind else "vit"


def _check_size(size: Size, config: Config, *, asked: bool) -> None:
    patch = config.patch_size
    if size[0] < patch[0] or size[1] < patch[1]:
        raise UsageError(f"an image of {size[0]}x{size[1]} is smaller than one patch of {patch[0]}")
    if asked and (size[0] % patch[0] or size[1] % patch[1]):
        near = [max(1, round(s / p)) * p for s, p in zip(size, patch, strict=True)]
        raise UsageError(
            f"--image-size {size[0]}x{size[1]} is not a multiple of the patch size {patch[0]}",
            f"the nearest is {near[0]}x{near[1]}",
        )
    if max(size) > MAX_SIDE:
        raise UsageError(f"an image of {size[0]}x{size[1]} is too large for a model")
