"""The options of a model as keyword arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from vitcli.jobs.job import ModelOptions
from vitcli.records import Size

PathLike = str | os.PathLike[str]


class ModelArguments(TypedDict, total=False):
    """Options that override the checkpoint, as in `load`. head: a file with the classifier of a
    backbone. sha256: the hash that the weights must have."""

    layout: str | None
    labels: PathLike | None
    image_size: int | tuple[int, int] | None
    patch_size: int | tuple[int, int] | None
    max_patches: int | None
    preprocess: Literal["hf", "hf-fast", "timm"] | None
    num_heads: int | None
    head: PathLike | None
    sha256: str | None
    drop: str | Sequence[str]
    exif: bool
    decode: Literal["exact", "fast"]
    offline: bool


def model_options(arguments: ModelArguments) -> ModelOptions:
    """The options of a job. One number is the height and the width of a size."""
    drop = arguments.get("drop", ())
    return ModelOptions(
        layout=arguments.get("layout"),
        labels=path_of(arguments.get("labels")),
        image_size=pair_of(arguments.get("image_size")),
        patch_size=pair_of(arguments.get("patch_size")),
        max_patches=arguments.get("max_patches"),
        preprocess=arguments.get("preprocess"),
        num_heads=arguments.get("num_heads"),
        head=path_of(arguments.get("head")),
        sha256=arguments.get("sha256"),
        drop=(drop,) if isinstance(drop, str) else tuple(drop),
        exif=arguments.get("exif", True),
        decode=arguments.get("decode", "exact"),
        offline=arguments.get("offline", False),
    )


def path_of(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)


def pair_of(size: int | tuple[int, int] | None) -> Size | None:
    return (size, size) if isinstance(size, int) else size
