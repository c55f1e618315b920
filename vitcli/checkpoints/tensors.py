"""Weight files into a state dict of fp32 tensors, without running anything that is in them.

Four layers, in this order: sniff what the file is, check its claims against its size, load plain
tensors only, and accept only tensors that are dense, real and finite.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitcli.checkpoints.npz import is_npz, read_npz
from vitcli.errors import CheckpointError

State = dict[str, Tensor]
DTYPE_NAMES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}

MAX_HEADER = 25_000_000  # far above that of any model
MAX_TENSORS = 20_000
# Whose classes are whole networks, and what tensors and plain containers are made of.
MODULES = ("torch.nn.modules.", "timm.", "transformers.", "torchvision.", "models.")
PLAIN = ("torch.", "collections.OrderedDict", "argparse.Namespace")
# Where training scripts put the weights, the best ones first.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student")


@dataclass(frozen=True, slots=True)
class Weights:
    """All tensors of a checkpoint in fp32, the precisions of its floats on disk, the one of the
    most numbers first, and what a user should know about which tensors were taken."""

    tensors: State
    dtypes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_weights(files: Sequence[Path]) -> Weights:
    """All tensors of one checkpoint, from one file or its shards, as fp32 copies.

    Raises CheckpointError, naming the file and the tensor, for whatever is not plain weights.
    """
    state: State = {}
    numbers: Counter[str] = Counter()
    notes: list[str] = []
    for file in files:
        found = _reader(file)(file)
        notes += found.notes
        for name, tensor in found.tensors.items():
            if name in state:
                raise CheckpointError(f"{name} is in two shards, also in {file}")
            state[name] = _accept(name, tensor, file)
            if tensor.is_floating_point():
                kind = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
                numbers[kind] += tensor.numel()
    if not state:
        raise CheckpointError(f"{files[0]} holds no tensors")
    kinds = tuple(kind for kind, _ in numbers.most_common())
    return Weights(state, kinds, tuple(dict.fromkeys(notes)))


def read_tensors(files: Sequence[Path]) -> State:
    """The tensors alone."""
    return read_weights(files).tensors


def _reader(file: Path) -> Callable[[Path], Weights]:
    """Choose by the first bytes, never by the name."""
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from None
    if not head:
        raise CheckpointError(f"{file} is empty")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file} is a git-LFS pointer, not the weights", "git lfs pull")
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise CheckpointError(f"{file} is a web page, not weights", "download it again")
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{file} is a tar archive", f"unpack it: tar -xf {file}")
    if head[:2] == b"\x1f\x8b":
        raise CheckpointError(f"{file} is gzip-compressed", f"gunzip {file}")
    if head[8:9] == b"{" or file.suffix == ".safetensors":
        return _read_safetensors
    if head.startswith(b"PK\x03\x04"):
        if is_npz(file):
            return lambda file: Weights(read_npz(file))
        _check_zip(file)
        return _read_torch
    if head.startswith(b"\x80"):
        return _read_torch
    raise CheckpointError(
        f"{file} is neither safetensors, a PyTorch checkpoint nor .npz (starts with {head[:16]!r})"
    )


def _read_safetensors(file: Path) -> Weights:
    _check_safetensors(file)
    try:
        with safe_open(file, framework="pt", device="cpu") as handle:
            names = handle.keys()
            return Weights({name: handle.get_tensor(name) for name in names})
    except (SafetensorError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file} is not a valid safetensors file ({error})") from None


def _check_safetensors(file: Path) -> None:
    """The header's claims against the size of the file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise CheckpointError(
                f"{file} is not a valid safetensors file (header says {length:,} bytes, "
                f"file has {size:,}; at most {MAX_HEADER:,} are read)"
            )
        raw = stream.read(length)
        if (count := raw.count(b'"data_offsets"')) > MAX_TENSORS:  # cheaper than to parse them
            raise CheckpointError(f"{file} claims {count:,} tensors")
        try:
            header = json.loads(raw, object_pairs_hook=_unique)
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError, IndexError) as e:
            raise CheckpointError(f"{file} is not a valid safetensors file (header: {e})") from None
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise CheckpointError(
            f"{file} is truncated: {_mb(size)} of {_mb(expected)}", "download it again"
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _read_torch(file: Path) -> Weights:
    """`.bin`, `.pth`, `.pt`: tensors and plain containers, never code."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: it loads, or it does not
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        raise _refused(file, error) from None
    except Exception as error:  # a broken pickle can raise anything
        reason = str(error).split("\n")[0][:120]
        raise CheckpointError(f"{file} is not a readable PyTorch checkpoint ({reason})") from None
    found = _unwrap(loaded, file)
    taken, limit = 0, file.stat().st_size
    for name, tensor in found.tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > limit:
            raise CheckpointError(f"{name} takes {_mb(size)}, {file} has {_mb(limit)}")
        taken += size
    if taken > limit:  # many views of one storage
        raise CheckpointError(f"the tensors of {file} take more than its {_mb(limit)}")
    return found


def _check_zip(file: Path) -> None:
    """PyTorch stores its entries uncompressed; a compressed one may be a bomb. CRCs must hold."""
    try:
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CheckpointError(
                    f"{file} is a TorchScript archive, not a state dict", "save model.state_dict()"
                )
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise CheckpointError(f"{file} is a compressed archive, not a PyTorch checkpoint")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{file} is truncated or damaged ({error})", "download it again"
        ) from None
    if damaged:
        raise CheckpointError(
            f"{file} is damaged: the checksum of {damaged} differs", "download it again"
        )


def _refused(file: Path, error: Exception) -> CheckpointError:
    told = re.search(r"(?:GLOBAL|global|class|function) `?([\w.]+\.[\w.]+)", str(error))
    wanted = told[1] if told else next(_globals(file), None)
    if wanted is not None and wanted.startswith(MODULES):
        return CheckpointError(
            f"refused: {file} is a whole pickled module ({wanted}); only tensors are loaded",
            "where it was made, save model.state_dict() instead; or ask for a .safetensors",
        )
    wants = f"wants to run `{wanted}`" if wanted else "is more than plain tensors"
    return CheckpointError(
        f"refused: {file} {wants}; only tensors and plain containers are loaded",
        "ask for a .safetensors",
    )


def _globals(file: Path) -> Iterator[str]:
    """What a pickle names of other modules, read without running it: `module.name`, but for what
    tensors and plain containers are made of."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                content = archive.read(name)
        else:
            content = file.read_bytes()
        stream = io.BytesIO(content)
        while True:  # a legacy file is several pickles, one after another
            texts: list[str] = []
            for operation, argument, _ in pickletools.genops(stream):
                if isinstance(argument, str):
                    texts.append(argument)
                if operation.name == "GLOBAL":
                    found = texts[-1].replace(" ", ".")
                elif operation.name == "STACK_GLOBAL" and len(texts) > 1:
                    found = ".".join(texts[-2:])
                else:
                    continue
                if not found.startswith(PLAIN):
                    yield found
    except (ValueError, StopIteration, OSError, zipfile.BadZipFile):
        return


def _unwrap(loaded: object, file: Path) -> Weights:
    """The state dict itself, out of what a training script saved around it."""
    notes = []
    while isinstance(loaded, Mapping):
        found = [key for key in WRAPPERS if _is_state(loaded.get(key))]
        if not found:
            break
        if len(found) > 1:
            there = ", ".join(f"'{key}'" for key in loaded if key in found)
            notes.append(f"took '{found[0]}' of {there}")
        loaded = loaded[found[0]]
    if not _is_state(loaded):
        raise CheckpointError(f"{file} holds {type(loaded).__name__}, not a state dict")
    assert isinstance(loaded, Mapping)
    tensors = {name: tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}
    return Weights(tensors, notes=tuple(notes))


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(name, str) for name in value)
        and any(isinstance(v, Tensor | Mapping) for v in value.values())
    )


def _accept(name: str, tensor: Tensor, file: Path) -> Tensor:
    """Dense, real, finite; a copy, in fp32 where it is a float."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise CheckpointError(f"{name} in {file} is not a plain dense tensor")
    if tensor.is_complex():
        raise CheckpointError(f"{name} in {file} is complex")
    if not tensor.is_floating_point():
        return tensor.clone()
    copy = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(copy).all()):
        nan = int(copy.isnan().sum())
        kind = f"{nan} NaN" if nan else f"{int(copy.isinf().sum())} infinite values"
        raise CheckpointError(f"{name} holds {kind}: {file} is damaged")
    return copy


def _mb(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1000
    return f"{size:.3g} TB"
