"""Make a twin of a network that trains faster on a CPU: the same parameters, with oneDNN kernels.

torch sends an fp32 `Linear` and its gradients to MKL, which is half as fast as oneDNN on some
processors. In bf16 under autocast, torch casts every weight in every pass, and the gradients of its
attention take three times as long as their products alone. The twin's products use oneDNN in the
forward pass and for both gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from vitcli.models.layers import Attention
from vitcli.models.onednn import KEPT, attend, heads_at_once, softmax_scores, supports
from vitcli.models.positions import NOWHERE, Position

Swap = Callable[[nn.Module, str], nn.Module | None]


class Product(torch.autograd.Function):
    """x @ weight.T + bias in one dtype, which is also that of the result and of x's gradient. The
    gradients of weight and bias have the dtypes of their parameters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, low: Tensor) -> Tensor:
        """(..., D), (F, D), (F) -> (..., F); `low` is the weight in the dtype of the product"""
        x = x.to(low.dtype)
        ctx.save_for_backward(x, low)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return _product(x, low, None if bias is None else bias.to(low.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, low = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        dy = dy.to(low.dtype)
        rows = dy.reshape(-1, dy.shape[-1])  # (M, F)
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = _product(dy, low.t(), None)
        if ctx.needs_input_grad[1]:
            columns = x.reshape(-1, x.shape[-1])  # (M, D)
            if low.dtype == torch.float32:
                dw = _product(rows.t(), columns.t(), None)
            else:  # torch also sends this product to oneDNN, and transposes nothing
                dw = (rows.t() @ columns).to(weight_dtype)
        if ctx.needs_input_grad[2]:
            db = rows.sum(dim=0).to(bias_dtype)
        return dx, dw, db, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class TrainedLinear(nn.Module):
    """A `Linear` with the same parameters, whose products use oneDNN in `dtype`."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.dtype = dtype
        self._low: tuple[int, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., F)"""
        out: Tensor = Product.apply(x, self.weight, self.bias, self._cast())  # type: ignore[no-untyped-call]
        return out

    def _cast(self) -> Tensor:
        """The weight in the product's dtype, cast again only after a change."""
        if self.weight.dtype == self.dtype:
            return self.weight.detach()
        version = self.weight._version
        if self._low is None or self._low[0] != version:
            self._low = version, self.weight.detach().to(self.dtype)
        return self._low[1]


class Attend(torch.autograd.Function):
    """softmax(q k^T) v in low precision, in batched products of as many heads as fit the cache. The
    weights are recomputed for the gradients, as in FlashAttention (arXiv 2205.14135)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> Tensor:
        """q, k, v of each head, (3, H, N, d) -> (H, N, d)"""
        q, k, v = qkv
        q = q * q.shape[-1] ** -0.5
        ctx.save_for_backward(q, k, v)
        return attend(q, k, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        q, k, v = ctx.saved_tensors
        dqkv = torch.empty(3, *q.shape, dtype=q.dtype)
        dq, dk, dv = dqkv
        for part in heads_at_once(len(q), q.shape[1]):
            weights = softmax_scores(q[part], k[part])
            torch.bmm(weights.transpose(1, 2), dy[part], out=dv[part])
            dweights = dy[part] @ v[part].transpose(1, 2)
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            torch.bmm(dscores, k[part], out=dq[part])
            torch.bmm(dscores.transpose(1, 2), q[part], out=dk[part])
        dq *= q.shape[-1] ** -0.5
        return dqkv


class TrainedAttention(nn.Module):
    """An `Attention` in low precision; `products` makes its linear maps."""

    def __init__(self, attention: Attention, products: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.plain = copy.copy(attention)
        self.plain._modules = {n: products(child) for n, child in attention.named_children()}

    def forward(self, x: Tensor, position: Position = NOWHERE) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        if position.bias is not None:  # `Attend` has no gradient for it
            out: Tensor = self.plain(x, position)
            return out
        heads = torch.stack(self.plain.heads(x, position)).flatten(1, 2)  # (3, B*A, N, d)
        attended: Tensor = Attend.apply(heads)  # type: ignore[no-untyped-call]
        return self.plain.joined(attended.view(len(x), -1, *attended.shape[1:]))


class Checkpointed(nn.Module):
    """A layer that discards its activations, and recomputes them for the gradients."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Any) -> Any:
        return checkpoint(self.layer, *inputs, use_reentrant=False)


def twin_of(module: nn.Module, swap: Swap, name: str = "") -> nn.Module:
    """Copy a tree of modules that shares its parameters; `swap` may replace a module by another."""
    swapped = swap(module, name)
    if swapped is not None:
        return swapped
    twin = copy.copy(module)
    twin._modules = {
        child: inner and twin_of(inner, swap, f"{name}.{child}".lstrip("."))
        for child, inner in module._modules.items()
    }
    return twin


def with_products(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network's twin on oneDNN kernels; the network itself if this machine has none.

    The first and last layers (`KEPT`), and all layers that are not products, stay unchanged.
    """
    if not supports(dtype):
        return network

    def swap(module: nn.Module, name: str) -> nn.Module | None:
        kept = KEPT.intersection(name.split(".")[:1])
        if type(module) is nn.Linear and not kept:
            return TrainedLinear(module, dtype)
        if type(module) is Attention and dtype != torch.float32 and not module.dropout:
            return TrainedAttention(module, partial(twin_of, swap=swap))
        return None

    return twin_of(network, swap)


def with_checkpoints(network: nn.Module) -> nn.Module:
    """The network's twin whose layers keep only their inputs for the backward pass."""

    def swap(module: nn.Module, name: str) -> nn.Module | None:
        if isinstance(module, nn.ModuleList):
            return nn.ModuleList(Checkpointed(layer) for layer in module)
        return None

    return twin_of(network, swap)
