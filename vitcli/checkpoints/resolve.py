"""Find the files of a checkpoint from a model spec: a hub id, directory, file, or `demo`."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints import hub
from vitcli.checkpoints.weights.sniff import LFS, LFS_HINT
from vitcli.errors import CheckpointError, ModelNotFound, in_bytes, listed
from vitcli.files import at_home, instead_of

if TYPE_CHECKING:  # for types only: this module imports torch
    from vitcli.checkpoints.layouts.layout import Json

DEMO = "demo"
MAX_JSON = hub.MAX_JSON  # enough for 200,000 classes or tensors; parsing takes 20 times the memory

# The standard names of weights, in order of preference. An index lists the files of its shards.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
CONFIGS = ("config.json", "open_clip_config.json")
PROCESSOR, NESTED = "preprocessor_config.json", "processor_config.json"
JSONS = (*CONFIGS, PROCESSOR, NESTED)
# Files with the same suffixes that trainers save next to the weights.
NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state)[._].*")
# A config.json without any of these keys may belong to another program.
MODEL_KEYS = ("model_type", "architectures", "architecture", "model_cfg", "vision_cfg")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")
MAX_LISTED = 5
MAX_SHA = 64  # characters; a commit hash has 40

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_WRAPPED_ID = re.compile(
    r"(?:https://(?:huggingface\.co|hf\.co)/|hf[-_]hub:)(?P<id>[\w.-]+/[\w.-]+)"
    r"(?:/tree/(?P<revision>[\w.-]+))?/?"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of one checkpoint, and its parsed JSON (empty without a file)."""

    spec: str
    weights: tuple[Path, ...]
    config: Json = field(default_factory=dict)
    processor: Json = field(default_factory=dict)
    processor_file: str = PROCESSOR
    revision: str | None = None
    notes: tuple[str, ...] = ()


def resolve(spec: str, *, offline: bool = False) -> Checkpoint:
    """Find the files of a checkpoint. Local files take precedence over the hub.

    Raises ModelNotFound for a spec that names nothing, CheckpointError for a folder without weights
    or an index that points outside its folder.
    """
    if spec == DEMO:
        from importlib.resources import files  # slow to import, for `vit --help`

        return _folder(Path(str(files("vitcli.demo"))), spec)
    # Shells do not expand ~ in VIT_MODEL or --model=~/vit. ~name stays if there is no such user.
    path = at_home(spec)
    try:
        if spec and path.is_dir():
            return _folder(path, spec)
        if path.is_file():
            return _file(path, spec)
        if path.is_symlink():
            raise ModelNotFound(f"{spec} is a link to {path.readlink()}, which is not there")
    except OSError as error:
        raise ModelNotFound(f"cannot read {spec}: {error.strerror}") from None
    if (full := _timm_id(spec)) is not None:
        checkpoint = resolve(full, offline=offline)
        note = f"the weights that timm has for {spec}"
        return replace(checkpoint, notes=(note, *checkpoint.notes))
    if not is_hub_id(spec):
        raise ModelNotFound(f"no model at {spec if spec.strip() else repr(spec)}", _instead(spec))
    try:
        snapshot = pull(spec, offline=offline)
    except ModelNotFound as error:
        folder = path.parts[0]
        if Path(folder).is_dir():
            error.hint = f"here is a folder {folder}, but no {spec} in it; {error.hint}"
        raise
    checkpoint = _folder(snapshot.folder, spec)
    return replace(checkpoint, revision=snapshot.revision, notes=snapshot.notes)


def pull(spec: str, *, offline: bool = False) -> hub.Snapshot:
    """Fetch the files of a hub id into the cache. Raises ModelNotFound, also for an invalid id."""
    repo, revision = hub_parts(spec)
    choose = functools.partial(_choose, repo)
    return hub.download(repo, revision, choose, offline=offline)


def hub_parts(spec: str) -> tuple[str, str | None]:
    """The repository and the revision of a hub id or of timm's name. Raises ModelNotFound for
    another spec."""
    spec = _timm_id(spec) or spec
    match = _HUB_ID.fullmatch(spec)
    if match is None or not is_hub_id(spec):
        if spec == DEMO:
            raise ModelNotFound(
                f"{spec} is not on the hub", "it is part of vit: no download is needed"
            )
        raise ModelNotFound(
            f"{spec} is not a hub id",
            _meant(spec, "give org/name or org/name@revision; vit models lists some"),
        )
    return match["repo"], match["revision"]


