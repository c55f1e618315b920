"""The sizes and options of a Vision Transformer, validated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, TypeAlias

from vitcli.errors import CheckpointError, UsageError
from vitcli.models.block_config import BlockConfig
from vitcli.models.fields import (
    LIMITS,
    MAX_CLASSES,
    FieldError,
    Pool,
    Pooling,
    PosResize,
    check_count,
    check_image,
)
from vitcli.models.swin_config import SwinConfig
from vitcli.records import Size, by

Triple = tuple[float, float, float]

RelResize = Literal["geometric", "bilinear"]
_NORMS = {"layer": "LayerNorm", "rms": "RMSNorm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTConfig(BlockConfig):
    """Everything that shapes a `VisionTransformer`.

    Prefix tokens come in the order class, distillation, registers. The first `pos_prefix` of them
    have a row of their own in the position embedding. Positions are a learned table
    (`pos_embed`), rotations (`rope`), biases of the attention (`rel_bias`), or several of these.
    """

    image_size: Size
    patch_size: Size
    num_classes: int = 0
    projection: int = 0  # the width of CLIP's joint space of images and texts
    projection_bias: bool = False
    cosine_head: bool = False  # the head compares the projection with a vector a class
    in_chans: int = 3
    class_token: bool = True
    num_class_tokens: int = 1  # with several, cls is their mean, as in Pixio
    summary: tuple[int, ...] = ()  # or cls joins these of them, counted from 0, as in RADIO
    dist_token: bool = False
    dist_head: bool = False  # logits are the mean of head(class token) and head_dist(dist. token)
    num_registers: int = 0
    pos_embed: bool = True
    pos_prefix: int = 1
    pos_resize: PosResize = "bicubic"
    pos_grid: Size | None = None  # of the table, where it is not that of the image, as in RADIO
    rel_bias: Literal["none", "block", "shared"] = "none"  # BEiT's: a table a block, or one for all
    rel_resize: RelResize = "geometric"
    fixed_grid: bool = False  # positions are defined for `grid` alone
    any_grid: bool = False  # each image has a grid of its own shape, as in SigLIP 2's NaFlex
    patch_bias: bool = True
    patch_norm: bool = False  # a norm of the embedded patches, as in AIMv2
    pre_norm: bool = False  # a norm before the first block, as in CLIP
    pixel_norm: tuple[Triple, Triple] | None = None  # mean and std that the source's model applies
    pool: Pool = "cls"
    pool_heads: int = 0  # of the attention pooling; 0: as many as in the blocks
    pool_hidden_dim: int = 0  # of the attention pooling; 0: as in the blocks
    pool_prefix: bool = False  # the attention pooling reads prefix tokens, too
    final_norm: Literal["tokens", "pooled", "none"] = "tokens"  # pooled: timm's fc_norm
    head_blocks: int = 1  # the head reads the class tokens of this many last blocks, concatenated
    head_norm: bool = True  # False: the classifier reads the last layer unnormed, as in HF's CLIP
    drop_path: float = 0.0
    merge_tokens: int = 0  # pairs of similar patch tokens that each block merges

    layer_name: ClassVar[str] = "block"

    def __post_init__(self) -> None:
        self.check_block()
        check_count("in_chans", self.in_chans, 1, LIMITS["in_chans"])
        check_count("num_registers", self.num_registers, 0, LIMITS["num_registers"])
        check_count("num_class_tokens", self.num_class_tokens, 1, LIMITS["num_registers"])
        check_count("projection", self.projection, 0, LIMITS["embed_dim"])
        check_count("num_classes", self.num_classes, 0, MAX_CLASSES)
        check_image(self.image_size, self.patch_size)
        if self.any_grid and self.fixed_grid:
            raise CheckpointError("positions for one grid do not go with images of any shape")
        self._check_positions()
        self._check_pool()
        if not 0 <= self.pos_prefix <= self.num_prefix:
            raise CheckpointError(
                f"the position embedding covers {self.pos_prefix} prefix tokens, "
                f"the model has {self.num_prefix}"
            )
        check_count("head_blocks", self.head_blocks, 1, self.depth)
        check_count("merge_tokens", self.merge_tokens, 0, self.grid[0] * self.grid[1] // 2)
        if self.head_blocks > 1 and "cls" not in self.pool:
            raise CheckpointError(f"a head on {self.head_blocks} blocks needs their class tokens")
        if self.dist_head and not self.dist_token:
            raise CheckpointError("a distillation head needs a distillation token")
        if self.projection_bias and not self.projection:
            raise CheckpointError("a bias of the projection needs a projection")
        if self.projection and self.num_classes and not self.cosine_head:
            raise CheckpointError("a projection and a classifier do not go together")
        if self.cosine_head and (not self.num_classes or self.dist_head or self.head_blocks > 1):
            raise CheckpointError("a head of cosines needs classes, and one embedding of an image")

    def _check_positions(self) -> None:
        width = self.embed_dim // self.num_heads
        if self.pos_prefix and not self.pos_embed:
            raise CheckpointError("prefix tokens need a table for their positions")
        if self.pos_grid and (not self.pos_embed or self.pos_prefix):
            raise CheckpointError("a grid of positions needs a table of patches alone")
        for side in self.pos_grid or ():
            check_count("pos_grid", side, 1, LIMITS["pos_grid"])
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
        if self.summary and not self.class_token:
            raise CheckpointError("a summary needs class tokens, this model has none")
        for number in self.summary:
            check_count("summary", number, 0, self.num_class_tokens - 1)
        check_count("pool_heads", self.pool_heads, 0, LIMITS["num_heads"])
        check_count("pool_hidden_dim", self.pool_hidden_dim, 0, LIMITS["hidden_dim"])
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
    def table_grid(self) -> Size:
        """The grid (h, w) of the table of positions."""
        return self.pos_grid or self.grid

    @property
    def pooled_tokens(self) -> tuple[int, ...]:
        """The class tokens that cls averages, or joins for a summary, counted from 0."""
        return self.summary or tuple(range(self.num_class_tokens))

    @property
    def class_dim(self) -> int:
        """The width of cls: D, or D for each token of a summary."""
        return self.embed_dim * max(1, len(self.summary))

    @property
    def pooled_dim(self) -> int:
        """The width of the head's input: that of cls for each of its blocks, and D for mean."""
        if "cls" not in self.pool:
            return self.embed_dim
        return self.class_dim * self.head_blocks + self.embed_dim * (self.pool == "cls+mean")

    @property
    def joint_dim(self) -> int:
        """The width of the embedding that the head reads, after the projection if there is one."""
        return self.projection or self.pooled_dim

    @property
    def widest_layer(self) -> int:
        """The number of values that the widest layer has for one image."""
        return (self.num_prefix + self.grid[0] * self.grid[1]) * self.hidden_dim

    def resized(self, image_size: Size) -> ViTConfig:
        """The config for images of another size. Raises UsageError for a grid for which this model
        has no positions."""
        new = replace(self, image_size=image_size)
        self.check_grid(new.grid)
        return new

    def check_grid(self, grid: Size) -> None:
        """Raise UsageError for a grid for which this model has no positions."""
        if self.fixed_grid and grid != self.grid:
            height, width = (n * p for n, p in zip(self.grid, self.patch_size, strict=True))
            raise UsageError(
                f"this model has positions for images of {height}x{width} alone: the libraries "
                "disagree about other sizes",
                f"leave out --image-size, or give {height}x{width}",
            )

    def repatched(self, patch_size: Size, image_size: Size) -> ViTConfig:
        """The config for patches and images of other sizes. Raises CheckpointError for an image
        smaller than a patch, UsageError for a grid for which this model has no positions."""
        new = replace(self, patch_size=patch_size, image_size=image_size)
        if self.fixed_grid and new.grid != self.grid:
            fitting = self.grid[0] * patch_size[0], self.grid[1] * patch_size[1]
            raise UsageError(
                f"this model has positions for a grid of {by(self.grid)} patches alone",
                f"with --patch-size {by(patch_size)}, use --image-size {by(fitting)}",
            )
        return new

    def layer_grid(self, layer: int) -> Size:
        """Patches (h, w) of a hidden state: the same for all."""
        return self.grid

    def layer_dim(self, layer: int) -> int:
        """The width of a hidden state: the same for all."""
        return self.embed_dim

    def features_shape(self, layers: Sequence[int], pool: Pooling) -> tuple[int, ...]:
        """The shape of one image's features at `image_size`: (n*D,) or (N', n*D).

        Raises UsageError if the model does not have the token that `pool` needs.
        """
        if "cls" in pool and not self.class_token:
            raise UsageError(f"pool {pool} needs a class token, and this model has none")
        if pool == "map" and self.pool != "map":
            raise UsageError(
                "pool map needs an attention-pooling head, and this model has none",
                "use --pool cls, --pool mean, or leave it out",
            )
        dim, layered = self.embed_dim * len(layers), len(layers)
        patches = self.grid[0] * self.grid[1]
        match pool:
            case "patches":
                return patches, dim
            case "tokens":
                return self.num_prefix + patches, dim
            case "cls":
                return (self.class_dim * layered,)
            case "cls+mean":
                return (self.class_dim * layered + dim,)
            case _:
                return (dim,)

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
        cls = "the mean of the class tokens" if several else "the class token"
        if self.summary:
            joined = ", ".join(str(number + 1) for number in self.summary)
            cls = f"the summary: class token{'s' * (len(self.summary) > 1)} {joined}, joined"
        pools = {
            "cls": cls,
            "mean": "the mean of the patches",
            "cls+mean": f"{cls if self.summary else 'the class token'} and the mean of the patches",
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
            "image": f"{by(self.image_size)}, patches of {by(self.patch_size)}, "
            f"grid {by(self.grid)}",
            "tokens": f"{self.num_prefix + patches}: {counted}",
            "width": f"{self.embed_dim}",
            "depth": f"{self.depth} blocks",
            "heads": f"{self.num_heads} of {self.embed_dim // self.num_heads}",
            "feed-forward": f"{self.hidden_dim}, {self._activation()}",
            "pooling": f"{pools[self.pool]}, {norm}",
            "norm": f"{_NORMS[self.norm]}, eps {self.norm_eps:g}".replace("e-0", "e-"),
            "positions": "; ".join(self._positions()) or "none",
        }
        if self.any_grid:
            described |= {
                "image": f"of any shape, in patches of {by(self.patch_size)}",
                "tokens": "patches, as many as the image's grid has",
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
            if self.pos_grid:
                covered += f", a table of {by(self.pos_grid)}"
            if self.any_grid:
                covered = f"a grid of {by(self.grid)}"
            yield covered + again
        if self.rope:
            yield self.rope.describe()
        if self.rel_bias != "none":
            tables = "a table a block" if self.rel_bias == "block" else "one table"
            again = "" if self.fixed_grid else f", resampled {self.rel_resize} for another grid"
            yield f"relative, {tables}{again}"
        if self.fixed_grid:
            yield f"for a grid of {by(self.grid)} alone"


Config: TypeAlias = ViTConfig | SwinConfig
