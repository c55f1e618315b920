"""The parts of a Vision Transformer: patches, attention, feed-forward, block, attention pooling."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitcli.models.block_config import BlockConfig
from vitcli.models.config import Config, ViTConfig
from vitcli.models.fields import Activation
from vitcli.models.positions import NOWHERE, Position, rotate

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),  # OpenAI CLIP
    "relu": F.relu,
    "silu": F.silu,
}


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` in the dtype of its weights, as torch's fused kernel wants it."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        return super().forward(x.to(self.weight.dtype))


def norm_of(config: BlockConfig, dim: int, *, is_there: bool = True) -> nn.Module:
    """The config's kind of norm; the identity if `is_there` is False."""
    if not is_there:
        return nn.Identity()
    return (RMSNorm if config.norm == "rms" else nn.LayerNorm)(dim, config.norm_eps)


class PatchEmbed(nn.Module):
    """One linear map of each patch, as a convolution whose stride is its kernel size."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            config.in_chans,
            config.embed_dim,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=config.patch_bias,
        )
        self.norm: nn.Module = nn.Identity()
        if isinstance(config, ViTConfig) and config.patch_norm:
            self.norm = norm_of(config, config.embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, h*w, D)"""
        x: Tensor = self.proj(pixels)
        x = self.norm(x.flatten(2).transpose(1, 2))
        return x


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for q, k and v.

    With `qv_bias`, q and v have biases of their own, and k has none, as in BEiT (arXiv 2106.08254).
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.num_heads = config.num_heads
        self.dropout = config.attn_dropout
        self.rotates = config.rope is not None
        self.halves = config.rope is not None and config.rope.halves
        self.qkv = nn.Linear(dim, 3 * dim, bias=config.qkv_bias)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if config.qv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if config.qv_bias else None
        self.norm = norm_of(config, dim, is_there=config.attn_norm)
        self.proj = nn.Linear(dim, dim, bias=config.proj_bias)

    def forward(self, x: Tensor, position: Position = NOWHERE) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        return self.with_keys(x, position)[0]

    def with_keys(self, x: Tensor, position: Position) -> tuple[Tensor, Tensor]:
        """The result of `forward`, and the keys.  (B, N, D) -> (B, N, D), (B, A, N, d)"""
        q, k, v = self.heads(x, position)
        dropout = self.dropout if self.training else 0.0
        bias = batched(position.bias, x.shape[0], q.dtype)
        return self.joined(F.scaled_dot_product_attention(q, k, v, bias, dropout_p=dropout)), k

    def weights(
        self, x: Tensor, position: Position = NOWHERE, rows: Tensor | None = None
    ) -> Tensor:
        """The attention weights of all tokens, or of the tokens `rows` (B, R); rows sum to 1.
        (B, N, D) -> (B, A, N or R, N)"""
        q, k, _ = self.heads(x, position)
        return attention_weights(q * q.shape[-1] ** -0.5, k, position.bias, rows)

    def with_weights(self, x: Tensor, position: Position = NOWHERE) -> tuple[Tensor, Tensor]:
        """The result of `forward`, computed from the weights, so that these have gradients.
        (B, N, D) -> (B, N, D), (B, A, N, N)"""
        q, k, v = self.heads(x, position)
        weights = attention_weights(q * q.shape[-1] ** -0.5, k, position.bias)
        return self.joined(weights @ v), weights

    def heads(self, x: Tensor, position: Position) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, rotated.  (B, N, D) -> (B, A, N, d) three times"""
        qkv = self.qkv(x)
        bias = self.separate_bias()
        if bias is not None:
            qkv = qkv + bias.to(qkv.dtype)
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, A, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if position.rotation is not None:
            q, k = (rotate(t, position.rotation, halves=self.halves) for t in (q, k))
        return q, k, v

    def separate_bias(self) -> Tensor | None:
        """The biases of q and v, with zeros for k between them; None if they are not separate.
        -> (3*D,)"""
        if self.q_bias is None or self.v_bias is None:
            return None
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def joined(self, heads: Tensor) -> Tensor:
        """The output of the attended values.  (B, A, N, d) -> (B, N, D)"""
        out: Tensor = self.proj(self.norm(heads.transpose(1, 2).flatten(2)))
        return out


def batched(bias: Tensor | None, images: int, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """The bias for each image of a batch, without which torch takes a slow kernel.
    (A, N, N) -> (B, A, N, N), (B, 1, 1, N) -> (B, 1, 1, N)"""
    return None if bias is None else bias.to(dtype).expand(images, -1, -1, -1)


def attention_weights(
    q: Tensor, k: Tensor, bias: Tensor | None = None, rows: Tensor | None = None
) -> Tensor:
    """The softmax of scaled queries with keys, plus a bias (A, N, N), in fp32, for all queries or
    for `rows` (B, R).  (B, A, N, d) twice -> (B, A, N or R, N)"""
    if rows is not None:
        images = torch.arange(len(q), device=q.device)[:, None]
        q = q.transpose(1, 2)[images, rows].transpose(1, 2)  # (B, A, R, d)
    scores = q.float() @ k.float().transpose(-2, -1)
    if bias is not None:
        scores = scores + (bias if rows is None else bias[:, rows].transpose(0, 1)).float()
    return scores.softmax(dim=-1)


class Mlp(nn.Module):
    """Two linear maps with an activation between, and for some models a norm after it."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        act: Activation,
        dropout: float = 0.0,
        *,
        bias: bool = True,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, bias)
        self.act = ACTIVATIONS[act]
        self.norm = norm or nn.Identity()
        self.fc2 = nn.Linear(hidden_dim, dim, bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        out: Tensor = self.fc2(self.norm(self.dropout(self.act(self.fc1(x)))))
        return out


class SwiGLU(nn.Module):
    """act(gate) * up, and for some models a norm after it; `fc1` has the gate in its first half
    (DINOv2's w12; arXiv 2002.05202). The activation is silu, in other gated variants another."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        act: Activation = "silu",
        dropout: float = 0.0,
        *,
        bias: bool = True,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden_dim, bias)
        self.act = ACTIVATIONS[act]
        self.norm = norm or nn.Identity()
        self.fc2 = nn.Linear(hidden_dim, dim, bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        gate, up = self.fc1(x).chunk(2, dim=-1)  # (B, N, F) each
        out: Tensor = self.fc2(self.norm(self.dropout(self.act(gate) * up)))
        return out


class LayerScale(nn.Module):
    """A learned factor for each channel (CaiT, arXiv 2103.17239)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: in training, skips a residual branch of random images (arXiv
    1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class Block(nn.Module):
    """A pre-norm transformer block: attention, then feed-forward, each with a residual."""

    def __init__(self, config: BlockConfig, drop_path: float) -> None:
        super().__init__()
        dim, hidden = config.embed_dim, config.hidden_dim
        self.norm1 = norm_of(config, dim)
        self.attn = Attention(config)
        self.ls1 = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.norm2 = norm_of(config, dim)
        inner = norm_of(config, hidden, is_there=config.ffn_norm)
        self.mlp = (
            SwiGLU(dim, hidden, config.gate_act, config.dropout, bias=config.ffn_bias, norm=inner)
            if config.ffn == "swiglu"
            else Mlp(dim, hidden, config.act, config.dropout, bias=config.ffn_bias, norm=inner)
        )
        self.ls2 = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, position: Position = NOWHERE) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        return self.fed(self.joined(x, self.attn(self.norm1(x), position)))

    def weights(
        self, x: Tensor, position: Position = NOWHERE, rows: Tensor | None = None
    ) -> Tensor:
        """The attention weights.  (B, N, D) -> (B, A, N or R, N)"""
        weights: Tensor = self.attn.weights(self.norm1(x), position, rows)
        return weights

    def with_weights(self, x: Tensor, position: Position = NOWHERE) -> tuple[Tensor, Tensor]:
        """The result of `forward`, from the weights.  (B, N, D) -> (B, N, D), (B, A, N, N)"""
        attended, weights = self.attn.with_weights(self.norm1(x), position)
        return self.fed(self.joined(x, attended)), weights

    def joined(self, x: Tensor, attended: Tensor) -> Tensor:
        """The residual stream after attention.  (B, N, D) twice -> (B, N, D)"""
        out: Tensor = x + self.drop_path(self.ls1(self.dropout(attended)))
        return out

    def fed(self, x: Tensor) -> Tensor:
        """The residual stream after the feed-forward.  (B, N, D) -> (B, N, D)"""
        out: Tensor = x + self.drop_path(self.ls2(self.dropout(self.mlp(self.norm2(x)))))
        return out


class AttentionPool(nn.Module):
    """A learned query attends to all tokens, then a feed-forward (SigLIP's MAP head)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.num_heads = config.pool_heads or config.num_heads
        self.latent = nn.Parameter(torch.zeros(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = norm_of(config, dim)
        self.mlp = Mlp(dim, config.pool_hidden_dim or config.hidden_dim, config.act)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`bias` (B, 1, 1, N) is added to the scores of the keys.  (B, N, D) -> (B, D)"""
        q, k, v = self._heads(x)
        return self._pooled(F.scaled_dot_product_attention(q, k, v, bias))

    def weights(self, x: Tensor) -> Tensor:
        """The attention weights of the learned query; they sum to 1.  (B, N, D) -> (B, A, 1, N)"""
        q, k, _ = self._heads(x)
        return attention_weights(q * q.shape[-1] ** -0.5, k)

    def with_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The result of `forward`, from the weights.  (B, N, D) -> (B, D), (B, A, 1, N)"""
        q, k, v = self._heads(x)
        weights = attention_weights(q * q.shape[-1] ** -0.5, k)
        return self._pooled(weights @ v), weights

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> q: (B, A, 1, d), k, v: (B, A, N, d)"""
        q = self.q(self.latent).expand(x.shape[0], -1, -1)
        q = q.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, A, 1, d)
        kv = self.kv(x).unflatten(-1, (2, self.num_heads, -1))  # (B, N, 2, A, d)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def _pooled(self, attended: Tensor) -> Tensor:
        """(B, A, 1, d) -> (B, D)"""
        pooled: Tensor = self.proj(attended.transpose(1, 2).flatten(2)).squeeze(1)
        out: Tensor = pooled + self.mlp(self.norm(pooled))
        return out


class CosineHead(nn.Module):
    """A head that compares embeddings with a vector for each class, by their cosine: the zero-shot
    classifier of CLIP (arXiv 2103.00020, section 3.1). It computes in fp32.

    The rows of `weight` are unit vectors times the scale of the cosines.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """weight: (K, E), bias: (K,)"""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, E) -> (B, K)"""
        unit = F.normalize(x.float(), dim=-1)
        return F.linear(unit, self.weight.float(), self.bias.float())
