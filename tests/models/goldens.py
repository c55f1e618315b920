"""Reads what timm answered, and makes again the checkpoint and the pixels it was asked about."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.fixtures.weights import fill, pixels

FOLDER = Path(__file__).parents[1] / "golden" / "timm"
AIMV2 = FOLDER.with_name("timm_aimv2")
AIMV2_NAMES = tuple(sorted(p.stem for p in AIMV2.glob("*.npz")))
PE = FOLDER.with_name("timm_pe")
PE_NAMES = tuple(sorted(p.stem for p in PE.glob("*.npz")))
EVA_OWN = FOLDER.with_name("timm_eva_own")
EVA_OWN_NAMES = tuple(sorted(p.stem for p in EVA_OWN.glob("*.npz")))
SWIN, EVA = FOLDER.with_name("timm_swin"), FOLDER.with_name("timm_eva")
BEIT = FOLDER.with_name("timm_beit")
BEIT_NAMES = tuple(sorted(p.stem for p in BEIT.glob("*.npz")))
SWIN_NAMES = tuple(sorted(p.stem for p in SWIN.glob("*.npz") if p.stem != "bias_tables"))
EVA_NAMES = tuple(sorted(p.stem for p in EVA.glob("*.npz")))
NAMES = tuple(sorted(p.stem for p in FOLDER.glob("*.npz") if p.stem != "pos_embed"))


@dataclass(frozen=True)
class Golden:
    """One tiny model of timm's: what it answered, and how it was made."""

    name: str
    arrays: dict[str, Tensor]
    config: dict[str, Any]

    @classmethod
    def read(cls, name: str, folder: Path = FOLDER) -> Golden:
        with np.load(folder / f"{name}.npz") as file:
            config = json.loads(str(file["config"]))
            arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "config"}
        return cls(name, arrays, config)

    def __getitem__(self, key: str) -> Tensor:
        return self.arrays[key]

    @property
    def state(self) -> dict[str, Tensor]:
        filled = {n: torch.from_numpy(value) for n, value in fill(self.config["keys"]).items()}
        return filled | {n: torch.zeros_like(filled[n]) for n in self.config.get("zeros", ())}

    @property
    def pixels(self) -> Tensor:
        return torch.from_numpy(pixels(**self.config["pixels"]))

    @property
    def json(self) -> dict[str, Any]:
        """The model as the hub's `config.json` says it."""
        kept = ("architecture", "model_args", "num_classes", "num_features", "global_pool")
        size = {"input_size": [3, *self.config.get("stored", self.config["img_size"])]}
        return {key: self.config[key] for key in kept} | {"pretrained_cfg": size}

    def save(self, folder: Path, config: dict[str, Any] | None = None) -> Path:
        """A model folder as on the hub; `config` in the place of the golden's own."""
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.json if config is None else config))
        save_file(self.state, folder / "model.safetensors")
        return folder
