"""The `.pth` files of DINOv3 from their own repository, `facebookresearch/dinov3`, and those of
models that use its network: EUPE and LingBot-Vision.

The names are those of `dinov3/models/vision_transformer.py`. The rotary periods are in the file
(`rope_embed.periods`), rounded to bf16 in the published ones. transformers and timm compute them
from theta instead, so that their results differ from the repository's by that rounding; vitcli uses
the file's. In `qkv.bias`, the part of the keys is multiplied by the zeros of `bias_mask`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from vitcli.checkpoints.keymap import Rule, drop, fuse, rename, split
from vitcli.checkpoints.layouts import timm
from vitcli.checkpoints.layouts.layout import BF16, Json, Layout, Tensors, count_blocks, shape
from vitcli.checkpoints.preprocess.published import DINOV3, DINOV3_OWN
from vitcli.errors import CheckpointError
from vitcli.models.block_config import Rope
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

B = timm.B
PERIODS = "rope.periods"
SIGNS = ("rope_embed.periods", "storage_tokens")
FP32 = 2**-22  # the largest relative error of a power computed in fp32

RULES = (
    rename("cls_token", "cls_token"),
    rename("storage_tokens", "register_tokens"),
    rename("rope_embed.periods", PERIODS),
    *(
        rename(name + ".{p}", name + ".{p}")
        for name in ("patch_embed.proj", B + "norm1", B + "attn.proj", B + "norm2", "norm")
    ),
    rename(B + "attn.qkv.weight", B + "attn.qkv.weight"),
    *(rename(B + f"ls{n}.gamma", B + f"ls{n}.gamma") for n in (1, 2)),
    drop("mask_token", "only pre-training uses it"),
    drop("local_cls_norm.{p}", "only training uses it, for the tokens of local crops"),
    drop("projectors.{rest}", "only EUPE's distillation uses it"),
    drop("student.{rest}", "the student: the teacher is taken", is_told=True),
    *(
        drop(f"{part}.{{rest}}", "only DINOv3's training uses it")
        for part in ("model_ema", "gram_teacher", "ibot_head", "dino_loss", "ibot_patch_loss")
    ),
    drop(
        "dino_head.{rest}",
        "only training uses it; the file does not say the norms' epsilon: that of the published "
        "models, 1e-5, is taken",
        is_told=True,
    ),
)
# vitcli gives a SwiGLU and a plain feed-forward the same names.
MLP = tuple(rename(B + f"mlp.fc{n}.{{p}}", B + f"mlp.fc{n}.{{p}}") for n in (1, 2))
SWIGLU = (
    fuse((B + "mlp.w1.{p}", B + "mlp.w2.{p}"), B + "mlp.fc1.{p}"),
    rename(B + "mlp.w3.{p}", B + "mlp.fc2.{p}"),
)
BIAS = (rename(B + "attn.qkv.bias", B + "attn.qkv.bias"),)
MASKED_BIAS = (
    split(B + "attn.qkv.bias", (B + "attn.q_bias", 1), ("", 1), (B + "attn.v_bias", 1)),
    drop(B + "attn.qkv.bias_mask", "zeros for the biases of the keys, which are left out"),
)


def is_named(names: Collection[str]) -> bool:
    """Whether a name is one that only files of DINOv3's repository have."""
    return any(sign in names for sign in SIGNS)


def detect(names: Collection[str]) -> bool:
    return timm.detect(names) and is_named(names)


def rules(state: Tensors) -> tuple[Rule, ...]:
    """The rules for one file. A `bias_mask` other than zeros for the keys has no rule."""
    blocks = [name for name in state if name.startswith("blocks.")]
    feed_forward = SWIGLU if any(".mlp.w1." in name for name in blocks) else MLP
    biases = [name for name in blocks if name.endswith(".attn.qkv.bias")]
    masks = [state.get(f"{name}_mask") for name in biases]
    is_masked = bool(masks) and all(mask is not None and _hides_keys(mask) for mask in masks)
    return (*RULES, *feed_forward, *(MASKED_BIAS if is_masked else BIAS))


def _hides_keys(mask: Tensor) -> bool:
    """Whether a mask is 1 for queries and values, and 0 for keys."""
    third = len(mask) // 3 if mask.ndim == 1 else 0
    return mask.ndim == 1 and mask.tolist() == [1] * third + [0] * third + [1] * third


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read the sizes from the tensors: the number of periods shows the width of a head. The epsilon
    is that of all published models (`layernormbf16` in `dinov3/hub/backbones.py`), the image size
    that of the README."""
    width, chans, *patch = shape(tensors, "patch_embed.proj.weight", 4)
    (count,) = shape(tensors, PERIODS, 1)
    if width % (4 * count):
        raise CheckpointError(
            f"rope_embed.periods has {count} periods, and the width is {width}: "
            f"{4 * count} does not divide it"
        )
    hidden = shape(tensors, "blocks.0.mlp.fc2.weight", 2)[1]
    is_swiglu = shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0] == 2 * hidden

    def has(name: str) -> bool:
        return any(tensor.endswith(name) for tensor in tensors)

    return ViTConfig(
        image_size=(max(1, 256 // patch[0]) * patch[0], max(1, 256 // patch[1]) * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        embed_dim=width,
        depth=count_blocks(tensors),
        num_heads=num_heads or width // (4 * count),
        hidden_dim=hidden,
        num_registers=shape(tensors, "register_tokens", 3)[1] if has("register_tokens") else 0,
        pos_embed=False,
        pos_prefix=0,
        rope=rope_of(tuple(tensors[PERIODS].tolist())),
        norm="layer" if has(".norm1.bias") or has(".norm2.bias") else "rms",
        qkv_bias=has("attn.qkv.bias"),
        qv_bias=has("attn.q_bias"),
        proj_bias=has("attn.proj.bias"),
        layer_scale=has(".gamma"),
        ffn="swiglu" if is_swiglu else "mlp",
        ffn_bias=has("mlp.fc1.bias") or has("mlp.fc2.bias"),
        act="silu" if is_swiglu else "gelu",
        norm_eps=1e-5,
    )


def rope_of(periods: tuple[float, ...]) -> Rope:
    """The rotary positions with these periods, and with the theta whose powers they are, rounded or
    not. Periods that are those of theta in fp32 are left to be computed."""
    published, count = Rope(theta=100.0, periods=periods), len(periods)
    fitted = periods[-1] ** (count / (count - 1)) if count > 1 else 100.0
    others = (max(1.0, float(round(fitted))), fitted)
    ropes = [published, *(Rope(theta=theta, periods=periods) for theta in others)]
    computed = [Rope(theta=rope.theta) for rope in ropes if rope.rounding < FP32]
    rounded = [rope for rope in ropes if rope.rounding <= BF16]
    return (computed + rounded + ropes[-1:])[0]


LAYOUT = Layout(
    "dinov3",
    timm.PREFIXES,
    detect,
    rules,
    read_config,
    config_tensors=frozenset({PERIODS}),
    evaluation=DINOV3_OWN,
    family=DINOV3,
)
