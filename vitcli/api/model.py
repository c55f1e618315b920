"""Load a model for the other functions, or for a caller's own loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.load import load as load_model
from vitcli.records import Size


def load(
    spec: str,
    *,
    labels: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    max_patches: int | None = None,
    preprocess: Literal["hf", "hf-fast", "timm"] | None = None,
    layout: str | None = None,
    num_heads: int | None = None,
    exif: bool = True,
    decode: Literal["exact", "fast"] = "exact",
    offline: bool = False,
    drop: Sequence[str] = (),
) -> Model:
    """Load a model: a hub id (`org/name`, `org/name@revision`), a directory, a file, or "demo".

    decode="fast" reads large images at a fraction of their size: close pixels, not equal ones.
    image_size is one number or (height, width); position embeddings are resampled for it. So is
    patch_size, for which the patch embedding is resampled as well. max_patches is how many patches
    an image may have in a model for images of any shape (SigLIP 2's NaFlex). The network
    (`.network`) is in eval mode, fp32, on the CPU: pixels (B, 3, H, W) -> logits (B, K). drop
    ignores tensors that do not belong to the model, by pattern: "criterion.*".
    Raises VitError: ModelNotFound, CheckpointError with the tensor's name, or UsageError.
    """
    return load_model(
        spec,
        labels=None if labels is None else Path(labels),
        image_size=_pair(image_size),
        patch_size=_pair(patch_size),
        max_patches=max_patches,
        preprocess=preprocess,
        layout=layout,
        num_heads=num_heads,
        exif=exif,
        decode=decode,
        offline=offline,
        drop=(drop,) if isinstance(drop, str) else drop,
    )


def _pair(size: int | tuple[int, int] | None) -> Size | None:
    return (size, size) if isinstance(size, int) else size
