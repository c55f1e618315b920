"""Read `catalogue.toml`: well-known checkpoints and their published figures.

Parameters and GFLOPs are computed from a model's sizes, without importing torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from vitcli.models.config import Config, SwinConfig, ViTConfig
from vitcli.models.cost import multiply_adds, parameters


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One checkpoint of the hub.

    `accuracy` is in percent on ImageNet-1k, as published by `source`; None if nothing is published
    for these weights. `measure` says what was measured: "top-1" of the classifier in the file,
    "linear" on frozen features, or "zero-shot". `image` is the side in pixels that the costs are
    for, `stored` the side that the position embeddings were trained at.
    """

    id: str
    family: str
    parameters: int
    gflops: float
    image: int
    stored: int
    patch: int
    accuracy: float | None
    measure: str
    source: str
    licence: str
    advice: str
    layout: str

    @property
    def has_classifier(self) -> bool:
        return self.measure == "top-1"


def entries() -> tuple[CatalogueEntry, ...]:
    """Read the table, in its order: by family, then by size."""
    text = files("vitcli.checkpoints").joinpath("catalogue.toml").read_text("utf-8")
    table = tomllib.loads(text)
    return tuple(
        _entry(row, table["families"][row["family"]], table["sizes"]) for row in table["models"]
    )


def config_of(row: Mapping[str, Any], sizes: Mapping[str, Any]) -> Config:
    """The config of a row, at the image size of its position embeddings."""
    stored, patch = row.get("stored", row["image"]), row["patch"]
    options = {"num_classes": 1000 if row["measure"] == "top-1" else 0, **row.get("config", {})}
    options |= {"image_size": (stored, stored), "patch_size": (patch, patch)}
    size = sizes[row["size"]]
    if "depths" not in size:
        return ViTConfig(**size, **options)
    stages = range(len(size["depths"]))
    return SwinConfig(
        embed_dim=size["embed_dim"],
        depths=tuple(size["depths"]),
        num_heads=tuple(size["num_heads"]),
        hidden_dims=tuple(4 * size["embed_dim"] << stage for stage in stages),
        window_sizes=((row["window"], row["window"]),) * len(stages),
        **options,
    )


def _entry(
    row: Mapping[str, Any], family: Mapping[str, Any], sizes: Mapping[str, Any]
) -> CatalogueEntry:
    """Read a row, with its family's values for the keys that it leaves out."""
    full = {**family, **row, "config": {**family.get("config", {}), **row.get("config", {})}}
    image, stored = full["image"], full.get("stored", full["image"])
    config = config_of(full, sizes)
    return CatalogueEntry(
        id=full["id"],
        family=full["family"],
        parameters=parameters(config),
        gflops=multiply_adds(replace(config, image_size=(image, image))) / 1e9,
        image=image,
        stored=stored,
        patch=full["patch"],
        accuracy=full.get("accuracy"),
        measure=full["measure"],
        source=full["source"],
        licence=full["licence"],
        advice=full["advice"],
        layout=full["layout"],
    )
