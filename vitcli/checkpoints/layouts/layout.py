"""The class `Layout`, and the functions with which layouts read and write tensors and configs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from vitcli.checkpoints.keymap import Rule, to_theirs
from vitcli.checkpoints.preprocess.published import Evaluation, Family
from vitcli.checkpoints.weights.lazy import cat
from vitcli.errors import CheckpointError
from vitcli.models.config import Config, ViTConfig
from vitcli.models.fields import Activation
from vitcli.models.swin_config import SwinConfig
from vitcli.models.text_config import TextConfig
from vitcli.records import Size, by

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor, nn

    from vitcli.models.mae import MaskedAutoencoder
    from vitcli.models.mim import MaskedImageModel
    from vitcli.models.vit import VisionTransformer

Json = Mapping[str, Any]
Tensors: TypeAlias = "Mapping[str, Tensor]"
Reconstruction: TypeAlias = "MaskedAutoencoder | MaskedImageModel"
Library = Literal["transformers", "timm"]
Words = Literal["hf", "timm", "open_clip", "own"]
C = TypeVar("C", ViTConfig, SwinConfig)

# Reasons to drop a tensor when a model of images is read.
TEXT = "part of the text tower"
COMPARES = "it compares images with texts"
MAX_STAGES = 8
BF16 = 2**-8  # the largest relative error of a rounding to bf16

# Parts that PyTorch's wrappers (DataParallel, compile, FSDP, activation checkpointing) put into
# names, at any depth.
INNER = frozenset(
    (
        *("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"),
        *("_forward_module", "_ddp_params_and_buffers"),
    )
)
# Prefixes that wrappers and training scripts put before every name.
WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "net.", "timm_model.")
# Every model has one of these tensors. A prefix that remains before its name is a user's own
# module, unless the prefix begins with one of TOWERS, which distinguish the networks in one file.
ANCHORS = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.weight",
    "embeddings.patch_embedding.weight",
    "conv_proj.weight",
)
TOWERS = ("visual.", "student.", "teacher.", "momentum_", "base_encoder.", "target_")
# vitcli's fields, and the keys that most of transformers' configs have for them.
HF_FIELDS = {
    "in_chans": "num_channels",
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "norm_eps": "layer_norm_eps",
}
# The fields of a ViT that few layouts can express: the usual value, and the obstacle in words.
RARE: dict[str, tuple[object, str]] = {
    "num_class_tokens": (1, "several class tokens"),
    "summary": ((), "a summary of joined class tokens"),
    "pos_grid": (None, "a table of positions with a grid of its own"),
    "pos_embed": (True, "no table of positions"),
    "rope": (None, "rotary positions"),
    "rel_bias": ("none", "relative positions"),
    "fixed_grid": (False, "positions for one grid alone"),
    "any_grid": (False, "images of any shape (NaFlex)"),
    "patch_norm": (False, "a norm of the embedded patches"),
    "norm": ("layer", "RMS norms"),
    "qv_bias": (False, "biases of q and v without one of k"),
    "attn_norm": (False, "a norm inside attention"),
    "proj_bias": (True, "no bias after attention"),
    "ffn_bias": (True, "no biases in the feed-forward"),
    "gate_act": ("silu", "a gated feed-forward without silu"),
    "ffn_norm": (False, "a norm inside the feed-forward"),
    "pool_heads": (0, "another number of heads in the attention pooling"),
    "pool_hidden_dim": (0, "another width of the feed-forward in the attention pooling"),
    "pool_prefix": (False, "attention pooling that reads prefix tokens"),
    "projection_bias": (False, "a projection with a bias"),
    "cosine_head": (False, "a head that compares images with texts"),
}
# In a model with a head, the names of the backbone have a prefix, but not those of these modules.
HEADS = ("classifier", "cls_classifier", "distillation_classifier", "visual_projection")


@dataclass(frozen=True, slots=True)
class Expressed:
    """A model in the form of a layout: its config, its tensors under the layout's names, its JSON,
    and notes for the user."""

    config: Config
    tensors: dict[str, Tensor]
    json: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Writer(Generic[C]):
    """The functions that write a model in a layout, in files that `library` opens.

    `kind` is the class of the configs that the layout can express. `config` makes the JSON; `rules`
    and `prefix` name the tensors. `only` lists the possible values of some fields of the config,
    `rare` the fields of `RARE` that the layout can express; `refusals` returns all other obstacles,
    in words. `adapt` changes config and tensors into those to write. `notes` returns notes for the
    user.
    """

    library: Library
    kind: type[C]
    rules: Callable[[C], tuple[Rule, ...]]
    config: Callable[[C], dict[str, Any]]
    only: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    refusals: Callable[[C], list[str]] = lambda config: []
    adapt: Callable[[C, Tensors], tuple[C, dict[str, Tensor]]] = lambda c, tensors: (
        c,
        dict(tensors),
    )
    prefix: Callable[[C], str] = lambda config: ""
    notes: Callable[[C], tuple[str, ...]] = lambda config: ()
    rare: tuple[str, ...] = ()

    def obstacles(self, config: Config) -> list[str]:
        """List the parts of this model that the layout cannot express."""
        assert isinstance(config, self.kind)
        fixed = [
            f"{name}={getattr(config, name)}"
            for name, values in self.only.items()
            if getattr(config, name) not in values
        ]
        rare = [
            obstacle
            for name, (usual, obstacle) in RARE.items()
            if name not in self.rare and getattr(config, name, usual) != usual
        ]
        return fixed + rare + self.refusals(config)

    def express(self, config: Config, tensors: Tensors) -> Expressed:
        """Bring a model without obstacles into the layout's form."""
        assert isinstance(config, self.kind)
        adapted, ours = self.adapt(config, tensors)
        prefix = self.prefix(adapted)
        theirs = {
            name if name.partition(".")[0] in HEADS else prefix + name: tensor
            for name, tensor in to_theirs(ours, self.rules(adapted)).items()
        }
        return Expressed(adapted, theirs, self.config(adapted), self.notes(adapted))


