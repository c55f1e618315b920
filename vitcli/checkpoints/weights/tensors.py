"""Read weight files as a state dict of fp32 tensors, without running their code.

There are four steps: detect the format, check the file's claims against its size, load plain
tensors only, and accept only tensors that are dense, real and finite. Files that are not pickles
can also be read lazily, without torch: names and shapes now, numbers when they are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from vitcli.checkpoints.layouts.layout import plain_names
from vitcli.checkpoints.weights.lazy import LazyTensor, NeedsTorch
from vitcli.checkpoints.weights.npz import is_npz, lazy_npz, read_npz
from vitcli.checkpoints.weights.safetensors import lazy_safetensors, read_safetensors
from vitcli.checkpoints.weights.sniff import kind_of
from vitcli.errors import CheckpointError, listed
from vitcli.files import instead_of

if TYPE_CHECKING:  # lazy tensors are read without torch
    from torch import Tensor

State: TypeAlias = "dict[str, Tensor]"
MASK = "attn_mask"  # a buffer that some libraries save
DTYPE_NAMES = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


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
                raise _twice(name, file)
            tensor = tensors.pop(name)
            state[name] = _alone(_accept(name, tensor, file), taken)
            if tensor.is_floating_point():
                kind = str(tensor.dtype).removeprefix("torch.")
                numbers[DTYPE_NAMES.get(kind, kind)] += tensor.numel()
    return _weights(state, numbers, files, notes)


def read_lazily(files: Sequence[Path]) -> Weights:
    """Read the names and shapes of all tensors, without torch. Whether their numbers are finite is
    not checked: see `are_sound`.

    Raises NeedsTorch for pickles, CheckpointError or OSError for other files that cannot be read.
    """
    state: State = {}
    numbers: Counter[str] = Counter()
    for file in files:
        kind = kind_of(file)
        if kind == "pickle" or (kind == "zip" and not is_npz(file)):
            raise NeedsTorch(str(file))
        tensors = lazy_safetensors(file) if kind == "safetensors" else lazy_npz(file)
        for name, (tensor, kind_on_disk) in tensors.items():
            if name in state:
                raise _twice(name, file)
            state[name] = cast("Tensor", tensor)
            if tensor.is_floating_point():
                numbers[DTYPE_NAMES.get(kind_on_disk, kind_on_disk)] += tensor.numel()
    return _weights(state, numbers, files)


def are_sound(weights: Mapping[str, Tensor]) -> bool:
    """Whether `read_weights` accepts the numbers of tensors that were read lazily."""
    return all(_is_sound(name, cast(LazyTensor, tensor)) for name, tensor in weights.items())


def _is_sound(name: str, tensor: LazyTensor) -> bool:
    if not tensor.is_floating_point():
        return True
    array = tensor.numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()) or np.isfinite(array).all():
            return True
    return name.rpartition(".")[2] == MASK and bool((np.isneginf(array) | (array == 0)).all())


def _twice(name: str, file: Path) -> CheckpointError:
    return CheckpointError(f"{name} is in two shards, also in {file}")


def _weights(
    state: State, numbers: Counter[str], files: Sequence[Path], notes: Sequence[str] = ()
) -> Weights:
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
        if kind == "zip" and is_npz(file):
            return read_npz(file), ()
        from vitcli.checkpoints.weights.pickles import check_archive, read_pickle

        if kind == "zip":
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
    floats = tensor.float().contiguous()
    if name.rpartition(".")[2] == MASK and bool(floats.isneginf().logical_or(floats == 0).all()):
        return floats
    if not bool(floats.sum().isfinite()) and not bool(floats.isfinite().all()):
        nan = int(floats.isnan().sum())
        kind = f"{nan} NaN" if nan else f"{int(floats.isinf().sum())} infinite values"
        raise CheckpointError(f"{name} holds {kind}: {file} is damaged", "download it again")
    return floats


def _oddity(tensor: Tensor) -> str | None:
    """The property that a plain dense tensor does not have; None for a plain one."""
    import torch

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
    import torch

    storage = tensor.untyped_storage()
    is_alone = storage.nbytes() == tensor.nbytes and storage.data_ptr() not in taken
    taken.add(storage.data_ptr())
    return tensor if is_alone else tensor.clone(memory_format=torch.contiguous_format)
