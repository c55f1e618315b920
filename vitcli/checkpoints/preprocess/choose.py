"""Choose a checkpoint's preprocessing: from its JSON, as published for its family, or as the user
asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vitcli.checkpoints.layouts.layout import Json, Layout
from vitcli.checkpoints.layouts.texts.open_clip import model_config
from vitcli.checkpoints.layouts.timm import image_size as timm_image_size
from vitcli.checkpoints.layouts.timm import pretrained_cfg
from vitcli.checkpoints.preprocess.fields import FoundPreprocess, origins
from vitcli.checkpoints.preprocess.hf import (
    FAST,
    HF_KEYS,
    MAX_PATCHES,
    MAX_SIDE,
    as_fast,
    from_hf,
    normalised_again,
    resizing,
    to_hf,
    with_max_patches,
)
from vitcli.checkpoints.preprocess.published import (
    CLIP,
    DEIT,
    DINOV2,
    HALF,
    MAE,
    RADIO,
    TIMM_DEFAULT,
    VIT,
    Family,
)
from vitcli.checkpoints.preprocess.timm import TIMM_KEYS, from_open_clip, from_timm, to_timm
from vitcli.checkpoints.resolve import Checkpoint
from vitcli.errors import CheckpointError, UsageError
from vitcli.models.config import Config, ViTConfig
from vitcli.records import Preprocess, Size, by


def choose_preprocess(
    checkpoint: Checkpoint,
    layout: Layout,
    config: Config,
    image_size: Size | None,
    override: str | None,
    *,
    patch_size: Size | None = None,
    max_patches: int | None = None,
) -> FoundPreprocess:
    """The checkpoint's own preprocessing, or the one the user named ("hf", "hf-fast" or "timm"),
    with the origin of every step. Raises UsageError for an image size that does not fit the
    patches, which have the size in the config, or `patch_size`, and for an option that a model of
    any shape, or any other, does not have."""
    takes_any = isinstance(config, ViTConfig) and config.any_grid
    of_others: dict[str, object] = {"--image-size": image_size, "--patch-size": patch_size}
    of_others["--preprocess timm"] = "timm" if override == "timm" else None
    _check_options(of_others if takes_any else {"--max-patches": max_patches}, takes_any=takes_any)
    chosen = _found(checkpoint, layout, config, image_size, override)
    if isinstance(config, ViTConfig) and config.pixel_norm and override != "timm":
        plan = normalised_again(chosen.plan, config.pixel_norm)
        chosen = replace(chosen, plan=plan, origins={**chosen.origins, "normalize": "the model"})
    if chosen.plan.varies != takes_any or (takes_any and chosen.plan.patch != config.patch_size[0]):
        raise CheckpointError(
            f"{checkpoint.processor_file} is not of this model, which takes "
            + (f"patches of {by(config.patch_size)} of any image" if takes_any else "one size"),
            "give the model's own file",
        )
    if max_patches is not None:
        chosen = _limited(chosen, max_patches)
    if override == FAST:
        chosen = as_fast(chosen, f"--preprocess {FAST}")
    if override in ("hf", FAST):  # transformers clips 16-bit greyscale to white
        origin = {"rgb": f"--preprocess {override}"}
        plan = replace(chosen.plan, grey16="clamp")
        chosen = replace(chosen, plan=plan, origins={**chosen.origins, **origin})
    _check_size(chosen.plan.size, patch_size or config.patch_size, asked=image_size is not None)
    return replace(chosen, origins=_origins(chosen, asked=image_size is not None))


def _check_options(options: Mapping[str, object], *, takes_any: bool) -> None:
    """Raise UsageError for an option that is given, but does not apply to the model."""
    for option in (option for option, value in options.items() if value is not None):
        if takes_any:
            raise UsageError(
                f"{option}: this model keeps the shape of each image (NaFlex)",
                "--max-patches N sets how many patches an image may have",
            )
        raise UsageError(
            f"{option}: this model takes images of one size",
            "leave it out; --image-size sets the size",
        )


def _limited(found: FoundPreprocess, most: int) -> FoundPreprocess:
    """The preprocessing with the largest number of patches that the user gives."""
    if not 1 <= most <= MAX_PATCHES:
        raise UsageError(
            f"--max-patches {most} is out of range",
            f"give a whole number from 1 to {MAX_PATCHES:,}, such as 256",
        )
    sources = {**found.origins, "resize": f"{found.origins['resize']}; patches: --max-patches"}
    plan = with_max_patches(found.plan, most, "--max-patches")
    return replace(found, plan=plan, origins=sources)


def as_written(plan: Preprocess, library: Literal["transformers", "timm"]) -> Preprocess:
    """The preprocessing that a library reads from the JSON that vitcli writes for it. Raises
    CheckpointError if the library cannot express it."""
    if library == "timm":
        return from_timm(to_timm(plan), plan.size, None, plan.source)
    return from_hf(to_hf(plan), "vit", plan.size, None).plan


def _found(
    checkpoint: Checkpoint,
    layout: Layout,
    config: Config,
    image_size: Size | None,
    override: str | None,
) -> FoundPreprocess:
    json, size = checkpoint.config, config.image_size
    own = layout.family_of(config) or layout.family
    family = own or _family(checkpoint)
    words = layout.json_words if json and layout.json_words else layout.words
    if override == "timm" and words != "timm":
        source = f"--preprocess timm: {family.name} as published"
        cfg = _worded(checkpoint, family, family.evaluation(image_size or size))
        return FoundPreprocess(from_timm(cfg, image_size or size, None, source))
    if override in ("hf", FAST) and words != "hf":
        return from_hf({}, family.processor, size, image_size)
    match words:
        case "hf":
            return _hf(checkpoint, family, size, image_size)
        case "timm":
            return _timm(checkpoint, own, size, image_size)
        case "open_clip":
            return _open_clip(json, family, config, image_size)
        case "own":
            return _own(checkpoint, layout, size, image_size)


def _worded(checkpoint: Checkpoint, family: Family | None, words: Mapping[str, Any]) -> Json:
    """The words of an evaluation, with those of the variant that the model's name or the config's
    architecture names."""
    name = f"{Path(checkpoint.spec).name} {checkpoint.config.get('architecture', '')}".lower()
    variants = family.variants if family else {}
    return {**words, **next((v for key, v in variants.items() if key in name), {})}


def _hf(
    checkpoint: Checkpoint, family: Family, size: Size, image_size: Size | None
) -> FoundPreprocess:
    processor, model_type = checkpoint.processor, str(checkpoint.config.get("model_type", ""))
    if family is RADIO:
        processor, model_type = resizing(processor), "radio"
    found = from_hf(processor, model_type, size, image_size, checkpoint.processor_file)
    if processor is not checkpoint.processor:
        note = f"{checkpoint.processor_file} says do_resize: false; images are resized and cropped"
        return replace(found, notes=(*found.notes, f"{note} to its sizes, as in NVIDIA's examples"))
    if not processor:
        note = f"no preprocessor_config.json: {found.plan.describe()} is taken"
    elif family is DEIT and found.plan.mean == HALF:
        note = (
            "DeiT was trained with ImageNet's mean and std, this file says 0.5; "
            "0.5 is used (--preprocess timm uses the published values)"
        )
    else:
        return found
    return replace(found, notes=(*found.notes, note))


def _timm(
    checkpoint: Checkpoint, family: Family | None, size: Size, image_size: Size | None
) -> FoundPreprocess:
    json, cfg = checkpoint.config, pretrained_cfg(checkpoint.config)
    size = timm_image_size(json) or size
    if "mean" in cfg or "crop_pct" in cfg:
        source = "config.json: pretrained_cfg"
        plan = from_timm(cfg, size, image_size, source)
        return FoundPreprocess(plan, origins=origins(TIMM_KEYS, cfg, source, "timm's default"))
    if family is not None:
        source = f"timm's {family.name.capitalize()} as published"
        size = image_size or size
        plan = from_timm(_worded(checkpoint, family, family.evaluation(size)), size, None, source)
    else:
        size = image_size or size
        plan = from_timm(TIMM_DEFAULT(size), size, None, "timm's default")
    note = f"the file has no preprocessing: {plan.source} is taken: {plan.describe()}"
    if not json and family is None:
        note += "; a file of DINO, DeiT or MAE looks the same: --layout dino, deit or mae says so"
    return FoundPreprocess(plan, (note,))


def _open_clip(
    json: Json, family: Family, config: Config, image_size: Size | None
) -> FoundPreprocess:
    """Read open_clip's preprocessing. The notes list every value that no file has, including the
    activation."""
    cfg, size, name = json.get("preprocess_cfg"), config.image_size, family.name.upper()
    source = "open_clip_config.json: preprocess_cfg" if cfg else f"{name}'s default"
    plan = from_open_clip(cfg or family.open_clip, size, image_size, source)
    notes = []
    if not cfg:
        notes.append(f"the file has no preprocessing: {name}'s is taken: {plan.describe()}")
    if "vision_cfg" not in model_config(json) and family is CLIP:
        names = {"quick_gelu": "QuickGELU, as OpenAI's weights have it"}
        activation = names.get(config.act, "GELU (--layout openai takes QuickGELU)")
        notes.append(f"no open_clip_config.json says the activation: {activation} is taken")
    return FoundPreprocess(plan, tuple(notes))


def _own(
    checkpoint: Checkpoint, layout: Layout, model_size: Size, image_size: Size | None
) -> FoundPreprocess:
    """The evaluation preprocessing of the layout's repository, with a note."""
    assert layout.evaluation is not None, f"{layout.name} has neither words nor an evaluation"
    cfg = _worded(checkpoint, layout.family, layout.evaluation(model_size))
    source = f"{layout.name}'s own evaluation"
    plan = from_timm(cfg, cfg.get("size", model_size), image_size, source)
    plan = replace(plan, resizer=cfg.get("resizer", "pillow"))
    note = f"the file has no preprocessing: {plan.source} is taken: {plan.describe()}"
    return FoundPreprocess(plan, (note,))


