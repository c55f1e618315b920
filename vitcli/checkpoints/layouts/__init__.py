"""The naming schemes of the checkpoints people have, one file each, one row each in `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vitcli.checkpoints.keymap import knows
from vitcli.checkpoints.layouts import (
    foreign,
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
    torchvision,
)
from vitcli.checkpoints.layouts.layout import Json, Layout
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
    torchvision.LAYOUT,
)


def layout_of(
    state: Mapping[str, Tensor],
    name: str | None = None,
    config: Json | None = None,
    file: Path | None = None,
) -> Layout:
    """The one layout that claims these tensors, or the one asked for by name.

    What the config calls the model decides first. Where no layout claims the tensors, one that
    knows all their names is taken: it will say what is missing. `file` is a bare file's, whose
    name may say what its tensors do not.
    Raises CheckpointError where none or several do, and for what only looks like a backbone.
    """
    named = foreign.check_named(config or {}, forced=name is not None)
    foreign.check_tensors(state, named=named, forced=name is not None)
    found = _layout_of(state, name)
    if name is None and file is not None and not named:
        foreign.check_file(file, found.strip(state))
    kind = str((config or {}).get("model_type", ""))
    kinds = foreign.HF.get(found.name)
    if name is None and kind and kinds and kind not in kinds:
        raise CheckpointError(
            f"model_type is {kind}, and the tensors are those of {found.name}",
            "config and weights are of two models; --layout forces one",
        )
    return found


def _layout_of(state: Mapping[str, Tensor], name: str | None) -> Layout:
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
