"""Read `catalogue.toml`: well-known checkpoints and their published figures.

Parameters and GFLOPs are computed from a model's sizes, without importing torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from vitcli.models.block_config import Rope
from vitcli.models.config import Config, ViTConfig
from vitcli.models.cost import multiply_adds
from vitcli.models.shapes import count_of
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


def timm_id(name: str) -> str | None:
    """The hub id of a timm model: `vit_base_patch16_224` means the weights that timm takes by
    default, `vit_base_patch16_224.dino` those of a tag. None for another name."""
    names = _timm_names()
    architecture, dot, tag = name.partition(".")
    if dot:
        return f"timm/{name}" if tag and architecture in names else None
    return f"timm/{names[name]}" if name in names else None


def is_known(spec: str) -> bool:
    """Whether a spec, perhaps with a revision, is in the catalogue or a name of timm's."""
    return spec.partition("@")[0] in _rows(_table()) or timm_id(spec) is not None


def nearest(spec: str) -> str | None:
    """The well-known model whose id is spelled most like a spec; None if none is similar."""
    repo = spec.partition("@")[0].lower()
    if repo.startswith("timm/") and timm_id(repo[5:]) is not None:
        return repo
    ids = ["demo", *_rows(_table()), *(f"timm/{name}" for name in _timm_names().values())]
    whole = {name.lower(): name for name in reversed(ids)}
    names = {name.lower().rpartition("/")[2]: name for name in reversed(ids)}
    names |= {name.lower(): f"timm/{full}" for name, full in _timm_names().items()}
    last = repo.rpartition("/")[2]
    for known, key, cutoff in ((whole, repo, 1.0), (names, last, 1.0), (whole, repo, 0.85)):
        if near := get_close_matches(key, known, 1, cutoff):
            return known[near[0]]
    near = get_close_matches(last, names, 1, 0.8)
    return names[near[0]] if near else None


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


@cache
def _timm_names() -> dict[str, str]:
    """The default weights of timm's architectures, and of names that timm has replaced."""
    text = files("vitcli.checkpoints").joinpath("timm_names.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {name: full for name, _, full in (line.partition(" ") for line in lines)}


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
        parameters=count_of(config),
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