# A decoder without weights, and the function that joins encoder and decoder once it has weights.
Parts: TypeAlias = "tuple[nn.Module, Callable[[VisionTransformer, Any], Reconstruction]]"


@dataclass(frozen=True, slots=True)
class Decoder:
    """A kind of decoder of masked pre-training: its rules, and the function that builds its parts
    from the encoder's config, its tensors (in vitcli's names without `decoder.`) and the JSON."""

    rules: tuple[Rule, ...]
    parts: Callable[[ViTConfig, Tensors, Json], Parts]

    def among(self, rules: Collection[Rule]) -> tuple[Rule, ...]:
        """Return `rules` with those of the decoder instead of those that drop it."""
        starts = ("decoder", "mask_token", "embeddings.mask_token")
        kept = (rule for rule in rules if rule.ours or not rule.theirs[0].startswith(starts))
        return (*kept, *self.rules)


@dataclass(frozen=True, slots=True)
class Decoders:
    """The decoders that a layout's files may have. `find` recognises a decoder by the tensor
    names, or returns None. `express` adds the decoder to the encoder in the layout's form."""

    find: Callable[[Collection[str]], Decoder | None]
    express: Callable[[Reconstruction, Expressed], Expressed] | None = None


@dataclass(frozen=True, slots=True)
class Texts:
    """The text tower that the files of a layout may have.

    `rules` returns the rules for the tensors that the layout drops because of TEXT, and raises
    CheckpointError for a text tower that is not supported. `read_config` gets the tensors in
    vitcli's names and the JSON. `fields` maps the fields of vitcli's config to the JSON's keys.
    """

    rules: Callable[[Collection[str], Json], tuple[Rule, ...]]
    read_config: Callable[[Tensors, Json], TextConfig]
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layout:
    """The names and sizes of one library's or repository's checkpoints.

    To recognise its files: `detect` returns whether the tensors, by their names, are the layout's
    (the layout "claims" them), without `prefixes` and after `unpack`, which renames tensors or
    unstacks blocks. A layout with `is_general` counts only if no other claims the file. A config
    may name a model of the layout by `model_types` or `classes` (a regular expression for the start
    of a class name) of transformers, or by `architectures` (a regular expression) of timm. `doubt`
    is a note for files without a config, because their names also fit another model.

    To read its files: `rules` returns the rules for one file, as some names mean different things
    in different files; `rules_by_config` does so where only the JSON shows what they mean.
    `read_config` gets the tensors in vitcli's names, the JSON, and the number of heads if the user
    gives it or `num_heads` reads it from the tensors. Without a JSON, it gets that of `buffers`:
    sizes that only dropped tensors show. With `needs_config`, a file needs a config because its
    tensors do not show all sizes. `config_tensors` are vitcli's names for tensors that only
    `read_config` reads: they become part of the config, and not of the network.
    `fields` maps the fields of vitcli's config to the JSON's keys. `decoders` are those of masked
    pre-training, `texts` reads a text tower. `notes` returns notes for the user.

    To preprocess: `words` is the library whose keys the JSON has; `json_words`, if given, replaces
    it for files with a JSON. "own" means that no JSON is read, and that `evaluation`, from the
    layout's repository, is the preprocessing. `family` is set if all its files belong to one,
    but for those of `family_of`.
    """

    name: str
    prefixes: tuple[str, ...]
    detect: Callable[[Tensors], bool]
    rules: Callable[[Tensors], tuple[Rule, ...]]
    read_config: Callable[[Tensors, Json, int | None], Config]
    writer: Writer[ViTConfig] | Writer[SwinConfig] | None = None
    unpack: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state
    num_heads: Callable[[Tensors], int | None] = lambda state: None
    buffers: Callable[[Tensors], Json] = lambda state: {}
    needs_config: bool = False
    config_tensors: frozenset[str] = frozenset()
    is_general: bool = False
    model_types: tuple[str, ...] = ()
    classes: str = ""
    architectures: str = ""
    doubt: str = ""
    decoders: Decoders | None = None
    texts: Texts | None = None
    rules_by_config: Callable[[Tensors, Json], tuple[Rule, ...]] | None = None
    notes: Callable[[Config, Json], tuple[str, ...]] = lambda config, json: ()
    words: Words = "own"
    json_words: Words | None = None
    evaluation: Evaluation | None = None
    family: Family | None = None
    family_of: Callable[[Config], Family | None] = lambda config: None
    fields: Mapping[str, str] = field(default_factory=dict)

    def strip(self, state: Tensors) -> dict[str, Tensor]:
        """Remove the prefixes, and unpack. Raises CheckpointError if two names become equal."""
        stripped: dict[str, Tensor] = {}
        for name, plain in plain_names(state, self.prefixes).items():
            if plain in stripped:
                raise CheckpointError(f"{plain} is there twice, with and without a prefix")
            stripped[plain] = state[name]
        return self.unpack(stripped)

    def decoder_in(self, names: Collection[str]) -> Decoder | None:
        """The decoder of masked pre-training in a file with these names."""
        return self.decoders.find(names) if self.decoders else None

    def rules_with(self, decoder: Decoder | None, tensors: Tensors, json: Json) -> tuple[Rule, ...]:
        """The rules for one file, including those of its decoder, if one is given."""
        by_config = self.rules_by_config
        rules = self.rules(tensors) if by_config is None else by_config(tensors, json)
        return rules if decoder is None else decoder.among(rules)


