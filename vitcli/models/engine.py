"""The outputs of a network that commands need, and the engines that compute them for a batch."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import DeviceError
from vitcli.models.fields import Pooling
from vitcli.records import Pixels

if TYPE_CHECKING:  # an exported network runs without torch
    from torch import Tensor

    from vitcli.models.network import Network

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Logits:
    """The output for `classify`."""

    def __call__(self, network: Network, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)"""
        logits: Tensor = network(pixels)
        return logits


@dataclass(frozen=True, slots=True)
class Features:
    """The output for `embed`: pooled hidden states of these layers."""

    layers: tuple[int, ...]
    pool: Pooling
    norm: bool = True

    def __call__(self, network: Network, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, ..., n*D)"""
        return network.features(pixels, self.layers, self.pool, self.norm)


@dataclass(frozen=True, slots=True)
class Judged:
    """The output that `bench` compares: an image's embedding and its logits, in one pass."""

    def __call__(self, network: Network, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D + K), K = 0 without a classifier"""
        import torch

        from vitcli.models.swin import SwinTransformer

        depth, pool = network.config.depth, network.config.pool
        pooled = network.features(pixels, (depth,), pool)
        if not network.config.num_classes:
            return pooled
        if isinstance(network, SwinTransformer):
            return torch.cat([pooled, network.head(pooled)], dim=-1)
        config = network.config
        if config.head_blocks > 1 or config.dist_head or not config.head_norm:
            return torch.cat([pooled, network(pixels)], dim=-1)  # the head's input is not `pooled`
        return torch.cat([pooled, network.head(network.proj(pooled))], dim=-1)


Output = Logits | Features | Judged
Launch: TypeAlias = Callable[[Pixels], Callable[[], NDArray[np.float32]]]


class Engine(Protocol):
    """Runs a network on a batch, for one output."""

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        """(B, H, W, 3) -> (B, K) or (B, ..., n*D)"""


class BatchSplitter:
    """Splits batches that do not fit into memory, and remembers the size that fits."""

    def __init__(self, note: Callable[[str], None] = lambda text: None) -> None:
        self._note = note
        self._size: int | None = None

    def fits(self, count: int) -> bool:
        """Whether no batch of this size has failed yet."""
        return self._size is None or count <= self._size

    def each(self, work: Callable[[slice], Part], count: int) -> list[Part]:
        """Call `work` with parts of `count` images, as large as fit, and return its results in
        order. Raises DeviceError if there is no memory for a single image."""
        done: list[Part] = []
        start = 0
        while start < count:
            stop = min(count, start + (self._size or count))
            try:
                done.append(work(slice(start, stop)))
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._size = _half(stop - start, error)
                self._note(
                    f"not enough memory for {stop - start} images at once: {self._size} are tried"
                )
            else:
                start = stop
        return done


class SplittingEngine:
    """Halves the batches of an engine when memory runs out.

    `start` launches a batch on a GPU, which computes it while the rows of the previous batch are
    written. The call with the same pixels waits for the output.
    """

    def __init__(
        self,
        engine: Engine,
        note: Callable[[str], None] = lambda text: None,
        *,
        shares_ranges: bool = False,
        launch: Launch | None = None,
    ) -> None:
        """With `shares_ranges`, the images of a batch share one int8 range, so an image that
        overflows spoils the others. Such a batch is run again, one image at a time. `launch` starts
        the work for a batch on a GPU, and returns a function that waits for its output."""
        self._engine = engine
        self._launch = launch
        self._splitter = BatchSplitter(note)
        self._shares_ranges = shares_ranges
        # By the id of the pixels, which are kept here so that no others get the same id.
        self._started: dict[int, tuple[Pixels, Callable[[], NDArray[np.float32]]]] = {}

    @property
    def starts_ahead(self) -> bool:
        """Whether `start` launches something: on a GPU."""
        return self._launch is not None

    def start(self, pixels: Pixels) -> None:
        """Launch the work for a batch if it fits into memory."""
        try:
            if self._launch is not None and self._splitter.fits(len(pixels)):
                self._started[id(pixels)] = pixels, self._launch(pixels)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise  # else the call runs it in parts

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        """(B, H, W, 3) -> (B, ...). Raises as `BatchSplitter.each` does."""
        _, wait = self._started.pop(id(pixels), (None, None))
        if wait is not None:
            return wait()
        parts = self._splitter.each(lambda part: self._engine(pixels[part]), len(pixels))
        output = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if self._shares_ranges and len(pixels) > 1 and not np.isfinite(output).all():
            output = np.concatenate([self._engine(pixels[i : i + 1]) for i in range(len(pixels))])
        return output


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. On GPUs torch raises its own exception; on a CPU and in other
    engines, only the message shows it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return re.search("out of memory|allocate memory|bad_alloc", str(error)) is not None


def _half(images: int, error: Exception) -> int:
    """Halve the number of images. Raises DeviceError for a single image."""
    if images > 1:
        return images // 2
    asked = re.search(r"ried to allocate ([\d.]+) (\w+)", str(error))
    need = f": {asked[1]} {asked[2]} more were needed" if asked else ""
    raise DeviceError(
        f"there is not enough memory for one image{need}",
        "a smaller --image-size, --dtype bf16 or a smaller model takes less",
    ) from None
