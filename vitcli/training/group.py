"""The processes that train one model together, and the exchange between them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vitcli.errors import UsageError
from vitcli.processes import rank_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """The rank of this process among those of `torchrun`; a single process is rank 0 of 1."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def gather(self, thing: T) -> list[T]:
        """Return the `thing` of every process, in the order of the ranks, to all processes."""
        if self.size == 1:
            return [thing]
        things: list[T] = [thing] * self.size
        dist.all_gather_object(things, thing)
        return things

    def any(self, fact: bool, device: torch.device) -> bool:
        """Whether `fact` holds in any of the processes."""
        if self.size == 1:
            return fact
        flag = torch.tensor(float(fact), device=device)
        dist.all_reduce(flag)
        return bool(flag > 0)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Connect the processes, with nccl on CUDA devices and with gloo otherwise."""
    rank = rank_of(os.environ)
    if rank.size == 1:
        yield Group()
        return
    local = rank.rank if rank.local_rank is None else rank.local_rank
    group = Group(rank.rank, rank.size, local)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "nccl" and not dist.is_nccl_available():
        raise UsageError("this PyTorch has no nccl", "train on one device, or with --device cpu")
    dist.init_process_group(backend, rank=group.rank, world_size=group.size)
    try:
        yield group
    finally:
        dist.destroy_process_group()
