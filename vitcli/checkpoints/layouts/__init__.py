"""The naming schemes of the checkpoints people have, one file each, one row each in `LAYOUTS`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vitcli.checkpoints.keymap import knows
from vitcli.checkpoints.layouts import (
    google,
    hf_clip,
    hf_dinov2,
    hf_siglip,
    hf_swin,
    hf_vit,
    meta,
    open_clip_timm,
    openai,
    swin,
    timm,
    timm_swin,
)
from vitcli.checkpoints.layouts.layout import Layout
from vitcli.errors import CheckpointError

LAYOUTS: tuple[Layout, ...] = (
    hf_vit.LAYOUT,
    hf_dinov2.LAYOUT,
    hf_clip.LAYOUT,
    hf_siglip.LAYOUT,
    hf_swin.LAYOUT,
    openai.OPENAI,
    openai.OPEN_CLIP,
    open_clip_timm.LAYOUT,
    timm.LAYOUT,
    *meta.LAYOUTS,
    timm_swin.LAYOUT,
    swin.LAYOUT,
    google.LAYOUT,
)

# Files that are mistaken for a backbone: a name that tells them, what they are, what to do.
REFUSED = (
    (
        r"(module\.)?linear\.weight",
        "a linear classifier alone, as DINO's evaluation trains it on the class tokens of a "
        "backbone's last blocks",
        "the backbone is another file: give that one, and this one with --head",
    ),
    (
        r"weight",
        "one layer alone, such as DINOv2's linear heads",
        "the backbone is another file: give that one, and this one with --head",
    ),
    (
        r".*\.lora_[AB]\..*",
        "a LoRA adapter, as PEFT saves it: what is added to a model, not one",
        "merge it and save the model: merge_and_unload().save_pretrained(...)",
    ),
    (
        r"(module\.)?head\.0\.running_mean",
        "MAE's linear probe: a batch norm stands before its classifier",
        "give the pre-trained or the fine-tuned file",
    ),
    (
        r".*\.(attn|attention|self)\.(logit_scale|(cpb|continuous_position_bias|meta)_mlp\..+)",
        "a Swin Transformer V2, which computes its attention otherwise",
        "give a Swin of the first version",
    ),
    (
        r"(.*/)?conv_root/kernel",
        "a hybrid: a ResNet stands before the Vision Transformer (R50+ViT)",
        "give a plain ViT",
    ),
)


def layout_of(state: Mapping[str, Tensor], name: str | None = None) -> Layout:
    """The one layout that claims these tensors, or the one asked for by name.

    Where none claims them, one that knows all their names is taken: it will say what is missing.
    Raises CheckpointError where none or several do, and for what only looks like a backbone.
    """
    for sign, what, hint in REFUSED:
        told = next((found for found in state if re.fullmatch(sign, found)), None)
        if told is not None:
            shape = list(state[told].shape)
            raise CheckpointError(f"this is {what} ({told} {shape})", hint)
    known = ", ".join(layout.name for layout in LAYOUTS)
    if name is not None:
        for layout in LAYOUTS:
            if layout.name == name:
                return layout
        raise CheckpointError(f"unknown layout {name!r}", f"known are {known}")
    claims = [layout for layout in LAYOUTS if layout.detect(layout.strip(state))]
    if len(claims) == 1:
        return claims[0]
    if claims:
        both = " and ".join(layout.name for layout in claims)
        raise CheckpointError(f"these tensors could be {both}", "choose one with --layout")
    for layout in LAYOUTS:
        names = layout.strip(state)
        if knows(names, layout.rules(names)):
            return layout
    shown = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"no known layout has tensors such as {shown}", f"known are {known}; --layout forces one"
    )
