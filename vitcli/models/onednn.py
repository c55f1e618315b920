"""Copy a network into a twin that computes the same in less time on a CPU, with oneDNN kernels.

torch computes an fp32 `Linear` with MKL, which is half as fast as oneDNN on some processors, and
which reorders the weights in every call. torch's attention kernel is slow in bf16, and an
activation reads and writes the whole result of the product before it. In the twin, the weights are
reordered once, activations are part of the kernels, and products may be int8. The operators are
torch's private ones for `torch.compile`, so `supports` tries them first.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitcli.models.config import RelResize, ViTConfig
from vitcli.models.layers import (
    ACTIVATIONS,
    Attention,
    Mlp,
    PatchEmbed,
    attention_weights,
    batched,
)
from vitcli.models.network import Network
from vitcli.models.positions import NOWHERE, Position, RelativePositions, Rotation
from vitcli.models.text import TextTransformer
from vitcli.models.vit import VisionTransformer
from vitcli.records import Preprocess, Size

Act: TypeAlias = Callable[[Tensor], Tensor]
Product: TypeAlias = Callable[[Tensor, Tensor | None, Act | None], nn.Module]

KEPT = frozenset({"patch_embed", "norm_pre", "attn_pool", "head", "head_dist", "proj"})
"""The layers that stay fp32 in a network of lower precision: the first and the last ones, which are
1 % of the work."""

POST_OPS: dict[Act | None, tuple[str, list[float], str]] = {
    None: ("none", [], ""),
    ACTIVATIONS["gelu"]: ("gelu", [], "none"),
    ACTIVATIONS["gelu_tanh"]: ("gelu", [], "tanh"),
    ACTIVATIONS["relu"]: ("relu", [], ""),
    ACTIVATIONS["silu"]: ("swish", [], ""),
}
QUICK = 1.702  # quick_gelu(x) = silu(1.702 x) / 1.702

ROWS = 256  # weights are reordered for inputs of this many rows, which suits 50 and 5,000, too
LAST_BITS = 1.5 * 2**23  # see `_bytes`
SCORES = 2 << 20  # attention scores to compute at a time: 4 MB in bf16, which fit the cache


class PackedLinear(nn.Module):
    """`Linear` in `dtype`, with its activation in the same kernel."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, act: Act | None, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), ROWS)
        self.bias = None if bias is None else bias.to(dtype)
        self.post = POST_OPS[act]

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., F)"""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype), self.packed, self.bias, *self.post
        )
        return out


class Int8Linear(nn.Module):
    """`Linear` with int8 weights, one scale for each output, and 8-bit inputs, one range for each
    call.

    The product is exact in int32; its result is rounded to `dtype`. The range is measured on the
    input, so no calibration is needed, and a batch gives the same numbers in every run.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, act: Act | None, dtype: torch.dtype
    ) -> None:
        super().__init__()
        scales = weight.float().abs().amax(dim=1).clamp(min=1e-12) / 127
        rounded = (weight.float() / scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.scales = scales
        self.zeros = torch.zeros(len(scales), dtype=torch.int8)
        self.bias = None if bias is None else bias.float()
        self.dtype = dtype
        self.post = POST_OPS[act]

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., F)"""
        low, high = (bound.item() for bound in torch.aminmax(x))
        low, high = min(low, 0.0), max(high, 0.0)
        if not math.isfinite(high - low):  # NaN and infinity have no range
            return torch.full((*x.shape[:-1], len(self.scales)), math.nan, dtype=self.dtype)
        scale = (high - low) / 253 or 1.0
        zero = 1 + round(-low / scale)  # rounding cannot push a byte out of 0 to 255
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            _bytes(x, scale, zero),
            *(scale, zero, self.packed, self.scales, self.zeros, self.bias),
            # 1.0 and 0 are the scale and zero of an 8-bit output, not used here.
            *(1.0, 0, self.dtype, *self.post),
        )
        return out


def _bytes(x: Tensor, scale: float, zero: int) -> Tensor:
    """x / scale + zero, rounded.  (...) -> uint8 (...)

    In an fp32 number as large as LAST_BITS the last bit is worth 1: the addition rounds, and the
    lowest byte is the result. This takes a fifth of the time of `round` and `to(uint8)`.
    """
    wide = x.float()
    out = None if wide is x else wide  # overwrite a copy, but not the input
    return (
        torch.add(torch.tensor(LAST_BITS + zero), wide, alpha=1 / scale, out=out)
        .view(torch.int32)
        .byte()
    )


class PackedMlp(nn.Module):
    """`Mlp` with the activation in its first product."""

    def __init__(self, mlp: Mlp, product: Product) -> None:
        super().__init__()
        weight, bias, act, factor = mlp.fc1.weight, mlp.fc1.bias, mlp.act, 1.0
        if act is ACTIVATIONS["quick_gelu"]:
            act, factor = ACTIVATIONS["silu"], QUICK
        self.fc1 = product(weight * factor, None if bias is None else bias * factor, act)
        self.fc2 = product(mlp.fc2.weight / factor, mlp.fc2.bias, None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        out: Tensor = self.fc2(self.fc1(x))
        return out


class PackedAttention(nn.Module):
    """`Attention` with packed products.

    In low precision, where torch's kernel is slow, it is two batched products and a softmax, for as
    many heads at a time as fit the cache. Rotations multiply pairs of channels as complex numbers
    (0.5 % of the work in fp32), so the rows of the weights are ordered in pairs.
    """

    def __init__(self, attention: Attention, product: Product, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_heads, self.dtype = attention.num_heads, dtype
        weight, bias = attention.qkv.weight.clone(), attention.separate_bias()
        if bias is None and attention.qkv.bias is not None:
            bias = attention.qkv.bias.clone()
        if attention.halves:
            weight = _in_pairs(weight, self.num_heads)
            bias = None if bias is None else _in_pairs(bias, self.num_heads)
        dim = attention.qkv.in_features
        for parameter in (weight,) if bias is None else (weight, bias):
            parameter[:dim] *= (dim // self.num_heads) ** -0.5  # scales the queries
        self.qkv = product(weight, bias, None)
        self.norm = attention.norm
        self.proj = product(attention.proj.weight, attention.proj.bias, None)

    def forward(self, x: Tensor, position: Position = NOWHERE) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        return self.with_keys(x, position)[0]

    def with_keys(self, x: Tensor, position: Position) -> tuple[Tensor, Tensor]:
        """See `Attention.with_keys`.  (B, N, D) -> (B, N, D), (B, A, N, d)"""
        q, k, v = self._heads(x, position)
        if self.dtype == torch.float32:
            bias = batched(position.bias, len(x))
            heads = F.scaled_dot_product_attention(q, k, v, bias, scale=1.0)
        else:
            flat_q, flat_k, flat_v = (t.flatten(0, 1) for t in (q, k, v))
            heads = attend(flat_q, flat_k, flat_v, position.bias).view(q.shape)
        joined = self.norm(heads.transpose(1, 2).flatten(2))
        out: Tensor = self.proj(joined)
        return out, k

    def weights(
        self, x: Tensor, position: Position = NOWHERE, rows: Tensor | None = None
    ) -> Tensor:
        """See `Attention.weights`.  (B, N, D) -> (B, A, N or R, N)"""
        q, k, _ = self._heads(x, position)
        return attention_weights(q, k, position.bias, rows)

    def _heads(self, x: Tensor, position: Position) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> q, k, v: (B, A, N, d) each"""
        B, N, _ = x.shape
        qkv: Tensor = self.qkv(x).view(B, N, 3, self.num_heads, -1)
        heads = qkv.permute(2, 0, 3, 1, 4)  # (3, B, A, N, d)
        q, k, v = heads.unbind(0)
        if position.rotation is not None:
            q, k = _rotated_pairs(heads[:2], position.rotation)
        return q, k, v


