"""Read files of `torch.save` (`.bin`, `.pth`, `.pt`) as plain tensors, without running their code.

Before torch opens an archive, its checksums are verified, and its claims compared with its size.
torch's own errors are not shown, because they advise users to allow code.
"""

from __future__ import annotations

import argparse
import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from vitcli.errors import CheckpointError, in_bytes

MAX_ENTRIES = 20_000
LEGACY_PICKLES = 5  # magic number, protocol, system, the saved object, the storages' keys
# Modules whose classes are whole networks; and the names that tensors, containers and old pickles
# use.
MODULES = ("torch.nn.modules.", "timm.", "transformers.", "torchvision.", "models.")
PLAIN = (
    *("torch.", "collections.OrderedDict", "argparse.Namespace"),
    *("__builtin__.set", "builtins.set", "_codecs.encode"),
    *("copy_reg._reconstructor", "__builtin__.object"),
)
# The keys where training scripts put the weights, the best first. Another key is taken if it holds
# the only state dict, or the only averaged one. Keys that match NO_MODEL never hold a model.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student")
NO_MODEL = re.compile(
    r"optim|sched|scaler|rng|loss|criteri|callback|hyper|hparam|metric|config|(^|_)args?(_|$)"
)
AVERAGED = re.compile(r"(^|[_.-])(ema|swa)([_.-]|$)|EMA|average|shadow")
MAX_LISTED = 5
MAX_DEPTH = 3  # dicts around a state dict
AGAIN = "download it again"


