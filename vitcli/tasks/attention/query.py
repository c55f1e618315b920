"""The options that choose the maps of `vit attention`, and their checks against the model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vitcli.checkpoints.load import Model
from vitcli.errors import UsageError, listed
from vitcli.jobs.job import Running
from vitcli.jobs.layers import layer_number
from vitcli.models.attention import Heads
from vitcli.models.config import Config, ViTConfig
from vitcli.records import Size

Method: TypeAlias = Literal["raw", "rollout", "grad", "similarity"]
Layer: TypeAlias = int | Literal["pool"]


@dataclass(frozen=True, slots=True)
class Point:
    """A point of an image as EXIF rotates it: in pixels from the left and the top, or in shares of
    the width and the height."""

    x: float
    y: float
    is_share: bool = False

    def shares(self, size: Size) -> tuple[float, float]:
        """The point as shares of the width and height of an image of `size`."""
        if self.is_share:
            return self.x, self.y
        return (self.x + 0.5) / size[1], (self.y + 0.5) / size[0]


Query: TypeAlias = Literal["cls"] | Point | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionQuery:
    """The attention to compute. `layers` are numbers from 1 (-1 is the last) or "pool" for the
    attention pooling; None is the model's default. `query` is the token that attends. `target` is
    the class whose gradients are taken: its name, its number, or "top1", the best class of each
    image."""

    method: Method = "raw"
    layers: Sequence[Layer] | Literal["all"] | None = None
    heads: Heads | None = None
    query: Query = None
    target: str | int = "top1"
    discard: float = 0.0

    def __post_init__(self) -> None:
        if self.heads is not None and self.method in ("grad", "similarity"):
            raise UsageError(
                f"--heads does not go with --method {self.method}", "leave out --heads"
            )
        if self.method == "rollout" and self.heads not in (None, "mean", "max", "min"):
            raise UsageError(
                "rollout needs one matrix for each layer",
                "fuse the heads: --heads mean, max or min",
            )
        if self.method == "grad" and (self.layers is not None or self.query is not None):
            raise UsageError("--method grad uses all layers", "leave out --layer and --query")
        if self.method != "grad" and self.target != "top1":
            raise UsageError("only gradients are taken for a class", "add --method grad")
        if self.discard and self.method != "rollout":
            raise UsageError("--discard-ratio needs rollout", "add --method rollout")


def layers_of(query: AttentionQuery, config: Config) -> tuple[int, ...]:
    """The numbers of the layers, from 1. The attention pooling has the number depth + 1. Raises
    UsageError for a layer that the model does not have."""
    depth, pool = config.depth, config.depth + 1
    pools = isinstance(config, ViTConfig) and config.pool == "map"
    may_read_pool = pools and query.method in ("raw", "rollout") and query.query is None
    if query.layers is None:
        return (pool if may_read_pool else depth,)
    if query.layers == "all":
        return tuple(range(1, depth + 1 + may_read_pool))
    if "pool" in query.layers and not may_read_pool:
        reason = "has no attention pooling" if not pools else "pools with its own query"
        raise UsageError(f"--layer pool: the model {reason}", "give a number, or all")
    numbers = (pool if n == "pool" else layer_number(n, config, first=1) for n in query.layers)
    return tuple(dict.fromkeys(numbers))


def check_head(head: int, config: Config, layers: Sequence[int]) -> None:
    """Raise UsageError if one of the layers does not have this head."""
    heads = config.num_heads
    counts = [heads] if isinstance(heads, int) else [heads[layer - 1] for layer in layers]
    if not 1 <= head <= min(counts):
        raise UsageError(f"--heads {head}: there are {min(counts)} heads", "they count from 1")


def class_number(target: str | int, model: Model) -> int | None:
    """The number of a class given by name, or by number if no class has that name; None for the
    best class of each image. Raises UsageError."""
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
        hint = f"its {len(labels):,} classes are {listed(labels, 3)}; a class number works, too"
    raise UsageError(f"--class {target}: {model.spec} has no such class", hint)


def check_running(running: Running) -> None:
    """Raise UsageError for options that leave no attention weight for each patch."""
    if running.engine != "torch":
        raise UsageError(
            f"--engine {running.engine} does not return attention weights", "leave out --engine"
        )
    if running.merge_tokens:
        raise UsageError(
            "maps have a value for each patch, and --merge-tokens merges patches",
            "leave out --merge-tokens",
        )
