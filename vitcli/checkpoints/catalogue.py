"""Read `catalogue.toml`: well-known checkpoints and their published figures.

Parameters and GFLOPs are computed from a model's sizes, without importing torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from vitcli.models.block_config import Rope
from vitcli.models.config import Config, ViTConfig
from vitcli.models.cost import multiply_adds, parameters
from vitcli.models.swin_config import SwinConfig

# What was measured, and in which order `vit models --for features` lists it.
MEASURES = ("top-1", "ReaL", "linear", "k-NN", "zero-shot", "")


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One checkpoint of the hub.

    `accuracy` is in percent on ImageNet-1k, as published by `source`; None if nothing is published
    for these weights. `measure`, one of MEASURES, says what was measured: "top-1" of the classifier
    in the file; "linear" on frozen features, or "ReaL" for the same on the ReaL labels; "k-NN" of
    frozen features; "zero-shot". `image` is the side in pixels that the costs are for, `stored` the
    side that the position embeddings were trained at. `is_gated`: the hub gives the files only to
    those who have accepted a licence; `twin` is an open repository with the same weights.
    `model_type` is the name in a config of transformers, "" for other libraries. `is_of_today`: its
    family is one to start with today.
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
    is_gated: bool
    twin: str | None
    advice: str
    layout: str
    model_type: str
    is_of_today: bool

    @property
    def has_classifier(self) -> bool:
        return self.measure == "top-1"


def entries() -> tuple[CatalogueEntry, ...]:
    """Read the table, in its order: by family, then by size."""
    table = _table()
    return tuple(
        _entry(name, row, config_of(row, table["sizes"]), table["twins"])
        for name, row in _rows(table).items()
    )


def configs() -> dict[str, Config]:
    """The config of each checkpoint, at the image size of its position embeddings."""
    table = _table()
    return {name: config_of(row, table["sizes"]) for name, row in _rows(table).items()}


def open_twin(repo: str) -> str | None:
    """An open repository with the weights of a gated one; None if none is known."""
    twins: Mapping[str, str] = _table()["twins"]
    return twins.get(repo)


def config_of(row: Mapping[str, Any], sizes: Mapping[str, Any]) -> Config:
    """The config of a row, at the image size of its position embeddings."""
    stored, patch = row.get("stored", row["image"]), row["patch"]
    options = {"num_classes": 1000 if row["measure"] == "top-1" else 0, **row["config"]}
    options |= {"image_size": (stored, stored), "patch_size": (patch, patch)}
    if "rope" in options:
        options["rope"] = Rope(**options["rope"])
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    size = sizes[row["size"]]
    if "depths" not in size:
        return ViTConfig(**{**size, **options})
    stages = range(len(size["depths"]))
    return SwinConfig(
        embed_dim=size["embed_dim"],
        depths=tuple(size["depths"]),
        num_heads=tuple(size["num_heads"]),
        hidden_dims=tuple(4 * size["embed_dim"] << stage for stage in stages),
        window_sizes=((row["window"], row["window"]),) * len(stages),
        **options,
    )


def _table() -> dict[str, Any]:
    text = files("vitcli.checkpoints").joinpath("catalogue.toml").read_text("utf-8")
    return tomllib.loads(text)


def _rows(table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows by id, each with its family's values for the keys that it leaves out."""
    return {
        name: {
            **table["families"][family],
            **row,
            "family": family,
            "config": {**table["families"][family].get("config", {}), **row.get("config", {})},
        }
        for family, models in table["models"].items()
        for name, row in models.items()
    }


def _entry(
    name: str, row: Mapping[str, Any], config: Config, twins: Mapping[str, str]
) -> CatalogueEntry:
    image = row["image"]
    return CatalogueEntry(
        id=name,
        family=row["family"],
        parameters=parameters(config),
        gflops=multiply_adds(replace(config, image_size=(image, image))) / 1e9,
        image=image,
        stored=row.get("stored", image),
        patch=row["patch"],
        accuracy=row.get("accuracy"),
        measure=row["measure"],
        source=row["source"],
        licence=row["licence"],
        is_gated=row.get("gated", name in twins),
        twin=twins.get(name),
        advice=row["advice"],
        layout=row["layout"],
        model_type=row["model_type"] if row["layout"].startswith("hf-") else "",
        is_of_today=row.get("today", False),
    )
