"""The processes that train one model: who they are, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
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
    """This process among those of `torchrun`; alone, it is the first of one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """The one that writes."""
        return self.rank == 0

    def gather(self, thing: T) -> list[T]:
        """What each process has, in their order, for all of them."""
        if self.size == 1:
            return [thing]
        found: list[T] = [thing] * self.size
        dist.all_gather_object(found, thing)
        return found

    def any(self, fact: bool, device: torch.device) -> bool:
        """Whether it holds for one of them."""
        if self.size == 1:
            return fact
        flag = torch.tensor(float(fact), device=device)
        dist.all_reduce(flag)
        return bool(flag > 0)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def meet(self) -> None:
        """Wait for all of them."""
        if self.size > 1:
            dist.barrier()


def group_of(environment: Mapping[str, str]) -> Group:
    """Who torchrun says that we are."""
    ours = rank_of(environment)
    if ours.size == 1:
        return Group()
    return Group(ours.rank, ours.size, ours.rank if ours.local_rank is None else ours.local_rank)


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """The group, able to talk: nccl between CUDA devices, gloo otherwise."""
    group = group_of(os.environ)
    if group.size == 1:
        yield group
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "nccl" and not dist.is_nccl_available():
        raise UsageError("this PyTorch has no nccl", "train on one device, or with --device cpu")
    dist.init_process_group(backend, rank=group.rank, world_size=group.size)
    try:
        yield group
    finally:
        dist.destroy_process_group()
