"""Pixels in memory that the main process shares with its workers: a worker fills a slot, and the
main process reads it without a copy."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import reduction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FIRST_SLOTS = 16
MAX_GROWTH = 64 << 20  # bytes that the file grows by
ALIGNMENT = 64  # bytes, of each array in a slot
MIN_SLOT = 32 << 10  # bytes; what is smaller travels through a pipe as fast
MAX_SLOT = 4 << 20  # bytes; what is larger takes much longer to decode than to travel
MAX_SHARED = 512 << 20  # bytes of a file: a bound for slots of a large image that hold small ones

Slot: TypeAlias = tuple[int, int]
"""(offset, size) in bytes."""
Kinds: TypeAlias = Sequence[tuple[str, tuple[int, ...]]]
"""The dtype and the shape of each array."""


class SharedFile:
    """A file in memory. Processes that are started with it as an argument can map it, too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mapped: mmap.mmap | None = None

    @classmethod
    def create(cls) -> SharedFile | None:
        """Create an empty file; return None if the system cannot."""
        with suppress(OSError, AttributeError):  # only Linux has memfd_create
            return cls(os.memfd_create("vit-pixels"))
        return None

    def grow(self, size: int) -> tuple[int, mmap.mmap]:
        """Add `size` bytes, and return their offset and their mapping. Raises OSError if there is
        no memory for them."""
        start = os.fstat(self._descriptor).st_size
        os.posix_fallocate(self._descriptor, start, size)
        return start, mmap.mmap(self._descriptor, size, offset=start)

    def fill(self, slot: Slot, arrays: Sequence[NDArray[Any]]) -> bool:
        """Write the arrays to a slot, one after the other. Return False if they do not fit, or if
        this process may not map the file."""
        start, size = slot
        if room_for(arrays) > size:
            return False
        if self._mapped is None or len(self._mapped) < start + size:
            try:
                self._mapped = mmap.mmap(self._descriptor, 0)
            except OSError:  # `ulimit -v` counts what is mapped
                return False
        for array in arrays:
            view = np.frombuffer(self._mapped, array.dtype, array.size, start)
            view.reshape(array.shape)[...] = array
            start += _aligned(array.nbytes)
        return True

    def close(self) -> None:
        """Close the descriptor. Arrays that use the memory keep it."""
        os.close(self._descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._descriptor),)


def room_for(arrays: Sequence[NDArray[Any]]) -> int:
    """The number of bytes that the arrays take in a slot."""
    return sum(_aligned(array.nbytes) for array in arrays)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _received(descriptor: Any) -> SharedFile:
    return SharedFile(descriptor.detach())


class Slots:
    """The slots of a file, all of the size of the first image within the limits. A slot is free
    again as soon as no array uses it. Images that do not fit, or for which there is no memory, need
    another way."""

    def __init__(self) -> None:
        self.file = SharedFile.create()
        self._size = self._count = 0
        self._is_full = False
        self._free: deque[Slot] = deque()
        self._memory: dict[Slot, memoryview] = {}
        self._used: dict[Slot, weakref.ref[NDArray[Any]]] = {}

    def choose_size(self, size: int) -> None:
        """Choose the size of the slots, in bytes, unless it is chosen already or this is not the
        size of a slot."""
        if self.file is not None and not self._size and MIN_SLOT <= size <= MAX_SLOT:
            unit = mmap.ALLOCATIONGRANULARITY
            self._size = -(-size // unit) * unit

    def take(self) -> Slot | None:
        """Return a slot that no array uses, or None."""
        if not self._free and self._size and self.file is not None and not self._is_full:
            self._grow(self.file)
        return self._free.popleft() if self._free else None

    def give_back(self, slot: Slot | None) -> None:
        """Return a slot that no process uses."""
        if slot is not None:
            self._free.append(slot)

    def arrays(self, slot: Slot, kinds: Kinds) -> list[NDArray[Any]]:
        """Return the arrays that a worker has written to a slot. The slot is free again when they,
        and all views of them, are gone."""
        whole = np.frombuffer(self._memory[slot], np.uint8)
        # The base of every view is `whole`, because its own base is not an array.
        self._used[slot] = weakref.ref(whole, lambda _: self._release(slot))
        arrays, start = [], 0
        for name, shape in kinds:
            dtype = np.dtype(name)
            size = dtype.itemsize * math.prod(shape)
            arrays.append(whole[start : start + size].view(dtype).reshape(shape))
            start += _aligned(size)
        return arrays

    def close(self) -> None:
        """Close the file. Arrays that use slots keep their memory."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _release(self, slot: Slot) -> None:
        del self._used[slot]
        self._free.append(slot)

    def _grow(self, file: SharedFile) -> None:
        """Double the number of slots, within limits. If there is no memory for them, add none, now
        and later."""
        size, total = self._size, self._size * self._count
        most = min(MAX_GROWTH, MAX_SHARED - total) // size
        count = min(max(FIRST_SLOTS, self._count), most)
        try:
            first, mapped = file.grow(count * size)
        except (OSError, ValueError):  # also if `count` is 0
            self._is_full = True
            return
        memory = memoryview(mapped)
        for start in range(0, count * size, size):
            slot = first + start, size
            self._memory[slot] = memory[start : start + size]
            self._free.append(slot)
        self._count += count
