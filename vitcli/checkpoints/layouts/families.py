"""Whose file bears timm's tensor names: timm's own, or one of a research repository that shares
them, told apart by names that the others never have."""

from __future__ import annotations

from collections.abc import Collection

# DINO and DINOv2 train with `student.` beside `teacher.`: what stands under `student.` stays
# there, and is dropped.
PREFIXES = ("teacher.",)

# The first row whose names are all there decides, so at most one layout claims a file.
_VIT = {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"}
SIGNS = (
    ("mae", {"decoder_embed.weight"}),
    ("mae", {"decoder_pred.weight"}),
    ("dino", {"head.mlp.0.weight"}),
    ("dino", {"head.mlp.weight"}),
    ("dino", {"head.last_layer.weight_v"}),
    ("dinov2", {"register_tokens"}),
    ("dinov2", {"mask_token", "blocks.0.ls1.gamma"}),
    ("dinov2", {"blocks.0.mlp.w12.weight"}),
    ("deit", {"blocks.0.gamma_1"}),
    ("timm", _VIT),
)


def family_of(names: Collection[str]) -> str | None:
    """The layout that these names, without their prefixes, belong to; None for other models."""
    if not all(name in names for name in _VIT):
        return None
    return next(family for family, signs in SIGNS if all(name in names for name in signs))
