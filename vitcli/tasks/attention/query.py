"""A batch of pixels into maps of where a model looks: what was asked for, checked against it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from vitcli.checkpoints.load import Model
from vitcli.errors import UsageError
from vitcli.images.preprocess import seen
from vitcli.jobs.job import Running
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

Method: TypeAlias = Literal["raw", "rollout", "grad", "similarity"]
Layer: TypeAlias = int | Literal["pool"]


@dataclass(frozen=True, slots=True)
class Point:
    """A place in an upright picture: pixels from its left and its top, or shares of its sides."""

    x: float
    y: float
    is_share: bool = False

    def shares(self, size: Size) -> tuple[float, float]:
        """From the left and from the top, of a picture (height, width)."""
        if self.is_share:
            return self.x, self.y
        return (self.x + 0.5) / size[1], (self.y + 0.5) / size[0]


Query: TypeAlias = Literal["cls"] | Point | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionQuery:
    """What is asked for. `layers` is the model's own choice where None, "all" or numbers from 1,
    -1 the last, "pool" the attention pooling; `target` a class by name or number, or top1."""

    method: Method = "raw"
    layers: Sequence[Layer] | Literal["all"] | None = None
    heads: Heads | None = None
    query: Query = None
    target: str | int = "top1"
    discard: float = 0.0

    def __post_init__(self) -> None:
        if self.heads is not None and self.method in ("grad", "similarity"):
            raise UsageError(f"--heads does not go with --method {self.method}", "leave it out")
        if self.method == "rollout" and self.heads not in (None, "mean", "max", "min"):
            raise UsageError(
                "rollout multiplies one matrix a layer", "fuse the heads: --heads mean, max or min"
            )
        if self.method == "grad" and (self.layers is not None or self.query is not None):
            raise UsageError("grad goes through all layers", "leave out --layer and --query")
        if self.method != "grad" and self.target != "top1":
            raise UsageError("a class is what gradients are taken of", "add --method grad")
        if self.discard and self.method != "rollout":
            raise UsageError("--discard-ratio is of rollout", "add --method rollout")


class AttentionRunner:
    """A model and what is asked of it."""

    def __init__(
        self, model: Model, look: AttentionQuery, *, wants_logits: bool, note: Callable[[str], None]
    ) -> None:
        """Raises UsageError for what the model does not have; `note` hears of a query that is
        beside a picture."""
        self.model = model
        self._note = note
        self._splitter = BatchSplitter(note)
        self.look = look
        config = model.config
        if look.method == "rollout" and isinstance(model.network, SwinTransformer):
            raise UsageError(
                "rollout multiplies attention between all patches, and a Swin attends in windows",
                "use --method grad or raw",
            )
        if look.method == "grad" and not config.num_classes:
            raise UsageError(
                f"{model.spec} has no classifier, and --method grad is about a class",
                "use --method raw, rollout or similarity",
            )
        if look.query == "cls" and not has_class_token(model.network):
            raise UsageError(f"{model.spec} has no class token", "use --query X,Y, or leave it out")
        self.layers = _layers(look, config)
        self.heads: Heads = look.heads or "mean"
        if isinstance(self.heads, int):
            _check_head(self.heads, config, self.layers)
        self.target = _class_number(look.target, model) if look.method == "grad" else None
        self.wants_logits = wants_logits and bool(config.num_classes)

    def __call__(self, prepared: Prepared, batch: Batch) -> AttentionMaps:
        """The maps of a batch, by layer, (B, n, h, w) each on the CPU; and logits if wanted."""
        points = self._points(batch)
        network = prepared.fp32_network if self.look.method == "grad" else prepared.fast_network

        def look(part: slice) -> AttentionMaps:
            some = None if points is None else points[part].to(prepared.device)
            looked = self._look(prepared, network, batch.pixels[0][part], some)
            maps = {layer: maps.cpu() for layer, maps in looked.maps.items()}
            return AttentionMaps(
                maps, None if looked.logits is None else looked.logits.float().cpu()
            )

        def fitting(some: slice) -> list[AttentionMaps]:
            first, last = some.start, some.stop
            return prepared.each(
                lambda part: look(slice(first + part.start, min(first + part.stop, last))),
                last - first,
            )

        parts = self._splitter.each(fitting, len(batch.refs))
        found = [looked for part in parts for looked in part]
        logits = [looked.logits for looked in found if looked.logits is not None]
        return AttentionMaps(
            {n: torch.cat([looked.maps[n] for looked in found]) for n in found[0].maps},
            torch.cat(logits) if logits else None,
        )

    def maps_of(self, looked: AttentionMaps, image: int, size: Size) -> tuple[Maps, ...]:
        """The maps of one image of the batch, whose picture has this size."""
        return tuple(
            Maps(
                self._layer_name(layer),
                self._head_names(maps.shape[1]),
                maps[image].numpy(),
                self._box(size, (maps.shape[2], maps.shape[3])),
            )
            for layer, maps in looked.maps.items()
        )

    def query_of(self, looked: AttentionMaps, image: int, batch: Batch) -> tuple[int, int] | None:
        """The row and column of the patch that was asked about, on the grid of the first layer."""
        points = self._points(batch)
        if points is None:
            return None
        grid = next(iter(looked.maps.values())).shape[2:]
        down, across = (
            min(max(int(share * side), 0), side - 1)
            for share, side in zip(points[image].tolist(), grid, strict=True)
        )
        return down, across

    def _look(
        self,
        prepared: Prepared,
        network: Network,
        pixels: Pixels,
        points: Tensor | None,
    ) -> AttentionMaps:
        look, wants = self.look, self.wants_logits
        if look.method == "grad":
            images = prepared.normalised(pixels)
            target = self.target
            classes = None if target is None else torch.full((len(pixels),), target)
            return relevance(network, images, classes)
        with torch.inference_mode():
            images = prepared.fast_input(pixels)
            if look.method == "similarity":
                return similarity(network, images, self.layers, points, wants_logits=wants)
            if look.method == "raw":
                return raw(network, images, self.layers, self.heads, points, wants_logits=wants)
            assert not isinstance(network, SwinTransformer)
            assert self.heads in ("mean", "max", "min")
            return rollout(
                network,
                images,
                self.layers,
                self.heads,
                points,
                discard=look.discard,
                wants_logits=wants,
            )

    def _points(self, batch: Batch) -> Tensor | None:
        """Where the query lies among the patches, down and across, from 0 to 1.  (B, 2)"""
        query = self.look.query
        if not isinstance(query, Point):
            return None
        grid = self.model.config.layer_grid(0)
        places = []
        for ref, size in zip(batch.refs, batch.sizes, strict=True):
            x, y = query.shares(size)
            top, left, bottom, right = self._box(size, grid)
            down, across = (y - top) / (bottom - top), (x - left) / (right - left)
            places.append((down, across))
            if not (0 <= down < 1 and 0 <= across < 1):
                self._note(f"--query is where the model does not see {ref.path}: the nearest patch")
        return torch.tensor(places)

    def _box(self, size: Size, grid: Size) -> Box:
        """The part of a picture that the patches of a grid lie on, in shares of its sides: what is
        left over beside whole patches is not seen, and padding lies beyond."""
        top, left, bottom, right = seen(size, self.model.preprocess)
        down, across = _covered(self.model.config, grid)
        return top, left, top + (bottom - top) * down, left + (right - left) * across

    def _layer_name(self, layer: int) -> str:
        if self.look.method == "grad":
            return "all"
        return "pool" if layer > self.model.config.depth else str(layer)

    def _head_names(self, count: int) -> tuple[str, ...]:
        if self.look.method in ("grad", "similarity"):
            return ("",)
        if self.heads == "all":
            return tuple(str(number) for number in range(1, count + 1))
        return (str(self.heads),)


def _layers(look: AttentionQuery, config: Config) -> tuple[int, ...]:
    """Numbers from 1; the attention pooling is one more than the depth."""
    depth, pool = config.depth, config.depth + 1
    pools = isinstance(config, ViTConfig) and config.pool == "map"
    looks_at_pool = pools and look.method in ("raw", "rollout") and look.query is None
    if look.layers is None:
        return (pool if looks_at_pool else depth,)
    if look.layers == "all":
        return tuple(range(1, depth + 1 + looks_at_pool))
    numbers = []
    for layer in look.layers:
        if layer == "pool":
            if not looks_at_pool:
                reason = "has no attention pooling" if not pools else "pools with its own query"
                raise UsageError(f"--layer pool: the model {reason}", "give a number, or all")
            numbers.append(pool)
            continue
        number = layer + depth + 1 if layer < 0 else layer
        if not 1 <= number <= depth:
            raise UsageError(
                f"--layer {layer}: the model has {depth} {config.layer_name}s",
                f"1 is the first {config.layer_name}, {depth} or -1 the last",
            )
        numbers.append(number)
    return tuple(dict.fromkeys(numbers))


def _check_head(head: int, config: Config, layers: Sequence[int]) -> None:
    heads = config.num_heads
    counts = [heads] if isinstance(heads, int) else [heads[layer - 1] for layer in layers]
    if not 1 <= head <= min(counts):
        raise UsageError(f"--heads {head}: there are {min(counts)} heads", "they count from 1")


def _class_number(target: str | int, model: Model) -> int | None:
    """The class of a name or number, where that is no name; None for the best of each image."""
    if target == "top1":
        return None
    labels = model.labels
    if isinstance(target, str) and target.isdecimal() and target not in labels:
        target = int(target)
    if isinstance(target, int):
        classes = model.config.num_classes
        if not 0 <= target < classes:
            raise UsageError(
                f"--class {target}: {model.spec} has {classes:,} classes",
                f"they count from 0 to {classes - 1}",
            )
        return target
    names: Mapping[str, int] = {
        name.strip().lower(): number
        for number, label in reversed(list(enumerate(labels)))
        for name in (*label.split(","), label)
    }
    asked = target.strip().lower()
    if asked in names:
        return names[asked]
    near = [name for name in names if asked in name] or difflib.get_close_matches(asked, names)
    hint = f"did you mean {' or '.join(near[:3])}?"
    if not near:
        some = ", ".join(labels[:3]) + ", ..." * (len(labels) > 3)
        hint = f"its {len(labels):,} classes are {some}; a number does as well"
    raise UsageError(f"--class {target}: {model.spec} has no such class", hint)


def _covered(config: Config, grid: Size) -> tuple[float, float]:
    """How much of the height and width of the model's image the patches of a grid cover."""
    layer = next(n for n in range(config.depth + 1) if config.layer_grid(n) == grid)
    side = 1 if isinstance(config, ViTConfig) else 2 ** min(layer, config.depth - 1)
    height, width = (
        count * patch * side / length
        for count, patch, length in zip(grid, config.patch_size, config.image_size, strict=True)
    )
    return height, width


def check_running(running: Running) -> None:
    """Raises UsageError for an engine that does not let anybody look inside."""
    if running.engine != "torch":
        raise UsageError(
            f"--engine {running.engine} does not show its attention", "leave out --engine"
        )
