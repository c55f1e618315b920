"""Run a loaded model on an engine other than torch, from an export in the cache. The first run
writes the export."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from vitcli import __version__
from vitcli.cache import (
    EXPORTS,
    HASHES,
    cache_folder,
    hold,
    is_trusted,
    keep,
    trusted_folders,
    user_cache,
)
from vitcli.checkpoints.hashes import known_digest, sha256
from vitcli.checkpoints.load import Model, Unread
from vitcli.checkpoints.resolve import read_bounded
from vitcli.engines import ENGINES, EngineName
from vitcli.errors import CheckpointError, DeviceError, OutputError
from vitcli.models.engine import Engine, Output

if TYPE_CHECKING:  # an export in the cache runs without torch
    from torch import nn

    from vitcli.checkpoints.graph import Graph

# What determines an export (`_description`), the spec of its model, and the hashes of its files.
ABOUT = "about.json"
READABLE = 0o755  # the umask may remove bits


class EngineModule(Protocol):
    """The functions of each module in ENGINES."""

    def export(self, graph: Graph, folder: Path, int8: bool) -> None:
        """Write a graph into an empty folder."""

    def open_export(self, folder: Path, dtype: str) -> Engine:
        """Open an export as an engine. Raises RuntimeError for a folder that cannot be read."""


def _module(name: EngineName) -> EngineModule:
    module = ENGINES[name].module
    assert module is not None, f"{name} runs no exports"
    return cast(EngineModule, import_module(module))


def open_engine(
    model: Model,
    output: Output,
    name: EngineName,
    dtype: str = "fp32",
    quantize: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Engine:
    """Open an engine for one output of a model. Export the model first if the cache has no export.

    Raises OutputError if the cache cannot be written, DeviceError if the export cannot be read.
    """
    return open_exported(exported(model, output, name, quantize, note), name, dtype)


def exported(
    model: Model,
    output: Output,
    name: EngineName,
    quantize: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Path:
    """The folder of a model's export for an engine. If the cache has no sound export, export the
    model, with a note. Raises OutputError if the cache cannot be written.

    The network of a model that was loaded lazily is only read if there is no export of its files.
    """
    if (digest := _known_weights(model)) is not None:
        described = _description(model, digest, output, name, quantize)
        for within in trusted_folders(EXPORTS):
            for folder in _folders(within, described):
                if hold(folder) and _is_sound(folder, described):
                    return folder
    described = _description(model, _weights(model), output, name, quantize)
    graph: Graph | None = None
    for within in trusted_folders(EXPORTS):
        for folder in _folders(within, described):
            if hold(folder) and _is_sound(folder, described):
                return folder
            if os.path.lexists(folder):
                if not is_trusted(folder):
                    continue  # another user's export is neither run nor removed
                note(f"{folder} is incomplete or was changed: it is exported again")
                shutil.rmtree(folder, ignore_errors=True)
            graph = graph or _graph(model, output)
            try:
                export = partial(_export, name, graph, quantize == "int8")
                _write(folder, export, described, model.spec)
            except PermissionError:
                break
            note(f"{model.spec}: exported for {name}, once; kept in {folder}")
            return folder
    raise OutputError(
        f"the cache {cache_folder()} cannot be written, nor {user_cache()}",
        "VIT_CACHE names another folder",
    )


def _folders(within: Path, described: dict[str, str]) -> tuple[Path, Path]:
    """Where an export may be: for all users, and for this one if another user owns the first."""
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]
    return within / key, within / f"{key}-{os.geteuid()}"


def _graph(model: Model, output: Output) -> Graph:
    from vitcli.checkpoints.graph import Graph

    return Graph(model.network, model.preprocess, output).eval()


def _export(name: EngineName, graph: Graph, int8: bool, folder: Path) -> None:
    _module(name).export(graph, folder, int8)


def _is_sound(folder: Path, described: dict[str, str]) -> bool:
    """Whether a folder holds this export, unchanged, and no other user can write to it."""
    about = folder / ABOUT
    try:
        if not is_trusted(folder) or not is_trusted(about):
            return False
        recorded = json.loads(read_bounded(about))
        files = {path.name: path for path in folder.iterdir() if path.name != ABOUT}
        return (
            isinstance(recorded, dict)
            and {name: recorded.get(name) for name in described} == described
            and all(map(is_trusted, files.values()))
            and {name: sha256((path,)) for name, path in files.items()} == recorded["files"]
        )
    except (OSError, ValueError, RecursionError, CheckpointError):
        return False


def open_exported(folder: Path, name: EngineName, dtype: str = "fp32") -> Engine:
    """Open an export. Raises DeviceError if the engine cannot read it."""
    try:
        return _module(name).open_export(folder, "fp32" if dtype == "auto" else dtype)
    except RuntimeError as error:
        raise DeviceError(
            f"{name} cannot run {folder} ({_first_line(error)})",
            "remove that folder to export again",
        ) from None


def discard(pid: int) -> None:
    """Remove the unfinished exports of a process that was killed."""
    for within in trusted_folders(EXPORTS):
        for unfinished in within.glob(f"{_partial(pid)}*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def _partial(pid: int) -> str:
    return f".partial-{pid}-"


def _description(
    model: Model, weights: str, output: Output, name: EngineName, quantize: str | None
) -> dict[str, str]:
    """Everything that determines an export; `weights` is their hash. The dtype does not: it is
    chosen when opening one."""
    packages = ("torch", *ENGINES[name].packages)
    return {
        "engine": name,
        "weights": weights,
        "config": repr(model.config),
        "preprocess": model.preprocess.steps()[-1],
        "size": repr(model.preprocess.size),
        "rescale": repr(model.preprocess.rescale),
        "pixels": model.preprocess.dtype,
        "output": repr(output),
        "quantize": repr(quantize),
        "versions": " ".join([f"vitcli {__version__}", *(f"{p} {version(p)}" for p in packages)]),
    }


def _known_weights(model: Model) -> str | None:
    """The hash of weights that are not read yet, if the same files were read before."""
    unread = _unread(model)
    return None if unread is None else known_digest(unread.identity())


def _weights(model: Model) -> str:
    """The hash of the weights, which are read if need be. It is kept for the next run."""
    unread = _unread(model)
    if unread is None:
        return _hash(model.network)
    identity = unread.identity()
    digest = _hash(model.network)
    if unread.identity() == identity:  # the files did not change while they were read
        keep(HASHES, identity, digest.encode())
    return digest


def _unread(model: Model) -> Unread | None:
    """The source of a network that is not read yet; None for one that is in memory."""
    source = model.source
    return source if isinstance(source, Unread) and not source.is_read else None


def _hash(network: nn.Module) -> str:
    """The sha256 of the weights in memory, which include resized positions and the caller's
    changes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _write(
    folder: Path, export: Callable[[Path], None], described: dict[str, str], spec: str
) -> None:
    """Write an export under a partial name, and rename it to `folder` when it is complete.

    If two runs export at the same time, the first complete export stays. Other users may read an
    export, if the umask allows that, but not write to it. Raises PermissionError if this user may
    not create folders in the cache, OutputError for any other failure to write.
    """
    made = folder.parent / f"{_partial(os.getpid())}{secrets.token_hex(8)}"
    try:
        folder.parent.mkdir(mode=READABLE, parents=True, exist_ok=True)
        made.mkdir(mode=READABLE)
        hold(made)  # also under its later name
    except PermissionError:
        raise
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        export(made)
        files = sorted(made.iterdir())
        for file in files:
            file.chmod(file.stat().st_mode & READABLE)
        about = {
            **described,
            "model": spec,
            "files": {file.name: sha256((file,)) for file in files},
        }
        (made / ABOUT).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
        (made / ABOUT).chmod((made / ABOUT).stat().st_mode & READABLE)
        made.rename(folder)
    except OSError as error:
        if not _is_sound(folder, described):
            raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the cache {folder.parent} cannot be written: {error.strerror}",
        "VIT_CACHE names another folder",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
