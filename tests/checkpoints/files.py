"""Turns the folder of a tiny model into the odd folders and files that people have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitcli.checkpoints.load import Model, load
from vitcli.errors import VitError

State = dict[str, Tensor]


def copied(folder: Path, to: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(folder, to, dirs_exist_ok=True))


def read_state(folder: Path, name: str = "model.safetensors") -> State:
    return load_file(folder / name)


def write_state(folder: Path, state: State) -> None:
    save_file(state, folder / "model.safetensors")


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; `...` takes one away."""
    value = json.loads(path.read_text()) if path.exists() else {}
    value = {k: v for k, v in (value | changes).items() if v is not ...}
    path.write_text(json.dumps(value))


def loaded(folder: Path, **options: Any) -> Model:
    return load(str(folder), **options)


def refusal(path: Path, **options: Any) -> str:
    """What is said where a model cannot be loaded: one line, and a hint at most."""
    with pytest.raises(VitError) as caught:
        load(str(path), **options)
    error = caught.value
    assert "\n" not in error.message
    assert "weights_only" not in str(error)
    return str(error)
