"""The outputs of a network that commands need, and the engines that compute them for a batch."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from vitcli.errors import DeviceError
from vitcli.models.fields import Pooling
from vitcli.models.network import Network
from vitcli.models.normalise import Normalisation
from vitcli.models.prepare import Prepared
from vitcli.models.swin import SwinTransformer
from vitcli.records import Pixels, Preprocess

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


class Engine(Protocol):
    """Runs a network on a batch, for one output."""

    def __call__(self, pixels: Pixels) -> Tensor:
        """(B, H, W, 3) -> fp32 on the CPU, (B, K) or (B, ..., n*D)"""


class TorchEngine:
    """Runs a prepared network."""

    def __init__(self, prepared: Prepared, output: Output) -> None:
        self._prepared = prepared
        self._output = output

    def __call__(self, pixels: Pixels) -> Tensor:
        """(B, H, W, 3) -> fp32 on the CPU, (B, ...)"""
        return self._prepared.run(self._output, pixels)


class BatchSplitter:
    """Splits batches that do not fit into memory, and remembers the size that fits."""

    def __init__(self, note: Callable[[str], None] = lambda text: None) -> None:
        self._note = note
        self._size: int | None = None

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
    """Halves the batches of an engine when memory runs out."""

    def __init__(
        self,
        engine: Engine,
        note: Callable[[str], None] = lambda text: None,
        *,
        shares_ranges: bool = False,
    ) -> None:
        """With `shares_ranges`, the images of a batch share one int8 range, so an image that
        overflows spoils the others. Such a batch is run again, one image at a time."""
        self._engine = engine
        self._splitter = BatchSplitter(note)
        self._shares_ranges = shares_ranges

    def __call__(self, pixels: Pixels) -> Tensor:
        """(B, H, W, 3) -> fp32 on the CPU, (B, ...). Raises as `BatchSplitter.each` does."""
        parts = self._splitter.each(lambda part: self._engine(pixels[part]), len(pixels))
        output = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self._shares_ranges and len(pixels) > 1 and not bool(output.isfinite().all()):
            output = torch.cat([self._engine(pixels[i : i + 1]) for i in range(len(pixels))])
        return output


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. On GPUs torch raises its own exception; on a CPU and in other
    engines, only the message shows it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
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


class Graph(nn.Module):
    """A network with its normalisation, for export to another engine.

    It takes pixels of `dtype`, mostly uint8, so that no floats are copied to the engine.
    """

    def __init__(self, network: Network, plan: Preprocess, output: Output) -> None:
        super().__init__()
        self.network = network
        self.output = output
        self.size, self.dtype = plan.size, plan.dtype
        self.normalise = Normalisation(plan)

    def forward(self, pixels: Tensor) -> Tensor:
        """`dtype` (B, H, W, 3) -> (B, ...)"""
        return self.output(self.network, self.normalise(pixels.permute(0, 3, 1, 2)))

    @torch.no_grad()
    def traced(self) -> torch.export.ExportedProgram:
        """Trace the operations, for a batch of any size."""
        pixels = torch.zeros(2, *self.size, 3, dtype=getattr(torch, self.dtype))
        return torch.export.export(
            self, (pixels,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and logs of an exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
