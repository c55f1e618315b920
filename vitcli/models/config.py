"""The sizes and options of a Vision Transformer, checked in sentences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from vitcli.errors import CheckpointError
from vitcli.records import Size

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
Pool = Literal["cls", "mean", "cls+mean", "map"]
PosResize = Literal["bicubic", "bicubic-antialias", "bicubic-offset", "bilinear"]

# Far above any published ViT (22 B parameters: width 6144, depth 48); a config that claims more
# is hostile or damaged, and must be refused before anything is allocated.
_LIMITS = {
    "embed_dim": 16_384,
    "depth": 512,
    "num_heads": 512,
    "hidden_dim": 131_072,
    "in_chans": 64,
    "num_registers": 1024,
}
_MAX_IMAGE_SIDE = 16_384
_MAX_CLASSES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTConfig:
    """Everything that shapes a `VisionTransformer`. Nothing is hard-wired to one published size.

    Prefix tokens come in the order class, distillation, registers. `pos_prefix` says how many of
    them, from the first, have a row of their own in the position embedding.
    """

    image_size: Size
    patch_size: Size
    embed_dim: int
    depth: int
    num_heads: int
    hidden_dim: int
    num_classes: int = 0
    projection: int = 0  # the width of CLIP's space of images and texts
    in_chans: int = 3
    class_token: bool = True
    dist_token: bool = False
    dist_head: bool = False  # logits are the mean of head(class token) and head_dist(dist. token)
    num_registers: int = 0
    pos_prefix: int = 1
    pos_resize: PosResize = "bicubic"
    patch_bias: bool = True
    pre_norm: bool = False  # a norm before the first block, as CLIP has it
    qkv_bias: bool = True
    layer_scale: bool = False
    ffn: Literal["mlp", "swiglu"] = "mlp"
    act: Activation = "gelu"
    pool: Pool = "cls"
    final_norm: Literal["tokens", "pooled"] = "tokens"  # pooled: timm's fc_norm, after pooling
    head_norm: bool = True  # False: the classifier reads the last layer unnormed, as HF's CLIP
    norm_eps: float = 1e-6
    dropout: float = 0.0
    attn_dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        for name in ("embed_dim", "depth", "num_heads", "hidden_dim", "in_chans"):
            _check_count(name, getattr(self, name), 1, _LIMITS[name])
        _check_count("num_registers", self.num_registers, 0, _LIMITS["num_registers"])
        _check_count("projection", self.projection, 0, _LIMITS["embed_dim"])
        _check_count("num_classes", self.num_classes, 0, _MAX_CLASSES)
        for name in ("image_size", "patch_size"):
            for side in getattr(self, name):
                _check_count(name, side, 1, _MAX_IMAGE_SIDE)
        if not isinstance(self.norm_eps, int | float) or not 0 <= self.norm_eps < 1:
            raise CheckpointError(
                f"norm_eps is {self.norm_eps!r}: expected a small positive number"
            )
        if self.embed_dim % self.num_heads:
            raise CheckpointError(
                f"{self.num_heads} heads do not divide the width {self.embed_dim} (embed_dim)"
            )
        if min(self.grid) < 1:
            raise CheckpointError(
                f"image_size {self.image_size} is smaller than one patch {self.patch_size}"
            )
        if not 0 <= self.pos_prefix <= self.num_prefix:
            raise CheckpointError(
                f"the position embedding covers {self.pos_prefix} prefix tokens, "
                f"the model has {self.num_prefix}"
            )
        if "cls" in self.pool and not self.class_token:
            raise CheckpointError(f"pool={self.pool} needs a class token, this model has none")
        if self.dist_head and not self.dist_token:
            raise CheckpointError("a distillation head needs a distillation token")
        if self.projection and self.num_classes:
            raise CheckpointError("a projection and a classifier do not go together")

    @property
    def grid(self) -> Size:
        """Patches (h, w) at `image_size`; a remainder smaller than a patch is not seen."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_prefix(self) -> int:
        """Prefix tokens T: class, distillation and register tokens."""
        return int(self.class_token) + int(self.dist_token) + self.num_registers

    @property
    def pooled_dim(self) -> int:
        """The length of what `pool` gives: 2*D for cls+mean, else D."""
        return self.embed_dim * (2 if self.pool == "cls+mean" else 1)

    def sizes(self) -> dict[str, object]:
        """Every field, and what follows from them, for machines."""
        tokens = self.num_prefix + self.grid[0] * self.grid[1]
        return {**asdict(self), "grid": self.grid, "num_tokens": tokens}

    def describe(self) -> dict[str, str]:
        """The sizes and options in words, for people, as many lines as there are things to say."""
        patches = self.grid[0] * self.grid[1]
        prefix = ["class"] * self.class_token + ["distillation"] * self.dist_token
        prefix += [f"{self.num_registers} registers"] * bool(self.num_registers)
        counted = " + ".join([*prefix, f"{patches} patches"])
        pools = {
            "cls": "the class token",
            "mean": "the mean of the patches",
            "cls+mean": "the class token beside the mean of the patches",
            "map": "attention pooling",
        }
        place = "before" if self.final_norm == "tokens" else "after"
        covered = "patches only" if not self.pos_prefix else f"{self.pos_prefix + patches}"
        odd = {
            "layer scale": self.layer_scale,
            "norm before the first block": self.pre_norm,
            "no q, k, v bias": not self.qkv_bias,
            "no patch bias": not self.patch_bias,
            "head of the distillation token averaged in": self.dist_head,
        }
        said = {
            "image": f"{_by(self.image_size)}, patches of {_by(self.patch_size)}, "
            f"grid {_by(self.grid)}",
            "tokens": f"{self.num_prefix + patches}: {counted}",
            "width": f"{self.embed_dim}",
            "depth": f"{self.depth} blocks",
            "heads": f"{self.num_heads} of {self.embed_dim // self.num_heads}",
            "feed-forward": f"{self.hidden_dim}, {'swiglu' if self.ffn == 'swiglu' else self.act}",
            "pooling": f"{pools[self.pool]}, final norm {place} it",
            "norm": f"LayerNorm, eps {self.norm_eps:g}".replace("e-0", "e-"),
            "positions": f"{covered}, resampled {self.pos_resize} for another grid",
        }
        if any(odd.values()):
            said["also"] = ", ".join(text for text, is_so in odd.items() if is_so)
        return said


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _check_count(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise CheckpointError(
            f"{name} is {value!r}: expected a whole number from {low} to {high:,}"
        )
