"""Read weight files as a state dict of fp32 tensors, without running their code.

There are four steps: detect the format, check the file's claims against its size, load plain
tensors only, and accept only tensors that are dense, real and finite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from vitcli.checkpoints.layouts.layout import plain_names
from vitcli.checkpoints.npz import is_npz, read_npz
from vitcli.checkpoints.pickles import check_archive, read_pickle
from vitcli.checkpoints.safetensors import read_safetensors
from vitcli.checkpoints.sniff import kind_of
from vitcli.errors import CheckpointError, listed
from vitcli.files import instead_of

State = dict[str, Tensor]
MASK = "attn_mask"  # a buffer that some libraries save
DTYPE_NAMES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}


@dataclass(frozen=True, slots=True)
class Weights:
    """All tensors of a checkpoint in fp32, the dtypes of its floats on disk (the most frequent
    first), and notes on which tensors were taken."""

    tensors: State
    dtypes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_weights(files: Sequence[Path]) -> Weights:
    """Read all tensors of a checkpoint, from one file or its shards, each into its own memory.

    Raises CheckpointError, which names the file and the tensor, for anything but plain weights.
    """
    state: State = {}
    numbers: Counter[str] = Counter()
    notes: list[str] = []
    taken: set[int] = set()
    for file in files:
        tensors, file_notes = _read(file)
        notes += file_notes
        for name in list(tensors):
            if name in state:
                raise CheckpointError(f"{name} is in two shards, also in {file}")
            tensor = tensors.pop(name)
            state[name] = _alone(_accept(name, tensor, file), taken)
            if tensor.is_floating_point():
                kind = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
                numbers[kind] += tensor.numel()
    if not state:
        raise CheckpointError(f"{files[0]} holds no tensors")
    kinds = tuple(kind for kind, _ in numbers.most_common())
    return Weights(state, kinds, tuple(dict.fromkeys(notes)))


def without(weights: Weights, patterns: Sequence[str]) -> Weights:
    """Leave out the tensors that match a pattern (`criterion.*`). Raises CheckpointError for a
    pattern that matches no tensor, or if no tensor is left."""
    names = plain_names(weights.tensors)
    dropped: list[str] = []
    for pattern in patterns:
        matching = [
            n for n, plain in names.items() if any(fnmatchcase(x, pattern) for x in (n, plain))
        ]
        if not matching:
            shown = ", ".join(list(weights.tensors)[:3])
            raise CheckpointError(
                f"--drop {pattern} matches no tensor", f"the file has tensors such as {shown}"
            )
        dropped += matching
    if not dropped:
        return weights
    kept = {name: t for name, t in weights.tensors.items() if name not in set(dropped)}
    if not kept:
        raise CheckpointError("--drop leaves out all tensors")
    dropped = list(dict.fromkeys(dropped))
    count = f"{len(dropped)} of {len(weights.tensors)}"
    note = f"--drop leaves out {count} tensors: {listed(dropped, 3)}"
    return replace(weights, tensors=kept, notes=(*weights.notes, note))


def _read(file: Path) -> tuple[State, tuple[str, ...]]:
    """Read the tensors of one file in the file's dtypes, and notes for the user."""
    try:
        kind = kind_of(file)
        if kind == "safetensors":
            return read_safetensors(file), ()
        if kind == "zip":
            if is_npz(file):
                return read_npz(file), ()
            check_archive(file)
        return read_pickle(file)
    except FileNotFoundError:
        raise CheckpointError(f"no such file: {file}", instead_of(file)) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from None


def _accept(name: str, tensor: Tensor, file: Path) -> Tensor:
    """The tensor, in fp32 if it has floats. Raises CheckpointError if it is not dense, real and
    finite. A mask of attention may have -inf."""
    if odd := _oddity(tensor):
        raise CheckpointError(f"{name} in {file} is {odd}", "only plain dense tensors are loaded")
    if not tensor.is_floating_point():
        return tensor
    floats = tensor.to(torch.float32).contiguous()
    if name.rpartition(".")[2] == MASK and bool(floats.isneginf().logical_or(floats == 0).all()):
        return floats
    if not bool(floats.sum().isfinite()) and not bool(floats.isfinite().all()):
        nan = int(floats.isnan().sum())
        kind = f"{nan} NaN" if nan else f"{int(floats.isinf().sum())} infinite values"
        raise CheckpointError(f"{name} holds {kind}: {file} is damaged", "download it again")
    return floats


def _oddity(tensor: Tensor) -> str | None:
    """The property that a plain dense tensor does not have; None for a plain one."""
    odd = {
        "quantised": tensor.is_quantized,
        "sparse": tensor.layout is not torch.strided,
        "without numbers (it is on the meta device)": tensor.is_meta,
        "complex": tensor.is_complex(),
    }
    return next((name for name, is_so in odd.items() if is_so), None)


def _alone(tensor: Tensor, taken: set[int]) -> Tensor:
    """The tensor, or a copy if its storage is shared with another tensor or larger than itself.
    `taken` collects the addresses of the storages."""
    storage = tensor.untyped_storage()
    is_alone = storage.nbytes() == tensor.nbytes and storage.data_ptr() not in taken
    taken.add(storage.data_ptr())
    return tensor if is_alone else tensor.clone(memory_format=torch.contiguous_format)
