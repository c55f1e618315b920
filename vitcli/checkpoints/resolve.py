"""What was typed as the model into files: a hub id, a directory, a file, or `demo`."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints import hub
from vitcli.errors import CheckpointError, ModelNotFound, UsageError

if TYPE_CHECKING:  # it imports torch
    from vitcli.checkpoints.layouts.layout import Json

DEMO = "demo"
MAX_JSON = 10_000_000  # of a model with 200,000 classes or tensors; parsed it takes 20 times that

# What holds the weights of a folder, the best first. An index names its shards.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
CONFIGS = ("config.json", "open_clip_config.json")
PROCESSOR = "preprocessor_config.json"
JSONS = (*CONFIGS, PROCESSOR)
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".npz")

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of one checkpoint, and its JSON as read (empty where there is none)."""

    spec: str
    weights: tuple[Path, ...]
    config: Json = field(default_factory=dict)
    processor: Json = field(default_factory=dict)
    revision: str | None = None
    notes: tuple[str, ...] = ()


def resolve(spec: str, *, offline: bool = False) -> Checkpoint:
    """Find the files. What is there locally wins over the hub.

    Raises ModelNotFound where there is nothing, CheckpointError where what is there has no
    weights or an index that points elsewhere.
    """
    if spec == DEMO:
        return _folder(Path(str(files("vitcli.demo"))), spec)
    path = Path(spec)
    if spec and path.is_dir():
        return _folder(path, spec)
    if path.is_file():
        return _file(path, spec)
    if not _is_hub_id(spec):
        raise ModelNotFound(
            f"no model at {spec}",
            "give a directory, a weight file, a hub id (google/vit-base-patch16-224), or demo",
        )
    snapshot = pull(spec, offline=offline)
    checkpoint = _folder(snapshot.folder, spec)
    return replace(checkpoint, revision=snapshot.revision, notes=snapshot.notes)


def pull(spec: str, *, offline: bool = False) -> hub.Snapshot:
    """What is read of a hub id, in the cache. Raises ModelNotFound, also for what is no hub id."""
    match = _HUB_ID.fullmatch(spec)
    if match is None or not _is_hub_id(spec):
        raise ModelNotFound(
            f"{spec} is not a hub id", "give org/name or org/name@revision; vit models lists some"
        )
    return hub.download(match["repo"], match["revision"], _choose, offline=offline)


def _is_hub_id(spec: str) -> bool:
    is_file = Path(spec).suffix in SUFFIXES or spec.startswith((".", "/", "~"))
    return not is_file and _HUB_ID.fullmatch(spec) is not None


def _choose(names: list[str]) -> list[str]:
    """Of a repository's files, the ones worth downloading: safetensors before pickles."""
    wanted = [name for name in JSONS if name in names]
    for name in WEIGHTS:
        if name in names:
            stem = re.escape(name.removesuffix(".index.json").rpartition(".")[0])
            shard = re.compile(rf"{stem}-\d+-of-\d+\.(safetensors|bin)")
            is_index = name.endswith(".json")
            return [*wanted, name, *(n for n in names if is_index and shard.fullmatch(n))]
    return wanted


def _folder(folder: Path, spec: str) -> Checkpoint:
    for name in WEIGHTS:
        if (folder / name).is_file():
            weights = _shards(folder / name) if name.endswith(".json") else (folder / name,)
            break
    else:
        looked = ", ".join(WEIGHTS)
        raise CheckpointError(f"no weights in {spec}", f"looked for {looked}")
    config = read_json(_config(weights[0]))
    return Checkpoint(spec, weights, config, read_json(folder / PROCESSOR))


def _file(path: Path, spec: str) -> Checkpoint:
    """A bare file. One with a standard name takes the JSON that stands beside it."""
    if path.name not in WEIGHTS:
        return Checkpoint(spec, (path,))
    weights = _shards(path) if path.suffix == ".json" else (path,)
    found = _config(path)
    config = read_json(found)
    note = (f"{found.name} beside {path.name} is used",) if config else ()
    return Checkpoint(spec, weights, config, read_json(path.parent / PROCESSOR), notes=note)


def _config(weights: Path) -> Path:
    """The JSON that belongs to the weights: open_clip's files have one of their own."""
    names = CONFIGS[::-1] if weights.name.startswith("open_clip_") else CONFIGS
    found = [weights.parent / name for name in names if (weights.parent / name).is_file()]
    return found[0] if found else weights.parent / names[0]


def _shards(index: Path) -> tuple[Path, ...]:
    """The files an index names, all of them inside its folder, or in the hub's cache for it."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    suffix = ".safetensors" if ".safetensors" in index.name else ".bin"
    for name in names:
        parts = PurePosixPath(name).parts
        is_inside = not PurePosixPath(name).is_absolute() and ".." not in parts
        if not is_inside or "\\" in name or ":" in name or not name.endswith(suffix):
            raise CheckpointError(f"{index} names a file that is not a shard beside it: {name}")
    shards = tuple(index.parent / name for name in names)
    for number, shard in enumerate(shards, start=1):
        if not shard.is_file():
            raise CheckpointError(
                f"shard {number} of {len(shards)} is missing: {shard}", "download the model again"
            )
        if not _is_beside(shard, index.parent):
            raise CheckpointError(
                f"{index} names a file outside of its folder: {shard} is a link to "
                f"{shard.resolve()}",
                "copy the shards into the folder",
            )
    return shards


def _is_beside(shard: Path, folder: Path) -> bool:
    """Whether a file is really in the folder. The hub's cache has links to its own blobs."""
    real = shard.resolve()
    in_cache = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    return in_cache or real.is_relative_to(folder.resolve())


def sha256(files: Sequence[Path]) -> str:
    """The hash of the bytes of the weight files, in the order of their names. Files that stay as
    they are are read once."""
    named = sorted(files, key=lambda path: path.name)
    return _sha256(tuple((path, _stamp(path)) for path in named))


def _stamp(file: Path) -> tuple[int, ...]:
    stat = file.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


@functools.lru_cache
def _sha256(stamped: tuple[tuple[Path, tuple[int, ...]], ...]) -> str:
    digest = hashlib.sha256()
    for file, _ in stamped:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def check_sha256(files: Sequence[Path], expected: str) -> None:
    """Raises CheckpointError where the files are others, UsageError for what is no such hash."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise UsageError(f"--sha256 {expected} is no SHA-256", "it has 64 hexadecimal digits")
    found = sha256(files)
    if found != expected.lower():
        named = f"{files[0]}" + f" and {len(files) - 1} more" * (len(files) > 1)
        raise CheckpointError(
            f"{named}: the sha256 is {found}, expected {expected.lower()}", "it is another file"
        )


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object, or nothing where there is no file. Raises CheckpointError for other JSON."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError(f"{path} is too large for a config")
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value
