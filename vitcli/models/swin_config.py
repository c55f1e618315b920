"""The sizes and options of a Swin, validated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal

from vitcli.errors import CheckpointError, UsageError
from vitcli.models.fields import (
    LIMITS,
    MAX_CLASSES,
    Activation,
    Pool,
    Pooling,
    PosResize,
    check_count,
    check_eps,
    check_flags,
    check_heads,
    check_image,
)
from vitcli.records import Size, by

WindowRule = Literal["hf", "timm", "hf-v2"]
POSITION_WIDTH = 512  # the hidden width of the MLP of a Swin V2's positions, in all models


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
    cosine_head: ClassVar[bool] = False
    pool: ClassVar[Pool] = "mean"
    layer_name: ClassVar[str] = "stage"

    def __post_init__(self) -> None:
        check_flags(self)
        check_count("the number of stages", len(self.depths), 1, LIMITS["stages"])
        for name in ("num_heads", "hidden_dims", "window_sizes"):
            values = list(getattr(self, name))
            if len(values) != len(self.depths):
                raise CheckpointError(
                    f"{name} is {values}, and there are {len(self.depths)} stages"
                )
        check_count("embed_dim", self.embed_dim, 1, LIMITS["embed_dim"])
        check_count("embed_dim of the last stage", self.dims[-1], 1, LIMITS["embed_dim"])
        check_count("in_chans", self.in_chans, 1, LIMITS["in_chans"])
        check_count("num_classes", self.num_classes, 0, MAX_CLASSES)
        for stage, dim in enumerate(self.dims):
            check_count(f"depths[{stage}]", self.depths[stage], 1, LIMITS["depth"])
            check_count(f"num_heads[{stage}]", self.num_heads[stage], 1, LIMITS["num_heads"])
            check_count(f"hidden_dims[{stage}]", self.hidden_dims[stage], 1, LIMITS["hidden_dim"])
            check_heads(self.num_heads[stage], dim)
            for side in self.window_sizes[stage]:
                check_count(f"window_sizes[{stage}]", side, 1, LIMITS["window"])
        check_image(self.image_size, self.patch_size)
        check_eps(self.norm_eps)
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
                check_count("pretrained_windows", side, 0, LIMITS["window"])
        rows = self.window_image[0] // self.patch_size[0]
        if self.window_rule == "hf-v2" and not rows >> (self.depth - 1):
            raise CheckpointError(
                f"an image of {by(self.window_image)} has {rows} rows of patches, "
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

    def resized(self, image_size: Size) -> SwinConfig:
        """The config for images of another size."""
        return replace(self, image_size=image_size)

    def repatched(self, patch_size: Size, image_size: Size) -> SwinConfig:
        """The config for patches and images of other sizes."""
        return replace(self, patch_size=patch_size, image_size=image_size)

    def features_shape(self, layers: Sequence[int], pool: Pooling) -> tuple[int, ...]:
        """The shape of one image's features at `image_size`: (sum of D,) or (N, sum of D).

        Raises UsageError for a token that Swin does not have, and for tokens of several grids.
        """
        if "cls" in pool:
            raise UsageError(
                f"pool {pool} needs a class token, and a Swin has none", "use --pool mean"
            )
        if pool == "map":
            raise UsageError(
                "pool map needs an attention-pooling head, and a Swin has none",
                "use --pool cls, --pool mean, or leave it out",
            )
        dim = sum(self.layer_dim(layer) for layer in layers)
        if pool == "mean":
            return (dim,)
        grids = {self.layer_grid(layer) for layer in layers}
        if len(grids) > 1:
            listed = " and ".join(f"{h}x{w}" for h, w in sorted(grids, reverse=True))
            raise UsageError(
                f"pool {pool}: these layers have grids of {listed} patches",
                "ask for layers of one grid, or use --pool mean",
            )
        [(height, width)] = grids
        return height * width, dim

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
        shifted = [by(shift) if any(shift) else "none" for _, shift in plans]
        per_head = {dim // heads for dim, heads in zip(self.dims, self.num_heads, strict=True)}
        also = {"no q, k, v bias": not self.qkv_bias}
        absolute = ", and absolute ones on the patches" * self.absolute_positions
        is_v2 = self.version == 2
        learned = "by an MLP a block" if is_v2 else "a table a block"
        before = [by(window) for window in self.pretrained_windows if any(window)]
        scaled = f", for windows of {_same(before)} in pre-training" if before else ""
        described = {
            "image": f"{by(self.image_size)}, patches of {by(self.patch_size)}",
            "tokens": f"{_each(map(by, grids))} patches",
            "width": _each(self.dims),
            "depth": f"{_each(self.depths)} blocks in {self.depth} stages",
            "heads": f"{_each(self.num_heads)} of {_each(sorted(per_head))}"
            + ", queries and keys compared by their cosine" * is_v2,
            "windows": f"{_same(by(window) for window, _ in plans)}; "
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


def merged(grid: Size) -> Size:
    """The grid after a merge: each side halved, rounded up."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


def _each(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _same(values: Iterable[str]) -> str:
    """One value if all are the same, else all."""
    listed = list(values)
    return listed[0] if len(set(listed)) == 1 else _each(listed)