def lift(tensor: Tensor) -> Tensor:
    """(N, D) -> (1, N, D)"""
    return tensor[None]


def lower(tensor: Tensor) -> Tensor:
    """(1, N, D) -> (N, D)"""
    return tensor[0]


def turn(tensor: Tensor) -> Tensor:
    """(D, E) -> (E, D)"""
    return tensor.transpose(0, -1).contiguous()


def plain_names(names: Collection[str], prefixes: tuple[str, ...] = ()) -> Mapping[str, str]:
    """Map each name to its plain form: without PyTorch's wrappers at any depth, the usual prefixes
    and `prefixes`, and the prefix of a user's own module."""
    return _plain_names(tuple(names), (*WRAPPERS, *prefixes))


@lru_cache(maxsize=32)  # many layouts have the same prefixes
def _plain_names(names: tuple[str, ...], starts: tuple[str, ...]) -> Mapping[str, str]:
    plain = {name: _unwrapped(name, starts) for name in names}
    outer = {
        found.removesuffix(anchor)
        for found in plain.values()
        if found.endswith(ANCHORS)
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
    """Remove the modules that a name has in common with `path`, the prefix of the backbone. A head
    next to the backbone has only some of them."""
    parts = name.split(".")
    common = takewhile(lambda pair: pair[0] == pair[1], zip(parts[:-1], path, strict=False))
    return ".".join(parts[sum(1 for _ in common) :])


@lru_cache(maxsize=1 << 16)
def _unwrapped(name: str, prefixes: tuple[str, ...]) -> str:
    *path, last = name.split(".")
    if not INNER.isdisjoint(path):
        name = ".".join((*(part for part in path if part not in INNER), last))
    while name.startswith(prefixes):
        name = name.removeprefix(next(p for p in prefixes if name.startswith(p)))
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
    """Read the name of an activation. Raises CheckpointError for an unknown one."""
    try:
        return ACTIVATION_NAMES[str(name)]
    except KeyError:
        known = ", ".join(ACTIVATION_NAMES)
        raise CheckpointError(f"unknown activation {name!r}", f"known are {known}") from None


def activation_name(act: Activation) -> str:
    """The name that transformers and timm give an activation."""
    return {"gelu_tanh": "gelu_pytorch_tanh"}.get(act, act)


def with_positions(config: ViTConfig, tensors: Tensors, count: int) -> dict[str, Tensor]:
    """Add rows of zeros to the position embedding, so that each of the first `count` prefix tokens
    has a row, as some layouts expect. The model's results stay the same."""
    pos = tensors["pos_embed"]
    missing = count - config.pos_prefix
    if missing <= 0:
        return dict(tensors)
    zeros = pos.new_zeros(1, missing, pos.shape[2])
    placed = cat([pos[:, : config.pos_prefix], zeros, pos[:, config.pos_prefix :]], dim=1)
    return {**tensors, "pos_embed": placed}


def not_square(config: ViTConfig) -> list[str]:
    """The obstacle for libraries that support only square images, grids and patches, if this has
    others."""
    if config.patch_size[0] != config.patch_size[1]:
        return [f"patches of {by(config.patch_size)}, which are not square"]
    if config.image_size[0] == config.image_size[1] and config.grid[0] == config.grid[1]:
        return []
    return [f"an image of {by(config.image_size)}, which is not square"]


def ffn_width(width: object, ratio: object, *, is_swiglu: bool) -> int:
    """The width of the feed-forward in transformers' classes with `mlp_ratio`: the ratio times
    `hidden_size`; in a SwiGLU two thirds of that, rounded up to a multiple of 8."""
    whole = int(number(width, "hidden_size") * number(ratio, "mlp_ratio"))
    return (int(whole * 2 / 3) + 7) // 8 * 8 if is_swiglu else whole


def mlp_ratio(config: ViTConfig) -> float:
    """The ratio from which transformers' classes with `mlp_ratio` compute the width of the
    feed-forward: the next larger one where a product is rounded to less than the width."""
    ratio = config.hidden_dim / config.embed_dim * (1.5 if config.ffn == "swiglu" else 1)
    is_short = config.ffn == "mlp" and int(config.embed_dim * ratio) < config.hidden_dim
    return math.nextafter(ratio, math.inf) if is_short else ratio


def no_ratio(config: ViTConfig) -> list[str]:
    """Say if no `mlp_ratio` of transformers gives the width of the feed-forward."""
    is_swiglu = config.ffn == "swiglu"
    width = ffn_width(config.embed_dim, mlp_ratio(config), is_swiglu=is_swiglu)
    is_other = width != config.hidden_dim
    return [f"hidden_dim={config.hidden_dim}{' of a SwiGLU' * is_swiglu}"] * is_other


def refuse_oblong(config: ViTConfig) -> ViTConfig:
    """Return a config of a class of transformers that reads the table of any image that is not
    square as that of a square. Raises CheckpointError for such an image."""
    if obstacles := not_square(config):
        raise CheckpointError(
            f"{obstacles[0]}, is not supported: transformers reads its positions as a square's",
            "give the model with a square image_size; --image-size resamples it",
        )
    return config


def image_pair(size: Size) -> int | list[int]:
    """The JSON of a size: one number for a square, as the libraries write it."""
    return size[0] if size[0] == size[1] else list(size)


def read_sizes(
    config: Json, num_heads: int | None, patch: int, act: str, eps: float
) -> dict[str, Any]:
    """Read the sizes that most of transformers' configs have. Keys that are left out get their
    defaults; `patch`, `act` and `eps` are the defaults that differ from class to class."""
    return {
        "image_size": pair(config.get("image_size", 224), "image_size"),
        "patch_size": pair(config.get("patch_size", patch), "patch_size"),
        "in_chans": config.get("num_channels", 3),
        "embed_dim": config.get("hidden_size", 768),
        "depth": config.get("num_hidden_layers", 12),
        "num_heads": num_heads or config.get("num_attention_heads", 12),
        "hidden_dim": config.get("intermediate_size", 3072),
        "act": activation(config.get("hidden_act", act)),
        "norm_eps": config.get("layer_norm_eps", eps),
    }


def pair(value: object, name: str) -> Size:
    """Read an int, [n] or [height, width] of a config as (height, width)."""
    sides = value if isinstance(value, list | tuple) else (value,)
    if len(sides) in (1, 2) and all(isinstance(s, int) and s > 0 for s in sides):
        return sides[0], sides[-1]
    raise CheckpointError(f"{name} is {value!r}: expected a positive number or [height, width]")


def number(value: object, name: str) -> float:
    """Read a number of a config. Raises CheckpointError for text, null, NaN and beyond 1e9."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e9:
        return value
    raise CheckpointError(f"{name} is {value!r}: expected a number")


def numbers(value: object, name: str) -> tuple[int, ...]:
    """Read a config's list of positive integers, one for each stage."""
    listed = value if isinstance(value, list | tuple) else ()
    if 0 < len(listed) <= MAX_STAGES and all(isinstance(n, int) and n > 0 for n in listed):
        return tuple(listed)
    raise CheckpointError(f"{name} is {value!r}: expected a positive number for each stage")


class MissingTensor(CheckpointError):
    """A file lacks a tensor that its layout requires; `name` is vitcli's name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is missing")
        self.name = name


def shape(tensors: Tensors, name: str, dims: int) -> tuple[int, ...]:
    """The shape of a required tensor. Raises MissingTensor if there is none, CheckpointError for
    another number of dimensions or an empty tensor."""
    if name not in tensors:
        raise MissingTensor(name)
    sizes = tuple(tensors[name].shape)
    if len(sizes) != dims or 0 in sizes:
        raise CheckpointError(f"{name} has shape {list(sizes)}: expected {dims} dimensions")
    return sizes


def count_classes(tensors: Tensors) -> int:
    """The number of outputs of the classifier; 0 without a classifier."""
    for name, dims in (("head.weight", 2), ("head.bias", 1)):
        if name in tensors:
            return shape(tensors, name, dims)[0]
    return 0


def count_blocks(tensors: Tensors) -> int:
    """The number of blocks, from the tensor names."""
    numbers = {int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")}
    return 1 + max(numbers, default=-1)


def grid_of(positions: int, like: Size | None) -> Size:
    """The grid with this number of patches: `like` if it has that number, else a square. Raises
    CheckpointError if neither fits."""
    if like is not None and like[0] * like[1] == positions:
        return like
    side = math.isqrt(positions)
    if side * side != positions:
        raise CheckpointError(
            f"a position embedding (pos_embed) of {positions} patches is not square",
            "its image size is not in the file",
        )
    return side, side
