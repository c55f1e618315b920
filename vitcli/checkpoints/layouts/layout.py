"""What a layout is: how to recognise it, its tensor names, and how its config reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from vitcli.checkpoints.keymap import Rule, to_theirs
from vitcli.errors import CheckpointError
from vitcli.models.config import Activation, Config, SwinConfig, ViTConfig
from vitcli.records import Size

Json = Mapping[str, Any]
Tensors = Mapping[str, Tensor]
C = TypeVar("C", ViTConfig, SwinConfig)

MAX_STAGES = 8

# What PyTorch's wrappers (DataParallel, compile, FSDP, activation checkpointing) put into names, at
# any depth; and what people write around a model to train it, before every name.
INNER = frozenset(
    (
        *("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"),
        *("_forward_module", "_ddp_params_and_buffers"),
    )
)
WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "net.", "timm_model.")
# The tensor that every model of a layout has under no prefix but that of the user's own module.
ANCHORS = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.weight",
    "conv_proj.weight",
)
TOWERS = ("visual.", "student.", "teacher.", "momentum_", "base_encoder.", "target_")
# What transformers calls the sizes that most of its configs have.
HF_FIELDS = {
    "in_chans": "num_channels",
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "norm_eps": "layer_norm_eps",
}
# A model with a head holds its backbone under a name of its own; these stand beside it.
HEADS = ("classifier", "cls_classifier", "distillation_classifier", "visual_projection")


@dataclass(frozen=True, slots=True)
class Expressed:
    """A model in the form of a layout: its config then, its tensors by their names, its JSON, and
    what a user should know of it."""

    config: Config
    tensors: dict[str, Tensor]
    json: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Writer(Generic[C]):
    """How a layout is written.

    `only` names the options of the config that it can express with a single value, or with one
    of several; `refusals` what else stands in the way, in words. `adapt` brings tensors and
    config into the layout's form, `rules` and `prefix` name them, `config` is the JSON.
    `kind` is the class of the configs that it is for, `notes` what a user should know.
    """

    only: Mapping[str, tuple[object, ...]]
    refusals: Callable[[C], list[str]]
    adapt: Callable[[C, Tensors], tuple[C, dict[str, Tensor]]]
    rules: Callable[[C], tuple[Rule, ...]]
    prefix: Callable[[C], str]
    config: Callable[[C], dict[str, Any]]
    kind: type[C]
    notes: Callable[[C], tuple[str, ...]] = lambda config: ()

    def obstacles(self, config: Config) -> list[str]:
        """What of this model the layout cannot express; empty where it can."""
        assert isinstance(config, self.kind)
        fixed = [
            f"{name}={getattr(config, name)}"
            for name, values in self.only.items()
            if getattr(config, name) not in values
        ]
        return fixed + self.refusals(config)

    def express(self, config: Config, tensors: Tensors) -> Expressed:
        """The model under the layout's names. Only for a model without obstacles."""
        assert isinstance(config, self.kind)
        adapted, ours = self.adapt(config, tensors)
        prefix = self.prefix(adapted)
        theirs = {
            name if name.partition(".")[0] in HEADS else prefix + name: tensor
            for name, tensor in to_theirs(ours, self.rules(adapted)).items()
        }
        return Expressed(adapted, theirs, self.config(adapted), self.notes(adapted))


@dataclass(frozen=True, slots=True)
class Layout:
    """One naming scheme.

    `prefixes` may stand before any name, as PyTorch's own may, and are taken off first; `unpack`
    undoes what else was done to all names, such as blocks stacked in one tensor. `detect` sees the
    names after that.
    `rules` gives the table for one file (a few names mean different things in different files).
    `read_config` sees the tensors in *our* names, the JSON beside them, and a number of heads
    that overrides what it would take; `num_heads` finds it where their shapes show it.
    `words` says how the JSON tells of the preprocessing (`own`: not at all), and `family` whose it
    is, where all files of the layout are of one. `fields` are the JSON's names of a config's.
    """

    name: str
    prefixes: tuple[str, ...]
    detect: Callable[[Collection[str]], bool]
    rules: Callable[[Tensors], tuple[Rule, ...]]
    read_config: Callable[[Tensors, Json, int | None], Config]
    writer: Writer[ViTConfig] | Writer[SwinConfig] | None = None
    unpack: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state
    num_heads: Callable[[Tensors], int | None] = lambda state: None
    words: Literal["hf", "timm", "open_clip", "own"] = "hf"
    family: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    def strip(self, state: Tensors) -> dict[str, Tensor]:
        """Plain names, without the layout's prefixes and packing. Raises CheckpointError where
        two become one."""
        stripped: dict[str, Tensor] = {}
        for name, plain in plain_names(state, self.prefixes).items():
            if plain in stripped:
                raise CheckpointError(f"{plain} is there twice, with and without a prefix")
            stripped[plain] = state[name]
        return self.unpack(stripped)


