"""The sizes and options of a Vision Transformer and of a Swin, validated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Literal, TypeAlias

from vitcli.errors import CheckpointError
from vitcli.records import Size
from vitcli.records import by as _by

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
Pool = Literal["cls", "mean", "cls+mean", "map"]
PosResize = Literal[
    "bicubic", "bicubic-antialias", "bicubic-offset", "bilinear", "bilinear-antialias"
]
WindowRule = Literal["hf", "timm", "hf-v2"]
RelResize = Literal["geometric", "bilinear"]

# Far beyond the largest published ViT (22 B parameters: width 6144, depth 48). A config that claims
# more is hostile or damaged, and is refused before anything is allocated.
_LIMITS = {
    "embed_dim": 16_384,
    "depth": 512,
    "num_heads": 512,
    "hidden_dim": 131_072,
    "in_chans": 64,
    "num_registers": 1024,
    "stages": 8,
    "window": 512,
}
_MAX_IMAGE_SIDE = 16_384
POSITION_WIDTH = 512  # the hidden width of the MLP of a Swin V2's positions, in all models
_NORMS = {"layer": "LayerNorm", "rms": "RMSNorm"}
_MAX_CLASSES = 1_000_000


class FieldError(CheckpointError):
    """A field of a config has an invalid value; `what` is the message without the field's name."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(f"{field} {what}")
        self.field = field
        self.what = what


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary positions: each block rotates the queries and keys of patches, by angles that depend
    on row and column (RoFormer, arXiv 2104.09864). Prefix tokens are not rotated.

    A head of width d has d/4 frequencies, `theta ** (-4i / d)`, or the inverse of `periods`, and
    two axes. An angle is a frequency times a coordinate. The coordinates are:

    - centred: the patches' centres, from -1 to 1 on each side, times 2 pi (DINOv3).
    - index: the number of the row or column plus `offset`, and scaled to a grid of `reference`
      patches, if one is given (EVA-02, Perception Encoder).

    An angle rotates two channels: i and i + d/2 with `halves`, else 2i and 2i + 1. With `mixed`,
    each block and head has d/2 learned frequencies for rows and as many for columns, and an angle
    is the sum of both products (RoPE-ViT, arXiv 2403.13298).
    """

    theta: float = 100.0
    coordinates: Literal["centred", "index"] = "centred"
    offset: int = 0
    reference: Size | None = None
    columns_first: bool = False  # the first half of the angles is the columns'
    halves: bool = True
    mixed: bool = False
    periods: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.theta, *self.periods)
        if not all(isinstance(n, int | float) and 0 < n <= 1e9 for n in numbers):
            raise CheckpointError("the rotary positions need positive periods")

    @property
    def rounding(self) -> float:
        """The largest relative difference between `periods` and the periods of `theta`."""
        count = len(self.periods)
        powers = (self.theta ** (i / count) for i in range(count))
        pairs = zip(self.periods, powers, strict=True)
        return max((abs(period / power - 1) for period, power in pairs), default=0.0)

    def describe(self) -> str:
        """The rotary positions in words."""
        if self.mixed:
            return "rotary, frequencies learned in each block and head"
        scaled = f", scaled to {_by(self.reference)}" if self.reference else ""
        places = {"centred": "centres from -1 to 1", "index": f"indices from {self.offset}{scaled}"}
        periods = f"theta {self.theta:g}"
        if self.periods:
            periods = f"periods from {self.periods[0]:g} to {self.periods[-1]:g}"
        return f"rotary, {places[self.coordinates]}, {periods}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTConfig:
    """Everything that shapes a `VisionTransformer`.

    Prefix tokens come in the order class, distillation, registers. The first `pos_prefix` of them
    have a row of their own in the position embedding. Positions are a learned table
    (`pos_embed`), rotations (`rope`), biases of the attention (`rel_bias`), or several of these.
    """

    image_size: Size
    patch_size: Size
    embed_dim: int
    depth: int
    num_heads: int
    hidden_dim: int
    num_classes: int = 0
    projection: int = 0  # the width of CLIP's joint space of images and texts
    projection_bias: bool = False
    in_chans: int = 3
    class_token: bool = True
    num_class_tokens: int = 1  # with several, cls is their mean, as in Pixio
    dist_token: bool = False
    dist_head: bool = False  # logits are the mean of head(class token) and head_dist(dist. token)
    num_registers: int = 0
    pos_embed: bool = True
    pos_prefix: int = 1
    pos_resize: PosResize = "bicubic"
    rope: Rope | None = None
    rel_bias: Literal["none", "block", "shared"] = "none"  # BEiT's: a table a block, or one for all
    rel_resize: RelResize = "geometric"
    fixed_grid: bool = False  # positions are defined for `grid` alone
    patch_bias: bool = True
    patch_norm: bool = False  # a norm of the embedded patches, as in AIMv2
    pre_norm: bool = False  # a norm before the first block, as in CLIP
    norm: Literal["layer", "rms"] = "layer"
    qkv_bias: bool = True
    qv_bias: bool = False  # queries and values have a bias, keys have none
    attn_norm: bool = False  # a norm of the attended values, before the output projection
    proj_bias: bool = True
    layer_scale: bool = False
    ffn: Literal["mlp", "swiglu"] = "mlp"
    gate_act: Activation = "silu"  # of the gate in a SwiGLU
    ffn_bias: bool = True
    ffn_norm: bool = False  # a norm before the feed-forward's last product
    act: Activation = "gelu"
    pool: Pool = "cls"
    pool_heads: int = 0  # of the attention pooling; 0: as many as in the blocks
    pool_hidden_dim: int = 0  # of the attention pooling; 0: as in the blocks
    pool_prefix: bool = False  # the attention pooling reads prefix tokens, too
    final_norm: Literal["tokens", "pooled", "none"] = "tokens"  # pooled: timm's fc_norm
    head_blocks: int = 1  # the head reads the class tokens of this many last blocks, concatenated
    head_norm: bool = True  # False: the classifier reads the last layer unnormed, as in HF's CLIP
    norm_eps: float = 1e-6
    dropout: float = 0.0
    attn_dropout: float = 0.0
    drop_path: float = 0.0

    layer_name: ClassVar[str] = "block"

    def __post_init__(self) -> None:
        _check_flags(self)
        for name in ("embed_dim", "depth", "num_heads", "hidden_dim", "in_chans"):
            _check_count(name, getattr(self, name), 1, _LIMITS[name])
        _check_count("num_registers", self.num_registers, 0, _LIMITS["num_registers"])
        _check_count("num_class_tokens", self.num_class_tokens, 1, _LIMITS["num_registers"])
        _check_count("projection", self.projection, 0, _LIMITS["embed_dim"])
        _check_count("num_classes", self.num_classes, 0, _MAX_CLASSES)
        _check_image(self.image_size, self.patch_size)
        _check_eps(self.norm_eps)
        _check_heads(self.num_heads, self.embed_dim)
        self._check_positions()
        self._check_pool()
        if not 0 <= self.pos_prefix <= self.num_prefix:
            raise CheckpointError(
                f"the position embedding covers {self.pos_prefix} prefix tokens, "
                f"the model has {self.num_prefix}"
            )
        if self.qkv_bias and self.qv_bias:
            raise CheckpointError("q and v have a bias of their own, and one with k, too")
        _check_count("head_blocks", self.head_blocks, 1, self.depth)
        if self.head_blocks > 1 and "cls" not in self.pool:
            raise CheckpointError(f"a head on {self.head_blocks} blocks needs their class tokens")
        if self.dist_head and not self.dist_token:
            raise CheckpointError("a distillation head needs a distillation token")
        if self.projection_bias and not self.projection:
            raise CheckpointError("a bias of the projection needs a projection")
        if self.projection and self.num_classes:
            raise CheckpointError("a projection and a classifier do not go together")

    def _check_positions(self) -> None:
        width = self.embed_dim // self.num_heads
        if self.pos_prefix and not self.pos_embed:
            raise CheckpointError("prefix tokens need a table for their positions")
        if self.rope and width % 4:
            raise CheckpointError(
                f"rotary positions need heads of a width that 4 divides, this model's have {width}"
            )
        if self.rope and len(self.rope.periods) not in (0, width // 4):
            raise CheckpointError(
                f"heads of width {width} need {width // 4} rotary periods, "
                f"this model has {len(self.rope.periods)}"
            )
        if self.rel_bias != "none" and not (self.class_token and self.num_prefix == 1):
            raise CheckpointError("a table of relative positions needs a class token and no others")

    def _check_pool(self) -> None:
        if "cls" in self.pool and not self.class_token:
            raise CheckpointError(f"pool={self.pool} needs a class token, this model has none")
        _check_count("pool_heads", self.pool_heads, 0, _LIMITS["num_heads"])
        _check_count("pool_hidden_dim", self.pool_hidden_dim, 0, _LIMITS["hidden_dim"])
        if self.pool_heads and self.embed_dim % self.pool_heads:
            raise FieldError(
                "pool_heads",
                f"is {self.pool_heads}, which does not divide the width {self.embed_dim}",
            )

    @property
    def grid(self) -> Size:
        """Patches (h, w) at `image_size`; a remainder smaller than a patch is ignored."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_prefix(self) -> int:
        """Prefix tokens T: class, distillation and register tokens."""
        classes = self.num_class_tokens if self.class_token else 0
        return classes + int(self.dist_token) + self.num_registers

    @property
    def pooled_dim(self) -> int:
        """The width of the head's input: D for each of its blocks, and D more for cls+mean."""
        return self.embed_dim * (self.head_blocks + (self.pool == "cls+mean"))

    @property
    def widest_layer(self) -> int:
        """The number of values that the widest layer has for one image."""
        return (self.num_prefix + self.grid[0] * self.grid[1]) * self.hidden_dim

    def layer_grid(self, layer: int) -> Size:
        """Patches (h, w) of a hidden state: the same for all."""
        return self.grid

    def layer_dim(self, layer: int) -> int:
        """The width of a hidden state: the same for all."""
        return self.embed_dim

    def sizes(self) -> dict[str, object]:
        """Every field, and the sizes that follow from them, for JSON."""
        tokens = self.num_prefix + self.grid[0] * self.grid[1]
        return {**asdict(self), "grid": self.grid, "num_tokens": tokens}

    def describe(self) -> dict[str, str]:
        """The sizes and options in words, one entry for each subject."""
        patches = self.grid[0] * self.grid[1]
        several = f"{self.num_class_tokens} " if self.num_class_tokens > 1 else ""
        prefix = [f"{several}class"] * self.class_token + ["distillation"] * self.dist_token
        prefix += [f"{self.num_registers} registers"] * bool(self.num_registers)
        counted = " + ".join([*prefix, f"{patches} patches"])
        pools = {
            "cls": "the mean of the class tokens" if several else "the class token",
            "mean": "the mean of the patches",
            "cls+mean": "the class token and the mean of the patches",
            "map": "attention pooling",
        }
        if self.pool_heads:
            pools["map"] += f" of {self.pool_heads} heads"
        norms = {"tokens": "final norm before it", "pooled": "final norm after it"}
        norm = norms.get(self.final_norm, "no final norm")
        odd = {
            "layer scale": self.layer_scale,
            "norm of the embedded patches": self.patch_norm,
            "norm before the first block": self.pre_norm,
            "norm inside attention": self.attn_norm,
            "norm inside the feed-forward": self.ffn_norm,
            "no k bias": self.qv_bias,
            "no q, k, v bias": not self.qkv_bias and not self.qv_bias,
            "no output bias": not self.proj_bias,
            "no feed-forward bias": not self.ffn_bias,
            "no patch bias": not self.patch_bias,
            "head of the distillation token averaged in": self.dist_head,
        }
        described = {
            "image": f"{_by(self.image_size)}, patches of {_by(self.patch_size)}, "
            f"grid {_by(self.grid)}",
            "tokens": f"{self.num_prefix + patches}: {counted}",
            "width": f"{self.embed_dim}",
            "depth": f"{self.depth} blocks",
            "heads": f"{self.num_heads} of {self.embed_dim // self.num_heads}",
            "feed-forward": f"{self.hidden_dim}, {self._activation()}",
            "pooling": f"{pools[self.pool]}, {norm}",
            "norm": f"{_NORMS[self.norm]}, eps {self.norm_eps:g}".replace("e-0", "e-"),
            "positions": "; ".join(self._positions()) or "none",
        }
        if self.head_blocks > 1:
            described["head"] = f"reads the class tokens of the last {self.head_blocks} blocks"
        if any(odd.values()):
            described["also"] = ", ".join(text for text, is_so in odd.items() if is_so)
        return described

    def _activation(self) -> str:
        if self.ffn == "mlp":
            return self.act
        return "swiglu" if self.gate_act == "silu" else f"gated by {self.gate_act}"

    def _positions(self) -> Iterator[str]:
        """The kinds of positions in words."""
        patches = self.grid[0] * self.grid[1]
        covered = "patches only" if not self.pos_prefix else f"{self.pos_prefix + patches}"
        if self.pos_embed:
            again = "" if self.fixed_grid else f", resampled {self.pos_resize} for another grid"
            yield covered + again
        if self.rope:
            yield self.rope.describe()
        if self.rel_bias != "none":
            tables = "a table a block" if self.rel_bias == "block" else "one table"
            again = "" if self.fixed_grid else f", resampled {self.rel_resize} for another grid"
            yield f"relative, {tables}{again}"
        if self.fixed_grid:
            yield f"for a grid of {_by(self.grid)} alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwinConfig:
    """Everything that shapes a `SwinTransformer`. The tuples have one entry for each stage.

    Each stage but the last ends in a merge: four neighbouring patches become one of twice the
    width. `window_rule` is the library whose rule applies where the windows do not fit the grid:

    - hf (and Microsoft): the shorter side of the grid decides. If it is not longer than the window,
      the window shrinks to it, and nothing is shifted. Tokens are padded, then shifted. An image is
      padded to whole patches.
    - timm: each side shrinks on its own, unless `always_partition`, and the biases are made for the
      smaller window. Tokens are shifted, then padded. The rest of an image beyond whole patches is
      ignored.
    - hf-v2 (transformers' Swin V2): the height of the grid decides, of an image of `window_image`,
      whatever the size of the image. Else as hf.

    If the grid is a multiple of the window on both sides, all rules give the same windows.

    Version 2 (arXiv 2111.09883) compares queries and keys by their cosine, computes the biases of
    relative positions by an MLP from distances, which are relative to the window of pre-training
    (`pretrained_windows`; (0, 0) means the window itself), has no bias for keys, and norms the
    result of each sublayer and merge instead of the input.
    """

    image_size: Size
    patch_size: Size
    embed_dim: int  # of the first stage
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    hidden_dims: tuple[int, ...]
    window_sizes: tuple[Size, ...]
    num_classes: int = 0
    in_chans: int = 3
    qkv_bias: bool = True
    absolute_positions: bool = False
    pos_resize: PosResize = "bicubic"
    window_rule: WindowRule = "hf"
    always_partition: bool = False
    window_image: Size = (0, 0)
    version: Literal[1, 2] = 1
    pretrained_windows: tuple[Size, ...] = ()
    act: Activation = "gelu"
    norm_eps: float = 1e-5  # of the blocks and the final norm; other norms always have 1e-5
    dropout: float = 0.0
    attn_dropout: float = 0.0
    drop_path: float = 0.0

    patch_bias: ClassVar[bool] = True
    pool: ClassVar[Pool] = "mean"
    layer_name: ClassVar[str] = "stage"

    def __post_init__(self) -> None:
        _check_flags(self)
        _check_count("the number of stages", len(self.depths), 1, _LIMITS["stages"])
        for name in ("num_heads", "hidden_dims", "window_sizes"):
            values = list(getattr(self, name))
            if len(values) != len(self.depths):
                raise CheckpointError(
                    f"{name} is {values}, and there are {len(self.depths)} stages"
                )
        _check_count("embed_dim", self.embed_dim, 1, _LIMITS["embed_dim"])
        _check_count("embed_dim of the last stage", self.dims[-1], 1, _LIMITS["embed_dim"])
        _check_count("in_chans", self.in_chans, 1, _LIMITS["in_chans"])
        _check_count("num_classes", self.num_classes, 0, _MAX_CLASSES)
        for stage, dim in enumerate(self.dims):
            _check_count(f"depths[{stage}]", self.depths[stage], 1, _LIMITS["depth"])
            _check_count(f"num_heads[{stage}]", self.num_heads[stage], 1, _LIMITS["num_heads"])
            _check_count(f"hidden_dims[{stage}]", self.hidden_dims[stage], 1, _LIMITS["hidden_dim"])
            _check_heads(self.num_heads[stage], dim)
            for side in self.window_sizes[stage]:
                _check_count(f"window_sizes[{stage}]", side, 1, _LIMITS["window"])
        _check_image(self.image_size, self.patch_size)
        _check_eps(self.norm_eps)
        self._check_version()

    def _check_version(self) -> None:
        count = len(self.pretrained_windows)
        if count not in (0, self.depth) or (count and self.version == 1):
            raise CheckpointError(
                f"pretrained_windows has {count} windows, a Swin V{self.version} of {self.depth} "
                f"stages needs {self.depth if self.version == 2 else 0}"
            )
        for window in self.pretrained_windows:
            for side in window:
                _check_count("pretrained_windows", side, 0, _LIMITS["window"])
        rows = self.window_image[0] // self.patch_size[0]
        if self.window_rule == "hf-v2" and not rows >> (self.depth - 1):
            raise CheckpointError(
                f"an image of {_by(self.window_image)} has {rows} rows of patches, "
                f"too few to be halved for {self.depth} stages"
            )

    @property
    def depth(self) -> int:
        """The number of stages, and of hidden states after the embedding."""
        return len(self.depths)

    @property
    def dims(self) -> tuple[int, ...]:
        """The width of each stage."""
        return tuple(self.embed_dim << stage for stage in range(len(self.depths)))

    @property
    def grid(self) -> Size:
        """Patches (h, w) of the first stage at `image_size`."""
        return self.grid_of(self.image_size)

    @property
    def widest_layer(self) -> int:
        """The number of values that the widest layer has for one image."""
        return self.grid[0] * self.grid[1] * self.hidden_dims[0]

    def grid_of(self, image_size: Size) -> Size:
        """Patches (h, w) of an image."""
        (height, width), (patch_height, patch_width) = image_size, self.patch_size
        if self.window_rule == "timm":
            return height // patch_height, width // patch_width
        return -(-height // patch_height), -(-width // patch_width)

    @property
    def tables(self) -> tuple[Size, ...]:
        """The window (h, w) of each stage at `image_size`; that of its tables in version 1."""
        if self.window_rule == "hf":
            return self.window_sizes
        return tuple(self.windows(stage, self.layer_grid(stage))[0] for stage in range(self.depth))

    def layer_grid(self, layer: int) -> Size:
        """Patches (h, w) of a hidden state: the grid of the next stage."""
        height, width = self.grid
        for _ in range(min(layer, self.depth - 1)):
            height, width = merged((height, width))
        return height, width

    def layer_dim(self, layer: int) -> int:
        """The width of a hidden state: the next stage's, or for the last state, its own stage's."""
        return self.dims[min(layer, self.depth - 1)]

    def windows(self, stage: int, grid: Size) -> tuple[Size, Size]:
        """The window (h, w) of a stage on this grid, and its shift in every second block."""
        window = self.window_sizes[stage]
        if self.always_partition:
            return window, (window[0] // 2, window[1] // 2)
        if self.window_rule == "timm":
            height, width = (min(g, w) for g, w in zip(grid, window, strict=True))
            down, right = (w // 2 if g > w else 0 for g, w in zip(grid, window, strict=True))
            return (height, width), (down, right)
        if self.window_rule == "hf-v2":
            rows = self.window_image[0] // self.patch_size[0] >> stage
            side, step = min(rows, window[0]), window[0] // 2 if rows > window[0] else 0
            return (side, side), (step, step)
        if min(grid) <= min(window):
            return (min(grid), min(grid)), (0, 0)
        return window, (window[0] // 2, window[1] // 2)

    @property
    def far(self) -> float:
        """The number that is added to the score of two tokens that are neighbours through the shift
        alone. transformers' Swin V2 adds -100 twice."""
        return -200.0 if self.window_rule == "hf-v2" else -100.0

    def sizes(self) -> dict[str, object]:
        """Every field, and the sizes that follow from them, for machines."""
        last = self.layer_grid(self.depth)
        return {
            **asdict(self),
            "dims": self.dims,
            "pool": self.pool,
            "grid": self.grid,
            "last_grid": last,
            "num_tokens": last[0] * last[1],
        }

    def describe(self) -> dict[str, str]:
        """The sizes and options in words, for people; one entry for each subject."""
        stages = range(self.depth)
        grids = [self.layer_grid(stage) for stage in stages]
        plans = [self.windows(stage, grid) for stage, grid in zip(stages, grids, strict=True)]
        shifted = [_by(shift) if any(shift) else "none" for _, shift in plans]
        per_head = {dim // heads for dim, heads in zip(self.dims, self.num_heads, strict=True)}
        also = {"no q, k, v bias": not self.qkv_bias}
        absolute = ", and absolute ones on the patches" * self.absolute_positions
        is_v2 = self.version == 2
        learned = "by an MLP a block" if is_v2 else "a table a block"
        before = [_by(window) for window in self.pretrained_windows if any(window)]
        scaled = f", for windows of {_same(before)} in pre-training" if before else ""
        described = {
            "image": f"{_by(self.image_size)}, patches of {_by(self.patch_size)}",
            "tokens": f"{_each(map(_by, grids))} patches",
            "width": _each(self.dims),
            "depth": f"{_each(self.depths)} blocks in {self.depth} stages",
            "heads": f"{_each(self.num_heads)} of {_each(sorted(per_head))}"
            + ", queries and keys compared by their cosine" * is_v2,
            "windows": f"{_same(_by(window) for window, _ in plans)}; "
            f"every second block shifts them: {_same(shifted)}",
            "feed-forward": f"{_each(self.hidden_dims)}, {self.act}",
            "pooling": "the mean of the patches, final norm before it",
            "norm": f"LayerNorm, eps {self.norm_eps:g}".replace("e-0", "e-")
            + ", after each sublayer" * is_v2,
            "positions": f"relative within a window, {learned}{scaled}{absolute}",
        }
        if any(also.values()):
            described["also"] = ", ".join(text for text, is_so in also.items() if is_so)
        return described


Config: TypeAlias = ViTConfig | SwinConfig


def merged(grid: Size) -> Size:
    """The grid after a merge: each side halved, rounded up."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


def _each(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _same(values: Iterable[str]) -> str:
    """One value if all are the same, else all."""
    listed = list(values)
    return listed[0] if len(set(listed)) == 1 else _each(listed)


def _check_count(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise FieldError(name, f"is {value!r}: expected a whole number from {low} to {high:,}")


def _check_image(image_size: Size, patch_size: Size) -> None:
    for name, size in (("image_size", image_size), ("patch_size", patch_size)):
        for side in size:
            _check_count(name, side, 1, _MAX_IMAGE_SIDE)
    if image_size[0] < patch_size[0] or image_size[1] < patch_size[1]:
        raise CheckpointError(f"image_size {image_size} is smaller than one patch {patch_size}")


def _check_flags(config: ViTConfig | SwinConfig) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type == "bool" and not isinstance(value, bool):
            raise FieldError(field.name, f"is {str(value)[:40]!r}, not true or false")


def _check_eps(eps: object) -> None:
    if not isinstance(eps, int | float) or not 0 <= eps < 1:
        raise FieldError("norm_eps", f"is {eps!r}: expected a small positive number")


def _check_heads(heads: int, dim: int) -> None:
    if dim % heads:
        raise FieldError("num_heads", f"is {heads}, which does not divide the width {dim}")