def _instead(spec: str) -> str:
    """The hint for a spec that is neither a path nor a hub id."""
    if match := _WRAPPED_ID.fullmatch(spec):
        return f"give the hub id alone: {match['id']}" + f"@{match['revision']}" * bool(match[2])
    if spec.startswith(("http://", "https://")):
        return f"download it, and give the file: curl -LO {spec}"
    if spec.startswith((".", "/", "~")) or Path(spec).suffix in hub.WEIGHT_SUFFIXES:
        return instead_of(str(at_home(spec)))
    return _meant(
        spec, "give a directory, a weight file, a hub id (google/vit-base-patch16-224), or demo"
    )


def _timm_id(spec: str) -> str | None:
    """The hub id of a model that timm calls `spec`."""
    from vitcli.checkpoints.catalogue import timm_id  # here: `vit --help` needs no catalogue

    return timm_id(spec)


def _meant(spec: str, otherwise: str) -> str:
    """The hint for a spec that names nothing: a known model of a similar name, if there is one."""
    from vitcli.checkpoints.catalogue import nearest

    near = nearest(spec)
    return otherwise if near is None else f"did you mean {near}? vit models lists well-known models"


def is_hub_id(spec: str) -> bool:
    """Whether a spec that names no local file is a hub id."""
    is_file = Path(spec).suffix in hub.WEIGHT_SUFFIXES or spec.startswith((".", "/", "~"))
    return not is_file and _HUB_ID.fullmatch(spec) is not None


def _choose(repo: str, names: list[str]) -> list[str]:
    """Choose the files of a repository to download: its JSON, and the first of WEIGHTS, with its
    shards. Raises CheckpointError for a repository without weights."""
    wanted = [name for name in JSONS if name in names]
    for name in WEIGHTS:
        if name in names:
            stem = re.escape(name.removesuffix(".index.json").rpartition(".")[0])
            shard = re.compile(rf"{stem}-\d+-of-\d+\.(safetensors|bin)")
            is_index = name.endswith(".json")
            shards = [n for n in names if is_index and shard.fullmatch(n)]
            if shards or not is_index:
                return [*wanted, name, *shards]
    others = sorted(name for name in names if name.endswith(hub.WEIGHT_SUFFIXES))
    raise CheckpointError(
        f"{repo} on the hub has no weights under a standard name",
        f"it has {', '.join(others[:5])}; download one and give the file: "
        f"hf download {repo} {others[0]}"
        if others
        else "it may be for another library: look for one with model.safetensors",
    )


def _folder(folder: Path, spec: str) -> Checkpoint:
    """The checkpoint in a directory: weights under a standard name, or the only weight file."""
    folder = _snapshot(folder, spec)
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    notes: tuple[str, ...] = ()
    if file is None:
        file = _only_weights(folder, spec)
        notes = (f"{file.name} is used: it is the only weight file in {spec}",)
    weights = _shards(file) if file.suffix == ".json" else (file,)
    return Checkpoint(spec, weights, read_json(_config(file)), *_processor(folder), notes=notes)


def _snapshot(folder: Path, spec: str) -> Path:
    """The snapshot of `main`, or the only snapshot, in a folder of the hub's cache
    (`models--org--name`). Raises CheckpointError for none or several. Any other folder is returned
    unchanged."""
    if not folder.name.startswith("models--") or not (folder / "snapshots").is_dir():
        return folder
    snapshots = [path for path in _listed(folder / "snapshots") if path.is_dir()]
    with contextlib.suppress(OSError, ValueError):
        main = (folder / "refs" / "main").read_text("utf-8")[:MAX_SHA].strip()
        snapshots = [path for path in snapshots if path.name == main] or snapshots
    if len(snapshots) == 1:
        return snapshots[0]
    raise CheckpointError(
        f"{spec} is a folder of the hub's cache with {len(snapshots)} snapshots",
        f"give one of them: {snapshots[0]}" if snapshots else "download the model again",
    )


def _only_weights(folder: Path, spec: str) -> Path:
    """The only weight file of a folder. Raises CheckpointError, which lists the files, for none,
    several, or shards without an index."""
    candidates = weight_files(folder)
    if any(re.search(r"-\d+-of-\d+\.", path.name) for path in candidates):
        raise CheckpointError(
            f"{spec} holds shards ({_named(candidates)}), but not the index that names them",
            "download model.safetensors.index.json or pytorch_model.bin.index.json, too",
        )
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise CheckpointError(
            f"{spec} holds {len(candidates)} weight files: {_named(candidates)}",
            f"give one of them: {Path(spec) / candidates[0].name}",
        )
    inner = [path for path in _listed(folder) if path.is_dir() and weight_files(path)]
    if inner:
        newest = max(inner, key=lambda path: (path.stat().st_mtime_ns, path.name))
        raise CheckpointError(
            f"no weights in {spec} itself, but in its folders: {_named(inner)}",
            f"give one of them: {Path(spec) / newest.name}",
        )
    others = [path for path in _listed(folder) if path.is_file()]
    if others and all(path.suffix.lower() in PICTURES for path in others):
        raise CheckpointError(
            f"{spec} holds images, not a model", f"name the model: vit classify {spec} -m demo"
        )
    looked = f"looked for {', '.join(WEIGHTS)}, or a single {' '.join(hub.WEIGHT_SUFFIXES)}"
    raise CheckpointError(
        f"no weights in {spec}", looked + f"; there is {_named(others)}" * bool(others)
    )


