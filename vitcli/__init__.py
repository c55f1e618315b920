"""Classify images and extract features from them with Vision Transformers.

    import vitcli

    model = vitcli.load("google/vit-base-patch16-224")
    for row in vitcli.classify(["photos/"], model=model, top_k=3):
        ...
    found = vitcli.embed(["photos/"], model=model)
    found.embeddings.shape  # (images, 768)
    for row in vitcli.attention(["photos/"], model=model):
        row.maps[0].values.shape  # (heads, 14, 14)
    for row in vitcli.search("feats.npy", ["cat.jpg"], k=5):
        ...

Importing this package imports neither torch nor Pillow; each name is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitcli.api.attention import attention
    from vitcli.api.classify import classify, classify_iter
    from vitcli.api.convert import convert, info
    from vitcli.api.dedupe import dedupe
    from vitcli.api.embed import Embeddings, embed, embed_iter
    from vitcli.api.map import ImageMap, map
    from vitcli.api.model import Model, load
    from vitcli.api.rows import Rows
    from vitcli.api.search import Found, Hit, search
    from vitcli.api.train import evaluate, finetune, reconstruct
    from vitcli.errors import (
        CheckpointError,
        DeviceError,
        ImageFailed,
        InputError,
        ModelNotFound,
        OutputError,
        UsageError,
        VitError,
    )
    from vitcli.images.stream import ImageStream
    from vitcli.records import (
        Attended,
        Classified,
        Embedded,
        ErrorType,
        Failure,
        Maps,
        Prediction,
        Preprocess,
    )
    from vitcli.tasks.dedupe.twin import Twin

__version__ = "0.1.0"
_MODULES = {
    "api.attention": ("attention",),
    "api.classify": ("classify", "classify_iter"),
    "api.convert": ("convert", "info"),
    "api.dedupe": ("dedupe",),
    "api.embed": ("Embeddings", "embed", "embed_iter"),
    "api.map": ("ImageMap", "map"),
    "api.model": ("Model", "load"),
    "api.rows": ("Rows",),
    "api.search": ("Found", "Hit", "search"),
    "api.train": ("evaluate", "finetune", "reconstruct"),
    "errors": (
        "CheckpointError",
        "DeviceError",
        "ImageFailed",
        "InputError",
        "ModelNotFound",
        "OutputError",
        "UsageError",
        "VitError",
    ),
    "images.stream": ("ImageStream",),
    "records": (
        "Attended",
        "Classified",
        "Embedded",
        "ErrorType",
        "Failure",
        "Maps",
        "Prediction",
        "Preprocess",
    ),
    "tasks.dedupe.twin": ("Twin",),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}
__all__ = [
    "Attended",
    "CheckpointError",
    "Classified",
    "DeviceError",
    "Embedded",
    "Embeddings",
    "ErrorType",
    "Failure",
    "Found",
    "Hit",
    "ImageFailed",
    "ImageMap",
    "ImageStream",
    "InputError",
    "Maps",
    "Model",
    "ModelNotFound",
    "OutputError",
    "Prediction",
    "Preprocess",
    "Rows",
    "Twin",
    "UsageError",
    "VitError",
    "__version__",
    "attention",
    "classify",
    "classify_iter",
    "convert",
    "dedupe",
    "embed",
    "embed_iter",
    "evaluate",
    "finetune",
    "info",
    "load",
    "map",
    "reconstruct",
    "search",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return __all__
