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
    from vitcli.api.embed import Embeddings, embed, embed_iter
    from vitcli.api.model import load
    from vitcli.api.vectors import Found, Hit, ImageMap, dedupe, map, search
    from vitcli.errors import ImageFailed, VitError
    from vitcli.images.stream import ImageStream
    from vitcli.tasks.dedupe.twin import Twin

__version__ = "0.1.0"
__all__ = [
    "Embeddings",
    "Found",
    "Hit",
    "ImageFailed",
    "ImageMap",
    "ImageStream",
    "Twin",
    "VitError",
    "__version__",
    "attention",
    "classify",
    "classify_iter",
    "dedupe",
    "embed",
    "embed_iter",
    "load",
    "map",
    "search",
]

_MODULES = {
    "api.attention": ("attention",),
    "api.classify": ("classify", "classify_iter"),
    "api.embed": ("Embeddings", "embed", "embed_iter"),
    "api.model": ("load",),
    "api.vectors": ("Found", "Hit", "ImageMap", "dedupe", "map", "search"),
    "errors": ("ImageFailed", "VitError"),
    "images.stream": ("ImageStream",),
    "tasks.dedupe.twin": ("Twin",),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return __all__
