"""The naming schemes of the checkpoints people have, one file each, one row each in `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vitcli.checkpoints.layouts import hf_clip, hf_dinov2, hf_siglip, hf_vit, openai, timm
from vitcli.checkpoints.layouts.layout import Layout
from vitcli.errors import CheckpointError

LAYOUTS: tuple[Layout, ...] = (
    hf_vit.LAYOUT,
    hf_dinov2.LAYOUT,
    hf_clip.LAYOUT,
    hf_siglip.LAYOUT,
    timm.LAYOUT,
    openai.OPENAI,
    openai.OPEN_CLIP,
)


def layout_of(state: Mapping[str, Tensor], name: str | None = None) -> Layout:
    """The one layout that claims these tensors, or the one asked for by name.

    Raises CheckpointError where none or several do.
    """
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
    shown = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"no known layout has tensors such as {shown}", f"known are {known}; --layout forces one"
    )
