"""A loaded model on another engine than torch: exported once, kept in the cache, run from it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from vitcli import __version__
from vitcli.checkpoints import onnx, openvino
from vitcli.checkpoints.cache import cache_folder
from vitcli.checkpoints.load import Model
from vitcli.errors import DeviceError, OutputError
from vitcli.models.engine import Engine, Graph, Output

EngineName = Literal["openvino", "onnx"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A folder written by `export` is run by `open`; both need the `packages` of the extra."""

    packages: tuple[str, ...]
    export: Callable[[Graph, Path, bool], None]
    open: Callable[[Path, str], Engine]


KINDS: dict[EngineName, Kind] = {
    "openvino": Kind(openvino.PACKAGES, openvino.export, openvino.OpenVinoEngine),
    "onnx": Kind(onnx.PACKAGES, onnx.export, onnx.OnnxRuntimeEngine),
}


def check_installed(name: EngineName) -> None:
    """Raises DeviceError, before anything is loaded, where the engine's extra is not there."""
    absent = [package for package in KINDS[name].packages if find_spec(package) is None]
    if absent:
        raise DeviceError(
            f"--engine {name} needs {', '.join(absent)}: pip install 'vitcli[{name}]'"
        )


def open_engine(
    model: Model,
    output: Output,
    name: EngineName,
    dtype: str = "fp32",
    quantize: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Engine:
    """The engine for one output of a model. What it needs is exported where the cache has none.

    Raises OutputError where the cache cannot be written, DeviceError for what it cannot read.
    """
    return open_exported(exported(model, output, name, quantize, note), name, dtype)


def exported(
    model: Model,
    output: Output,
    name: EngineName,
    quantize: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Path:
    """The folder with what an engine runs, made where the cache has none; `note` hears of it.

    Raises OutputError where the cache cannot be written.
    """
    described = _description(model, output, name, quantize)
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / "engines" / key[:32]
    if not folder.exists():
        note(f"{model.spec}: exported for {name}, once; kept in {folder}")
        graph = Graph(model.network, model.preprocess, output).eval()
        export = KINDS[name].export
        _write(folder, lambda into: export(graph, into, quantize == "int8"), described)
    return folder


def open_exported(folder: Path, name: EngineName, dtype: str = "fp32") -> Engine:
    """Raises DeviceError for what the engine cannot read."""
    try:
        return KINDS[name].open(folder, "fp32" if dtype == "auto" else dtype)
    except RuntimeError as error:
        raise DeviceError(
            f"{name} cannot run {folder} ({_first_line(error)})",
            "remove that folder to export anew",
        ) from None


def discard(pid: int) -> None:
    """Remove what a process that was killed has left of an export."""
    for partial in (cache_folder() / "engines").glob(f"{_partial(pid)}*"):
        shutil.rmtree(partial, ignore_errors=True)


def _partial(pid: int) -> str:
    return f".partial-{pid}-"


def _description(
    model: Model, output: Output, name: EngineName, quantize: str | None
) -> dict[str, str]:
    """Everything that shapes the exported file. The dtype is chosen when it is opened."""
    packages = ("torch", *KINDS[name].packages)
    return {
        "engine": name,
        "weights": _hash(model.network),
        "config": repr(model.config),
        "preprocess": model.preprocess.steps()[-1],
        "size": repr(model.preprocess.size),
        "rescale": repr(model.preprocess.rescale),
        "output": repr(output),
        "quantize": repr(quantize),
        "versions": " ".join([f"vitcli {__version__}", *(f"{p} {version(p)}" for p in packages)]),
    }


def _hash(network: torch.nn.Module) -> str:
    """sha256 of the weights as loaded: resized positions and changes of the caller's count too."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _write(folder: Path, export: Callable[[Path], None], described: dict[str, str]) -> None:
    """Give `folder` its name when all of it is there. Two runs at once do not disturb each other:
    what is the first to be complete stays."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=_partial(os.getpid()), dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"the cache {folder.parent} cannot be written: {error.strerror}",
            "VIT_CACHE names another folder",
        ) from None
    try:
        export(partial)
        (partial / "about.json").write_text(json.dumps(described, indent=1) + "\n", "utf-8")
        partial.rename(folder)
    except OSError as error:
        if not folder.exists():
            raise OutputError(
                f"the cache {folder.parent} cannot be written: {error.strerror}",
                "VIT_CACHE names another folder",
            ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