def read_pickle(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read the tensors of the state dict, and notes on which one was taken.

    Raises CheckpointError for a file without tensors, or with anything but tensors and plain
    containers.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, which do not matter here
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:  # a broken pickle can raise anything
        raise _refused(file, error) from None
    tensors, notes = _unwrap(loaded, file)
    _check_sizes(tensors, file)
    return tensors, notes


def check_archive(file: Path) -> None:
    """Raise CheckpointError for an archive that torch did not write, or whose checksums differ.

    torch stores every entry uncompressed, and once; any other archive may be a bomb.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_entries(archive, file)
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError) as error:
        if not _is_zip(file):
            size = in_bytes(file.stat().st_size)
            raise CheckpointError(
                f"{file} is truncated, at {size}: the end of the archive is missing", AGAIN
            ) from None
        raise CheckpointError(f"{file} is damaged ({error})", AGAIN) from None
    if damaged:
        raise CheckpointError(f"{file} is damaged: the checksum of {damaged} differs", AGAIN)


def _check_entries(archive: zipfile.ZipFile, file: Path) -> None:
    entries, size = archive.infolist(), file.stat().st_size
    names = {entry.filename for entry in entries}
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{file} is a TorchScript archive, not a state dict",
            "save its tensors: torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'model.pth'); "
            "OpenAI's CLIP is also on the hub: openai/clip-vit-base-patch32",
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{file} is a compressed archive, not a PyTorch checkpoint")
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(f"{file} is a zip archive, not a PyTorch checkpoint", "unpack it")
    if len(names) < len(entries) or len(entries) > MAX_ENTRIES:
        raise CheckpointError(f"{file} has {len(entries):,} entries of {len(names):,} names")
    if (claimed := sum(entry.file_size for entry in entries)) > size:
        raise CheckpointError(
            f"{file} claims {in_bytes(claimed)} of entries, it has {in_bytes(size)}"
        )


def _check_sizes(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raise CheckpointError if the tensors are larger than the file: strides can turn one number
    into a terabyte."""
    taken, limit = 0, file.stat().st_size
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > limit:
            raise CheckpointError(f"{name} takes {in_bytes(size)}, {file} has {in_bytes(limit)}")
        taken += size
    if taken > limit:  # many views of one storage
        raise CheckpointError(f"the tensors of {file} take more than its {in_bytes(limit)}")


@dataclass(frozen=True, slots=True)
class Scan:
    """The names in a file's pickles that are not tensors, and whether the pickles are whole."""

    names: tuple[str, ...]
    is_whole: bool


def _refused(file: Path, error: Exception) -> CheckpointError:
    """The error for a file that torch could not load."""
    scan = _scan(file)
    if scan.names:
        wanted = scan.names[0]
        if wanted.startswith(MODULES):
            return CheckpointError(
                f"refused: {file} is a whole pickled module ({wanted}); only tensors are loaded",
                "where it was made, save model.state_dict() instead; or ask for a .safetensors",
            )
        return CheckpointError(
            f"refused: {file} wants to run `{wanted}`; only tensors and plain containers are "
            "loaded",
            "ask for a .safetensors",
        )
    if not scan.is_whole or "EOF" in str(error):
        return CheckpointError(f"{file} is truncated, at {in_bytes(file.stat().st_size)}", AGAIN)
    return CheckpointError(
        f"{file} is not a readable PyTorch checkpoint: it is damaged, or another program's",
        f"{AGAIN}, or ask for a .safetensors",
    )


def _scan(file: Path) -> Scan:
    """Read the instructions of the pickles without running them."""
    names: list[str] = []
    try:
        with _pickles(file) as stream:
            for _ in range(LEGACY_PICKLES):
                names += [name for name in _globals(stream) if _is_more_than_tensors(name)]
                if not stream.peek(1):
                    break
    except (ValueError, StopIteration, OSError, MemoryError, zipfile.BadZipFile):
        return Scan(tuple(names), is_whole=False)
    return Scan(tuple(names), is_whole=True)


def _is_more_than_tensors(name: str) -> bool:
    return name.startswith(MODULES) or not name.startswith(PLAIN)


def _is_zip(file: Path) -> bool:
    """Whether the file has the end record of an archive, even a malformed one."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:
        return True


def _pickles(file: Path) -> io.BufferedReader:
    """Open the pickle in an archive, or those at the start of a legacy file."""
    if not _is_zip(file):
        return file.open("rb")
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        return io.BufferedReader(io.BytesIO(archive.read(name)))


def _globals(stream: IO[bytes]) -> Iterator[str]:
    """The names in one pickle, as `module.name`. Raises ValueError if it is cut off."""
    texts: list[str] = []
    for operation, argument, _ in pickletools.genops(stream):
        if isinstance(argument, str):
            texts.append(argument)
        if operation.name == "GLOBAL":
            yield texts[-1].replace(" ", ".")
        elif operation.name == "STACK_GLOBAL" and len(texts) > 1:
            yield ".".join(texts[-2:])


def _unwrap(loaded: object, file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Find the state dict in the dicts that a training script saved around it; note a choice."""
    notes = []
    while isinstance(loaded, Mapping):
        keys = [key for key in WRAPPERS if _is_state(loaded.get(key))]
        if not keys:
            keys = _other_keys(loaded, file)
        if not keys:
            break
        if len(keys) > 1:
            listed = ", ".join(f"'{key}'" for key in loaded if key in keys)
            notes.append(f"took '{keys[0]}' of {listed}")
        loaded = loaded[keys[0]]
    if not _is_state(loaded):
        raise CheckpointError(
            f"{file} holds {type(loaded).__name__}, not a state dict",
            "where it was made, save model.state_dict()",
        )
    assert isinstance(loaded, Mapping)
    tensors = {name: tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}
    return tensors, tuple(notes)


def _other_keys(loaded: Mapping[object, object], file: Path) -> list[str]:
    """The keys whose values are state dicts, the one to take first; empty if `loaded` is itself a
    state dict. Raises CheckpointError if it is unclear which one to take."""
    if any(isinstance(value, Tensor) and value.ndim for value in loaded.values()):
        return []
    keys = [str(key) for key, value in loaded.items() if _holds_weights(key, value)]
    averaged = [key for key in keys if AVERAGED.search(key)]
    if len(keys) > 1 and len(averaged) != 1:
        plain = [key for key in keys if not AVERAGED.search(key) and key.startswith("model")]
        averaged = plain if len(plain) == 1 else averaged
    if len(keys) > 1 and len(averaged) != 1:
        listed = ", ".join(f"'{key}'" for key in keys[:MAX_LISTED])
        raise CheckpointError(
            f"{file} holds {len(keys)} state dicts: {listed}",
            f"save one of them alone: torch.save(torch.load(FILE)['{keys[0]}'], 'model.pth')",
        )
    return [*averaged, *(key for key in keys if key not in averaged)] if averaged else keys


def _holds_weights(key: object, value: object, depth: int = MAX_DEPTH) -> bool:
    """Whether a value is a state dict, or contains one."""
    if not isinstance(key, str) or NO_MODEL.search(key.lower()) or not isinstance(value, Mapping):
        return False
    if not all(isinstance(name, str) for name in value):
        return False
    if any(isinstance(tensor, Tensor) and tensor.ndim for tensor in value.values()):
        return True
    return depth > 0 and any(_holds_weights(k, v, depth - 1) for k, v in value.items())


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(name, str) for name in value)
        and any(isinstance(v, Tensor | Mapping) for v in value.values())
    )