def _origins(found: FoundPreprocess, *, asked: bool) -> dict[str, str]:
    """The origin of each step of the preprocessing, by its name."""
    sources = {name: found.plan.source for name in HF_KEYS} | dict(found.origins)
    if asked:
        for name in ("resize", "center_crop"):
            sources[name] += "; size: --image-size"
    return {
        "reduced_decode": "--decode fast",
        "exif_turn": "vitcli; --no-exif omits it",
        "rgb": "vitcli; 16-bit grey is scaled",
        **sources,
    }


def _family(checkpoint: Checkpoint) -> Family:
    """The family whose published preprocessing applies, from the config. The configs of DeiT's
    plain models say ViT, so the checkpoint's name may also say DeiT."""
    config, name = checkpoint.config, Path(checkpoint.spec).name
    kind = f"{config.get('model_type', '')} {config.get('architecture', '')}"
    if "deit" in f"{name} {config.get('_name_or_path', '')} {kind}".lower():
        return DEIT
    if "vit_mae" in kind:
        return MAE
    return DINOV2 if "dinov2" in kind else VIT


def _check_size(size: Size, patch: Size, *, asked: bool) -> None:
    patches = str(patch[0]) if patch[0] == patch[1] else by(patch)
    if min(patch) < 1:
        raise UsageError(
            f"--patch-size {by(patch)} is too small", "give a number of pixels, such as 16"
        )
    if size[0] < patch[0] or size[1] < patch[1]:
        raise UsageError(
            f"an image of {by(size)} is smaller than one patch of {patches}",
            "give a larger --image-size or a smaller --patch-size",
        )
    if asked and (size[0] % patch[0] or size[1] % patch[1]):
        near = [max(1, round(s / p)) * p for s, p in zip(size, patch, strict=True)]
        raise UsageError(
            f"--image-size {by(size)} is not a multiple of the patch size {patches}",
            f"the nearest is {near[0]}x{near[1]}",
        )
    if max(size) > MAX_SIDE:
        raise UsageError(f"an image of {by(size)} is too large for a model")
