"""Tensors of a file whose numbers are read when they are needed, without torch.

Names and shapes tell nearly everything about a checkpoint. A `LazyTensor` has the methods of
torch's tensors by which layouts read and rename tensors. What else they ask of one raises
`NeedsTorch`, and the checkpoint is then read whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # imports torch, which reading names and shapes does not need
    from torch import Tensor

Array = NDArray[Any]


class NeedsTorch(Exception):
    """A checkpoint has to be read whole, as tensors of torch."""


class LazyTensor:
    """A tensor of numpy's numbers, which `read` returns."""

    __slots__ = ("_outline", "_read")

    def __init__(self, shape: Sequence[int], dtype: np.dtype[Any], read: Callable[[], Array]):
        # Every number is the same one in memory, so the largest tensor takes none.
        self._outline = np.broadcast_to(np.zeros((), dtype), tuple(shape))
        self._read = read

    @classmethod
    def empty(cls, shape: Sequence[int]) -> LazyTensor:
        """A tensor that only has a shape."""
        dtype = np.dtype(np.float32)
        return cls(shape, dtype, lambda: np.zeros(tuple(shape), dtype))

    @classmethod
    def of(cls, array: Array) -> LazyTensor:
        return cls(array.shape, array.dtype, lambda: array)

    def _mapped(self, change: Callable[[Array], Array]) -> LazyTensor:
        """Change the shape now, and the numbers when they are read."""
        outline = change(self._outline)
        return LazyTensor(outline.shape, outline.dtype, lambda: change(self._read()))

    def __getattr__(self, name: str) -> NoReturn:
        raise NeedsTorch(name)

    def numpy(self) -> Array:
        return self._read()

    @property
    def shape(self) -> tuple[int, ...]:
        return self._outline.shape

    @property
    def ndim(self) -> int:
        return self._outline.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._outline.dtype

    def numel(self) -> int:
        return prod(self.shape)

    def is_floating_point(self) -> bool:
        return self.dtype.kind == "f"

    def __len__(self) -> int:
        return len(self._outline)

    def __iter__(self) -> Iterator[LazyTensor]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: Any) -> LazyTensor:
        return self._mapped(lambda array: np.asarray(array[place]))

    def to(self, place: str) -> LazyTensor:
        return self

    def contiguous(self) -> LazyTensor:
        return self

    def reshape(self, *shape: int) -> LazyTensor:
        return self._mapped(lambda array: array.reshape(*shape))

    def flatten(self, first: int = 0, last: int = -1) -> LazyTensor:
        stop = last % max(1, self.ndim) + 1
        joined = prod(self.shape[first:stop])
        return self.reshape(*self.shape[:first], joined, *self.shape[stop:])

    def transpose(self, one: int, other: int) -> LazyTensor:
        return self._mapped(lambda array: array.swapaxes(one, other))

    def permute(self, *axes: int) -> LazyTensor:
        return self._mapped(lambda array: array.transpose(axes))

    def split(self, sizes: Sequence[int]) -> list[LazyTensor]:
        stops = np.cumsum(sizes).tolist()
        return [self[stop - size : stop] for size, stop in zip(sizes, stops, strict=True)]

    def chunk(self, count: int) -> list[LazyTensor]:
        size = -(-len(self) // count) or 1
        return [self[start : start + size] for start in range(0, max(1, len(self)), size)]

    def float(self) -> LazyTensor:
        return self._mapped(lambda array: array.astype(np.float32))

    def double(self) -> LazyTensor:
        return self._mapped(lambda array: array.astype(np.float64))

    def new_zeros(self, *shape: int) -> LazyTensor:
        return LazyTensor(shape, self.dtype, lambda: np.zeros(shape, self.dtype))

    def any(self) -> bool:
        return bool(self._read().any())

    def item(self) -> Any:
        return self._read().item()

    def tolist(self) -> Any:
        return self._read().tolist()

    def __float__(self) -> float:  # type: ignore[valid-type]  # the built-in class
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors that differ at most in the size of `dim`: lazy ones, or those of torch."""
    if not isinstance(tensors[0], LazyTensor):
        import torch

        return torch.cat(list(tensors), dim=dim)
    parts = cast("Sequence[LazyTensor]", tensors)
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    joined = LazyTensor(
        shape, parts[0].dtype, lambda: np.concatenate([part.numpy() for part in parts], dim)
    )
    return cast("Tensor", joined)