def plain_names(names: Collection[str], prefixes: Sequence[str] = ()) -> dict[str, str]:
    """Each name without what wrappers have put around it: PyTorch's at any depth, and before it
    the usual ones, `prefixes`, and the one that the model has in a module of the user's own."""
    plain = {name: _unwrapped(name, (*WRAPPERS, *prefixes)) for name in names}
    outer = {
        found.removesuffix(anchor)
        for found in plain.values()
        for anchor in ANCHORS
        if found == anchor or found.endswith("." + anchor)
    }
    own = outer.pop() if len(outer) == 1 else ""
    if not own or own.startswith(TOWERS):
        return plain
    path = tuple(own.split(".")[:-1])
    return {name: _below(found, path) for name, found in plain.items()}


@lru_cache(maxsize=1 << 16)
def _below(name: str, path: tuple[str, ...]) -> str:
    """A name without the modules that it has in common with a path: a head may stand beside the
    backbone, in the module that holds both."""
    parts = name.split(".")
    common = takewhile(lambda pair: pair[0] == pair[1], zip(parts[:-1], path, strict=False))
    return ".".join(parts[sum(1 for _ in common) :])


@lru_cache(maxsize=1 << 16)
def _unwrapped(name: str, prefixes: tuple[str, ...]) -> str:
    *path, last = name.split(".")
    name = ".".join((*(part for part in path if part not in INNER), last))
    while prefix := next((p for p in prefixes if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return name


ACTIVATION_NAMES: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def activation(name: object) -> Activation:
    """The activation that a config names. Raises CheckpointError for one that is not known."""
    try:
        return ACTIVATION_NAMES[str(name)]
    except KeyError:
        known = ", ".join(ACTIVATION_NAMES)
        raise CheckpointError(f"unknown activation {name!r}", f"known are {known}") from None


def activation_name(act: Activation) -> str:
    """The way back: transformers' and timm's name of an activation."""
    return {"gelu_tanh": "gelu_pytorch_tanh"}.get(act, act)


def with_positions(config: ViTConfig, tensors: Tensors, count: int) -> dict[str, Tensor]:
    """Give the first `count` prefix tokens a row in the position embedding: of zeros, where they
    had none. The same numbers, in the form of a layout that has those rows."""
    pos = tensors["pos_embed"]
    missing = count - config.pos_prefix
    if missing <= 0:
        return dict(tensors)
    zeros = pos.new_zeros(1, missing, pos.shape[2])
    placed = torch.cat([pos[:, : config.pos_prefix], zeros, pos[:, config.pos_prefix :]], dim=1)
    return {**tensors, "pos_embed": placed}


def as_it_is(config: C, tensors: Tensors) -> tuple[C, dict[str, Tensor]]:
    """For a layout whose form is ours."""
    return config, dict(tensors)


def not_square(config: ViTConfig) -> list[str]:
    """The obstacle for libraries that know square images only."""
    if config.image_size[0] == config.image_size[1] and config.grid[0] == config.grid[1]:
        return []
    return [f"an image of {config.image_size[0]}x{config.image_size[1]}, which is not square"]


def image_pair(size: Size) -> int | list[int]:
    """A square as one number, as the libraries write it."""
    return size[0] if size[0] == size[1] else list(size)


def pair(value: object, name: str) -> Size:
    """A config's int, [n] or [height, width] as (height, width)."""
    sides = value if isinstance(value, list | tuple) else (value,)
    if len(sides) in (1, 2) and all(isinstance(s, int) and s > 0 for s in sides):
        return sides[0], sides[-1]
    raise CheckpointError(f"{name} is {value!r}: expected a positive number or [height, width]")


def number(value: object, name: str) -> float:
    """A config's number: neither text, nor nothing, nor NaN, nor beyond all sense."""
    if isinstance(value, int | float) and abs(value) <= 1e9:
        return value
    raise CheckpointError(f"{name} is {value!r}: expected a number")


def numbers(value: object, name: str) -> tuple[int, ...]:
    """A config's list of positive whole numbers, one a stage."""
    listed = value if isinstance(value, list | tuple) else ()
    if 0 < len(listed) <= MAX_STAGES and all(isinstance(n, int) and n > 0 for n in listed):
        return tuple(listed)
    raise CheckpointError(f"{name} is {value!r}: expected a positive number for each stage")


class MissingTensor(CheckpointError):
    """A tensor, by our name, that every file of the layout has."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is missing")
        self.name = name


def shape(tensors: Tensors, name: str, dims: int) -> tuple[int, ...]:
    """The shape of a tensor that every file of the layout has."""
    if name not in tensors:
        raise MissingTensor(name)
    found = tuple(tensors[name].shape)
    if len(found) != dims or 0 in found:
        raise CheckpointError(f"{name} has shape {list(found)}: expected {dims} dimensions")
    return found


def count_classes(tensors: Tensors) -> int:
    """The outputs of the classifier, 0 where there is none."""
    for name, dims in (("head.weight", 2), ("head.bias", 1)):
        if name in tensors:
            return shape(tensors, name, dims)[0]
    return 0


def count_blocks(tensors: Tensors) -> int:
    """How many blocks the names speak of."""
    numbers = {int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")}
    return 1 + max(numbers, default=-1)


def grid_of(positions: int, like: Size | None) -> Size:
    """The grid of so many patch positions: `like` where it fits, else the square."""
    if like is not None and like[0] * like[1] == positions:
        return like
    side = math.isqrt(positions)
    if side * side != positions:
        raise CheckpointError(
            f"a position embedding (pos_embed) of {positions} patches is not square",
            "its image size is not in the file",
        )
    return side, side