def _in_pairs(parameter: Tensor, heads: int) -> Tensor:
    """Reorder the rows of queries and keys, so that channels i and i + d/2 of each head become 2i
    and 2i + 1.  (3*D, ...) -> (3*D, ...)"""
    q, k, v = parameter.chunk(3)
    paired = (t.view(heads, 2, -1, *t.shape[1:]).transpose(1, 2).reshape(t.shape) for t in (q, k))
    return torch.cat([*paired, v])


def _rotated_pairs(qk: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the pairs of channels of queries and keys in fp32; fp32 itself is overwritten.
    (2, B, A, N, d) -> (2, B, A, N, d)"""
    wide = qk if qk.dtype == torch.float32 else torch.empty(qk.shape).copy_(qk)
    pairs = torch.view_as_complex(wide.view(*wide.shape[:-1], -1, 2))
    pairs.mul_(torch.complex(*rotation))
    return wide.to(qk.dtype)


def heads_at_once(heads: int, tokens: int) -> Iterator[slice]:
    """Iterate over slices of a batch's heads whose scores fit the cache."""
    count = max(1, SCORES // tokens**2)
    for first in range(0, heads, count):
        yield slice(first, min(first + count, heads))


def softmax_scores(q: Tensor, k: Tensor, scores: Tensor | None = None) -> Tensor:
    """The attention weights of scaled queries. If `scores` are given, they are added to, and
    overwritten.  (H, N, d) twice -> (H, N, N)"""
    keys = k.transpose(1, 2)
    scores = q @ keys if scores is None else scores.baddbmm_(q, keys)
    return torch.softmax(scores, dim=-1, out=scores)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention with scaled queries, and the bias of a `Position` for the heads of each image.
    (H, N, d) three times -> (H, N, d)"""
    attended = torch.empty_like(q)
    for part in heads_at_once(len(q), q.shape[1]):
        own = None if bias is None else _bias_of(part, bias.to(q.dtype), len(q))
        torch.bmm(softmax_scores(q[part], k[part], own), v[part], out=attended[part])
    return attended


def _bias_of(part: slice, bias: Tensor, total: int) -> Tensor:
    """A new tensor with the bias of these heads, of the `total` of a batch.
    (A, N, N) or (B, 1, 1, N) -> (H, N, N)"""
    if bias.ndim == 4:
        images = torch.arange(part.start, part.stop) // (total // len(bias))
        return bias[images, 0].repeat(1, bias.shape[-1], 1)
    count, heads = part.stop - part.start, len(bias)
    if part.start % heads or count % heads:
        return bias[torch.arange(part.start, part.stop) % heads]
    return bias.repeat(count // heads, 1, 1)


class PixelPatches(nn.Module):
    """Normalisation and `PatchEmbed` in one product, whose weights combine both linear maps.

    Pixels are shifted to -128 to 127: sums of numbers around zero have smaller rounding errors.
    """

    def __init__(self, embed: PatchEmbed, plan: Preprocess) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (plan.mean, plan.std))
        weight = embed.proj.weight.double() / std[:, None, None]  # (D, C, P, P)
        bias = weight.sum(dim=(2, 3)) @ (128 * plan.rescale - mean)
        if embed.proj.bias is not None:
            bias += embed.proj.bias
        weight = (weight * plan.rescale).permute(0, 2, 3, 1).flatten(1)
        self.patch_size = embed.proj.kernel_size
        self.norm = embed.norm
        self.product = PackedLinear(weight, bias, None, torch.float32)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 or fp32 (B, C, H, W), channels last in memory -> (B, h*w, D)"""
        (P, Q), (B, C, H, W) = self.patch_size, pixels.shape
        x = pixels.permute(0, 2, 3, 1).reshape(B, H // P, P, W // Q, Q, C).transpose(2, 3)
        x = x.flatten(3).flatten(1, 2)
        is_bytes = x.dtype == torch.uint8
        shifted = x.bitwise_xor(128).view(torch.int8).float() if is_bytes else x - 128
        out: Tensor = self.norm(self.product(shifted))
        return out


class ConstantPositions(nn.Module):
    """The biases of `RelativePositions` for the network's own grid, computed once."""

    def __init__(self, positions: RelativePositions, config: ViTConfig, dtype: torch.dtype) -> None:
        super().__init__()
        biases = positions.biases(config.grid, config.grid, config.rel_resize)
        self.constants = [bias.to(dtype).contiguous() for bias in biases]

    def biases(self, old: Size, new: Size, how: RelResize) -> Iterator[Tensor]:
        """-> (A, N, N), ..."""
        assert old == new
        return iter(self.constants)


@torch.no_grad()
def repacked(
    network: Network, plan: Preprocess, dtype: torch.dtype, *, int8: bool = False
) -> Network:
    """Make a twin of the network that runs on oneDNN kernels; the network itself stays unchanged.

    The twin takes pixels (`takes_pixels`) if the image consists of whole patches; otherwise the
    network crops or pads it, which needs normalised pixels. Layers that are not products, those
    in KEPT, and the residual stream stay in fp32.
    """
    exact = _product(PackedLinear, torch.float32)
    low = _product(Int8Linear if int8 else PackedLinear, dtype)
    twin = copy.copy(network)
    twin._modules = {
        name: _twin(child, *((exact, torch.float32) if name in KEPT else (low, dtype)))
        for name, child in network.named_children()
    }
    if isinstance(network, VisionTransformer) and network.config.rel_bias != "none":
        twin._modules["rel_pos"] = ConstantPositions(network.rel_pos, network.config, dtype)
    sides = zip(network.config.image_size, network.config.patch_size, strict=True)
    if not any(side % patch for side, patch in sides):
        twin.patch_embed = PixelPatches(network.patch_embed, plan)  # type: ignore[assignment]
    return twin


@torch.no_grad()
def repacked_text(network: TextTransformer) -> TextTransformer:
    """Make a twin of a text transformer that runs on oneDNN kernels in fp32, or return the network
    itself where there are none."""
    if not supports(torch.float32):
        return network
    twin = copy.copy(network)
    blocks = _twin(network.blocks, _product(PackedLinear, torch.float32), torch.float32)
    twin._modules = {**network._modules, "blocks": blocks}
    return twin


def takes_pixels(network: Network) -> bool:
    """Whether the network takes pixels and normalises them itself."""
    return isinstance(network.patch_embed, PixelPatches)


def _twin(module: nn.Module, product: Product, dtype: torch.dtype) -> nn.Module:
    match module:
        case nn.Linear():
            return product(module.weight, module.bias, None)
        case Mlp() if isinstance(module.norm, nn.Identity):
            return PackedMlp(module, product)
        case Attention() if dtype != torch.float32 or module.rotates or module.q_bias is not None:
            return PackedAttention(module, product, dtype)
    twin = copy.copy(module)  # the twin shares the parameters
    twin._modules = {name: _twin(child, product, dtype) for name, child in module.named_children()}
    return twin


def _product(kind: Callable[..., nn.Module], dtype: torch.dtype) -> Product:
    return lambda weight, bias, act: kind(weight, bias, act, dtype)


@cache
@torch.no_grad()
def supports(dtype: torch.dtype, *, int8: bool = False) -> bool:
    """Whether this PyTorch has the operators, and they compute correctly on this processor."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((9, 64), (32, 64), (32,)))
    expected = F.gelu(F.linear(x, weight, bias))
    try:
        result = (Int8Linear if int8 else PackedLinear)(weight, bias, F.gelu, dtype)(x).float()
    except (AttributeError, RuntimeError, TypeError):
        return False
    allowed = 0.05 if int8 else 0.03 if dtype != torch.float32 else 1e-5
    return bool((result - expected).norm() <= allowed * expected.norm())


def has(*instructions: str) -> bool:
    """Whether the processor has one of these instruction sets, such as avx512_vnni."""
    read = getattr(torch.cpu, "get_capabilities", dict)  # torch >= 2.10
    capabilities: Mapping[str, object] = read()
    return any(capabilities.get(name) for name in instructions)
