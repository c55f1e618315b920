"""Turn batches of pixels into attention maps, each with the part of the image that it covers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor

from vitcli.checkpoints.load import Model
from vitcli.errors import UsageError
from vitcli.images.preprocess import seen
from vitcli.models.attention import (
    AttentionMaps,
    Heads,
    has_class_token,
    raw,
    relevance,
    rollout,
    similarity,
)
from vitcli.models.config import Config, ViTConfig
from vitcli.models.engine import BatchSplitter
from vitcli.models.network import Network
from vitcli.models.prepare import Prepared
from vitcli.models.swin import SwinTransformer
from vitcli.records import Batch, Box, Maps, Pixels, Size
from vitcli.tasks.attention.query import (
    AttentionQuery,
    Point,
    check_head,
    class_number,
    layers_of,
)


class AttentionRunner:
    """Computes the maps of one query to one model."""

    def __init__(
        self,
        model: Model,
        query: AttentionQuery,
        *,
        wants_logits: bool,
        note: Callable[[str], None],
    ) -> None:
        """Raises UsageError for a query that the model cannot answer. `note` gets a message for
        each image whose query point the model does not see."""
        self.model, self.query = model, query
        self._note, self._splitter = note, BatchSplitter(note)
        config = model.config
        if query.method == "rollout" and isinstance(model.network, SwinTransformer):
            raise UsageError(
                "rollout multiplies attention between all patches, and a Swin attends in windows",
                "use --method grad or raw",
            )
        if query.method == "grad" and not config.num_classes:
            raise UsageError(
                f"{model.spec} has no classifier, which --method grad needs",
                "use --method raw, rollout or similarity",
            )
        if query.query == "cls" and not has_class_token(model.network):
            raise UsageError(
                f"{model.spec} has no class token", "use --query X,Y, or leave out --query"
            )
        self.layers = layers_of(query, config)
        self.heads: Heads = query.heads or "mean"
        if isinstance(self.heads, int):
            check_head(self.heads, config, self.layers)
        self.target = class_number(query.target, model) if query.method == "grad" else None
        self.wants_logits = wants_logits and bool(config.num_classes)

    def __call__(self, prepared: Prepared, batch: Batch) -> AttentionMaps:
        """The maps of a batch by layer, each (B, n, h, w) on the CPU, and the logits if wanted."""
        points = self._points(batch)
        network = prepared.fp32_network if self.query.method == "grad" else prepared.fast_network

        def on_cpu(part: slice) -> AttentionMaps:
            of_part = None if points is None else points[part].to(prepared.device)
            computed = self._maps(prepared, network, batch.pixels_for()[part], of_part)
            return AttentionMaps(
                {layer: maps.cpu() for layer, maps in computed.maps.items()},
                None if computed.logits is None else computed.logits.float().cpu(),
            )

        def in_parts(images: slice) -> list[AttentionMaps]:
            first, last = images.start, images.stop
            return prepared.each(
                lambda part: on_cpu(slice(first + part.start, min(first + part.stop, last))),
                last - first,
            )

        parts = list(chain.from_iterable(self._splitter.each(in_parts, len(batch.refs))))
        logits = [part.logits for part in parts if part.logits is not None]
        return AttentionMaps(
            {layer: torch.cat([part.maps[layer] for part in parts]) for layer in parts[0].maps},
            torch.cat(logits) if logits else None,
        )

    def maps_of(self, attended: AttentionMaps, image: int, size: Size) -> tuple[Maps, ...]:
        """The maps of one image of the batch; `size` is its size before preprocessing."""
        return tuple(
            Maps(
                self._layer_name(layer),
                self._head_names(maps.shape[1]),
                maps[image].numpy(),
                self._box(size, (maps.shape[2], maps.shape[3])),
            )
            for layer, maps in attended.maps.items()
        )

    def patch_of(self, attended: AttentionMaps, size: Size) -> tuple[int, int] | None:
        """The row and column of the query's patch in an image, on the grid of the first layer; None
        for a query that is not a point."""
        point = self._point(size)
        if point is None:
            return None
        grid = next(iter(attended.maps.values())).shape[2:]
        row, column = (
            min(max(int(share * side), 0), side - 1)
            for share, side in zip(torch.tensor(point).tolist(), grid, strict=True)
        )
        return row, column

    def _maps(
        self,
        prepared: Prepared,
        network: Network,
        pixels: Pixels,
        points: Tensor | None,
    ) -> AttentionMaps:
        """Compute the maps of images with the query's method."""
        query, wants = self.query, self.wants_logits
        if query.method == "grad":
            target = self.target
            classes = None if target is None else torch.full((len(pixels),), target)
            return relevance(network, prepared.normalised(pixels), classes)
        with torch.inference_mode():
            images = prepared.fast_input(pixels)
            if query.method == "similarity":
                return similarity(network, images, self.layers, points, wants_logits=wants)
            if query.method == "raw":
                return raw(network, images, self.layers, self.heads, points, wants_logits=wants)
            assert not isinstance(network, SwinTransformer)
            assert self.heads in ("mean", "max", "min")
            return rollout(
                network,
                images,
                self.layers,
                self.heads,
                points,
                discard=query.discard,
                wants_logits=wants,
            )

    def _points(self, batch: Batch) -> Tensor | None:
        """The query points, as shares of the height and width that patches cover.  -> (B, 2)"""
        points = []
        for ref, size in zip(batch.refs, batch.sizes, strict=True):
            point = self._point(size)
            if point is None:
                return None
            points.append(point)
            if not all(0 <= share < 1 for share in point):
                self._note(
                    f"--query is outside of what the model sees of {ref.path}: the nearest patch "
                    "is used"
                )
        return torch.tensor(points)

    def _point(self, size: Size) -> tuple[float, float] | None:
        point = self.query.query
        if not isinstance(point, Point):
            return None
        x, y = point.shares(size)
        top, left, bottom, right = self._box(size, self.model.config.layer_grid(0))
        return (y - top) / (bottom - top), (x - left) / (right - left)

    def _box(self, size: Size, grid: Size) -> Box:
        """The part of an image that the patches of a grid cover, in shares of its sides. The
        box leaves out rows and columns that do not fill a patch. With padding, the box is larger
        than the image."""
        top, left, bottom, right = seen(size, self.model.preprocess)
        if self.model.preprocess.varies:  # resized to whole patches
            return top, left, bottom, right
        down, across = _covered(self.model.config, grid)
        return top, left, top + (bottom - top) * down, left + (right - left) * across

    def _layer_name(self, layer: int) -> str:
        if self.query.method == "grad":
            return "all"
        return "pool" if layer > self.model.config.depth else str(layer)

    def _head_names(self, count: int) -> tuple[str, ...]:
        if self.query.method in ("grad", "similarity"):
            return ("",)
        if self.heads == "all":
            return tuple(str(number) for number in range(1, count + 1))
        return (str(self.heads),)


def _covered(config: Config, grid: Size) -> tuple[float, float]:
    """The shares of height and width of the model's input that the patches of a grid cover."""
    layer = next(n for n in range(config.depth + 1) if config.layer_grid(n) == grid)
    side = 1 if isinstance(config, ViTConfig) else 2 ** min(layer, config.depth - 1)
    height, width = (
        count * patch * side / length
        for count, patch, length in zip(grid, config.patch_size, config.image_size, strict=True)
    )
    return height, width