def weight_files(folder: Path) -> list[Path]:
    """The files whose names look like weights."""
    return [
        path
        for path in _listed(folder)
        if path.suffix in hub.WEIGHT_SUFFIXES
        and not NO_WEIGHTS.fullmatch(path.name)
        and path.is_file()
    ]


def _listed(folder: Path) -> list[Path]:
    """The contents of a folder; empty if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _named(paths: Sequence[Path]) -> str:
    return listed([path.name for path in paths], MAX_LISTED)


def _file(path: Path, spec: str) -> Checkpoint:
    """The checkpoint in one file. The JSON next to it is read if the file has a standard name;
    or if it is the only weight file in its folder, and the JSON has one of MODEL_KEYS."""
    config_file = _config(path)
    if path.name not in WEIGHTS and weight_files(path.parent) != [path]:
        return Checkpoint(spec, (path,))
    config = read_json(config_file)
    if path.name not in WEIGHTS and not any(key in config for key in MODEL_KEYS):
        return Checkpoint(spec, (path,))
    weights = _shards(path) if path.suffix == ".json" else (path,)
    note = (f"{config_file.name} next to {path.name} is used",) if config else ()
    return Checkpoint(spec, weights, config, *_processor(path.parent), notes=note)


def _processor(folder: Path) -> tuple[Json, str]:
    """Read the image processor, and return it with the name of its file. As in transformers 5, the
    processor of a model of images and texts, which holds an image processor, comes first."""
    nested = read_json(folder / NESTED).get("image_processor")
    if isinstance(nested, dict):
        return nested, NESTED
    return read_json(folder / PROCESSOR), PROCESSOR


def _config(weights: Path) -> Path:
    """The path of the config next to the weights. open_clip's weights prefer open_clip's config."""
    names = CONFIGS[::-1] if weights.name.startswith("open_clip_") else CONFIGS
    existing = [weights.parent / name for name in names if (weights.parent / name).is_file()]
    return existing[0] if existing else weights.parent / names[0]


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names. Raises CheckpointError for a file that is missing or outside
    the index's folder."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    suffix = ".safetensors" if ".safetensors" in index.name else ".bin"
    for name in names:
        parts = PurePosixPath(name).parts
        is_inside = not PurePosixPath(name).is_absolute() and ".." not in parts
        if not is_inside or "\\" in name or ":" in name or not name.endswith(suffix):
            raise CheckpointError(f"{index} names a file that is not a shard next to it: {name}")
    shards = tuple(index.parent / name for name in names)
    for number, shard in enumerate(shards, start=1):
        if not shard.is_file():
            raise CheckpointError(
                f"shard {number} of {len(shards)} is missing: {shard}", "download the model again"
            )
        if not _is_local(shard, index.parent):
            raise CheckpointError(
                f"{index} names a file outside of its folder: {shard} is a link to "
                f"{shard.resolve()}",
                "copy the shards into the folder",
            )
    return shards


def _is_local(shard: Path, folder: Path) -> bool:
    """Whether a file, with links resolved, is in the folder or a blob of the hub's cache."""
    real = shard.resolve()
    in_cache = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    return in_cache or real.is_relative_to(folder.resolve())


def read_bounded(path: Path) -> bytes:
    """Read a small file. Raises OSError, and CheckpointError for a file that is not regular, has
    more than `MAX_JSON` bytes, or is a git-LFS pointer."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a regular file")
    if status.st_size <= MAX_JSON:
        with path.open("rb") as stream:
            raw = stream.read(MAX_JSON + 1)
        if raw.startswith(LFS):
            raise CheckpointError(f"{path} is a git-LFS pointer, not the file", LFS_HINT)
        if len(raw) <= MAX_JSON:
            return raw
    raise CheckpointError(
        f"{path} is too large for JSON or labels: at most {in_bytes(MAX_JSON)} are read"
    )


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object; {} without a file. Raises CheckpointError for other JSON."""
    try:
        value = parse_json(read_bounded(path))
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is not UTF-8 text") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot read {path}: {reason}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value


def parse_json(raw: bytes) -> Any:
    """Parse JSON in UTF-8. Raises ValueError, or RecursionError for JSON that is nested too deeply.

    The garbage collector pauses: it would visit the new objects again and again, which takes ten
    times as long as to parse millions of them, and finds nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return json.loads(raw.decode("utf-8"))
    finally:
        if was_enabled:
            gc.enable()
