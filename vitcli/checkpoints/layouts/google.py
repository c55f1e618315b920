"""Google's JAX checkpoints, `.npz`: the first ViTs and augreg of `vision_transformer`, and
`big_vision`, which renumbers the modules of a block and may stack all blocks in one array.

flax stores kernels as (in, out), with an axis for the heads: (D, A, d) into attention, (A, d, D)
out of it. So the tensors show the number of heads. flax's GELU is the tanh approximation, but timm
and transformers run these weights with the exact GELU, and so does vitcli.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from vitcli.checkpoints.keymap import Reshape, Rule, drop, rename, reshape
from vitcli.checkpoints.layouts import timm
from vitcli.checkpoints.layouts.layout import Json, Layout, Tensors
from vitcli.checkpoints.preprocess.published import HALF, VIT, always
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

STACKED, MAX_STACK = "Transformer/encoderblock/", 512
E, B = "Transformer/encoderblock_{i}/", "blocks.{i}."
# The modules of a block, as numbered in the first repository and in big_vision.
ATTENTION = (E + "MultiHeadDotProductAttention_1/", E + "MultiHeadDotProductAttention_0/")
MLP = (E + "MlpBlock_3/", E + "MlpBlock_0/")
NORM2 = (E + "LayerNorm_2", E + "LayerNorm_1")
MAP = "MAPHead_0/"
MAP_ATTENTION = (MAP + "MultiHeadDotProductAttention_0/",)


@lru_cache
def table(heads: int, *, has_hidden: bool = False) -> tuple[Rule, ...]:
    """The rules for a model with `heads` heads. `has_hidden`: a tanh layer precedes the head."""
    head = (
        drop("head/{rest}", "it reads a hidden layer, pre_logits, that no later model has",
             is_told=True),
        drop("pre_logits/{rest}", "a hidden layer before the head"),
    )  # fmt: skip
    return (
        reshape(
            ("embedding/kernel",),
            "patch_embed.proj.weight",
            lambda x: x.permute(3, 2, 0, 1),  # (P, P, C, D) -> (D, C, P, P)
            lambda x: x.permute(2, 3, 1, 0),
        ),
        rename("embedding/bias", "patch_embed.proj.bias"),
        rename("cls", "cls_token"),
        rename("Transformer/posembed_input/pos_embedding", "pos_embed", "pos_embedding"),
        *_norm(B + "norm1", E + "LayerNorm_0"),
        *_into(B + "attn.qkv", ("query", "key", "value"), heads, *ATTENTION),
        *_out_of(B + "attn.proj", heads, *ATTENTION),
        *_norm(B + "norm2", *NORM2),
        *_dense(B + "mlp.fc1", *(f"{at}Dense_0" for at in MLP)),
        *_dense(B + "mlp.fc2", *(f"{at}Dense_1" for at in MLP)),
        *_norm("norm", "Transformer/encoder_norm"),
        rename(MAP + "probe", "attn_pool.latent"),
        *_into("attn_pool.q", ("query",), heads, *MAP_ATTENTION),
        *_into("attn_pool.kv", ("key", "value"), heads, *MAP_ATTENTION),
        *_out_of("attn_pool.proj", heads, *MAP_ATTENTION),
        *_norm("attn_pool.norm", MAP + "LayerNorm_0"),
        *_dense("attn_pool.mlp.fc1", MAP + "MlpBlock_0/Dense_0"),
        *_dense("attn_pool.mlp.fc2", MAP + "MlpBlock_0/Dense_1"),
        *(head if has_hidden else _dense("head", "head")),
        drop("txt/{rest}", "the text tower", is_told=True),
        drop("t", "the temperature of the image-text loss"),
        drop("b", "the bias of the image-text loss"),
    )


def _norm(ours: str, *theirs: str) -> tuple[Rule, ...]:
    scales, biases = ([f"{at}/{leaf}" for at in theirs] for leaf in ("scale", "bias"))
    return (
        rename(scales[0], ours + ".weight", *scales[1:]),
        rename(biases[0], ours + ".bias", *biases[1:]),
    )


def _dense(ours: str, *theirs: str) -> tuple[Rule, ...]:
    """(in, out) -> (out, in)"""
    kernels = [(f"{at}/kernel",) for at in theirs]
    biases = [f"{at}/bias" for at in theirs]
    return (
        reshape(kernels[0], ours + ".weight", _transpose, _transpose, *kernels[1:]),
        rename(biases[0], ours + ".bias", *biases[1:]),
    )


def _transpose(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def _into(ours: str, parts: tuple[str, ...], heads: int, *theirs: str) -> tuple[Rule, ...]:
    """n joined (D, A, d) -> (n*A*d, D), and n joined (A, d) -> (n*A*d,)"""
    n = len(parts)
    kernels, biases = (
        [tuple(f"{at}{part}/{leaf}" for part in parts) for at in theirs]
        for leaf in ("kernel", "bias")
    )

    def load(x: Tensor) -> Tensor:
        width = x.shape[0] // n
        return x.reshape(n, width, -1).transpose(1, 2).flatten(0, 1)

    def save(x: Tensor) -> Tensor:
        width = x.shape[1]
        return x.reshape(n, -1, width).transpose(1, 2).reshape(n * width, heads, -1)

    return (
        reshape(kernels[0], ours + ".weight", load, save, *kernels[1:]),
        reshape(biases[0], ours + ".bias", _flatten, _by_head(n * heads), *biases[1:]),
    )


def _out_of(ours: str, heads: int, *theirs: str) -> tuple[Rule, ...]:
    """(A, d, D) -> (D, A*d)"""
    kernels = [(f"{at}out/kernel",) for at in theirs]
    biases = [f"{at}out/bias" for at in theirs]
    split = _by_head(heads)
    return (
        reshape(
            kernels[0],
            ours + ".weight",
            lambda x: _transpose(x.flatten(0, 1)),
            lambda x: split(_transpose(x)),
            *kernels[1:],
        ),
        rename(biases[0], ours + ".bias", *biases[1:]),
    )


def _flatten(x: Tensor) -> Tensor:
    return x.flatten()


def _by_head(count: int) -> Reshape:
    return lambda x: x.reshape(count, -1, *x.shape[1:])


def detect(names: Collection[str]) -> bool:
    return "embedding/kernel" in names and E.format(i=0) + "LayerNorm_0/scale" in names


def unstack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Unstack `encoderblock/x` (L, ...) into `encoderblock_0/x`, `encoderblock_1/x`, ..."""
    unstacked: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith(STACKED) or tensor.ndim == 0:
            unstacked[name] = tensor
            continue
        if len(tensor) > MAX_STACK:
            raise CheckpointError(
                f"{name} {list(tensor.shape)} stacks more than {MAX_STACK} blocks"
            )
        inner = name.removeprefix(STACKED)
        unstacked |= {E.format(i=i) + inner: part for i, part in enumerate(tensor)}
    return unstacked


def num_heads(state: Tensors) -> int | None:
    """The number of heads: A of a query kernel (D, A, d)."""
    for name, tensor in state.items():
        if name.endswith("/query/kernel") and tensor.ndim == 3:
            return tensor.shape[1]
    return None


def rules(state: Tensors) -> tuple[Rule, ...]:
    return table(num_heads(state) or 1, has_hidden="pre_logits/kernel" in state)


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read sizes from the tensors. Without a class token the patches are averaged, or pooled by
    MAP. Positions cover the class token in the first repository, not in big_vision."""
    return replace(timm.read_config(tensors, {}, num_heads), pos_resize="bilinear")


LAYOUT = Layout(
    "google",
    ("opt/target/", "params/", "img/"),
    detect,
    rules,
    read_config,
    unpack=unstack,
    num_heads=num_heads,
    evaluation=always(
        mean=HALF, std=HALF, interpolation="bilinear", crop_mode="squash", crop_pct=1.0
    ),  # vit_jax/input_pipeline.py
    family=VIT,
)
