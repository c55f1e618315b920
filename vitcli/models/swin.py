"""The Swin Transformer: normalised pixels into tokens of several resolutions, an embedding, or
logits.

arXiv 2103.14030. Attention stays within windows; every second block shifts them by half, so that
neighbouring windows are connected. A merge between stages turns four patches into one. The results
are those of transformers' `modeling_swin.py` or timm's `swin_transformer.py`, which differ if the
windows do not fit the grid (`SwinConfig.window_rule`). Parameter names are timm's, but a merge
belongs to the stage before it, as in transformers.

Version 2, arXiv 2111.09883, has another attention (`CosineAttention`), and norms after sublayers
and merges: `modeling_swinv2.py`, `swin_transformer_v2.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitcli.models.fields import Pooling
from vitcli.models.layers import DropPath, Mlp, PatchEmbed
from vitcli.models.pos_embed import resize_bias_table, resize_pos_embed
from vitcli.models.swin_config import POSITION_WIDTH, SwinConfig, merged
from vitcli.models.vit import Tokens
from vitcli.models.windows import Windows, on_grid, padded, partitioned, windows_of
from vitcli.records import Size

STEM = ("patch_embed", "patch_norm", "pos_embed")


class WindowAttention(nn.Module, ABC):
    """Multi-head self-attention within windows, with a bias for each relative position. `scale`
    multiplies the products of queries and keys."""

    scale: float

    def __init__(self, config: SwinConfig, stage: int, *, qkv_bias: bool) -> None:
        super().__init__()
        dim = config.dims[stage]
        self.num_heads = config.num_heads[stage]
        self.dropout = config.attn_dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    @abstractmethod
    def bias(self, window: Size) -> Tensor:
        """The bias of the scores in a window.  -> (1, A, N, N)"""

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, n, N, D) -> (B, n, N, D)"""
        q, k, v, bias = self._heads(x, windows)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout, scale=self.scale
        )
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(x.shape))
        return projected

    def weights(self, x: Tensor, windows: Windows) -> Tensor:
        """The attention weights within each window; rows sum to 1.
        (B, n, N, D) -> (B, n, A, N, N)"""
        return self._weights_and_values(x, windows)[0]

    def with_weights(self, x: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """The result of `forward`, and the weights, from which it is computed here: so they have
        gradients.
        (B, n, N, D) -> (B, n, N, D), (B, n, A, N, N)"""
        weights, v = self._weights_and_values(x, windows)
        return self.proj((weights @ v).transpose(2, 3).reshape(x.shape)), weights

    def _weights_and_values(self, x: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """(B, n, N, D) -> weights: (B, n, A, N, N), v: (B, n, A, N, d)"""
        q, k, v, bias = self._heads(x, windows)
        weights = (q * self.scale @ k.transpose(-2, -1) + bias).softmax(dim=-1)
        images = x.shape[:2]
        return weights.view(*images, *weights.shape[1:]), v.reshape(*images, *v.shape[1:])

    def _heads(self, x: Tensor, windows: Windows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v: (B*n, A, N, d), and the bias of the scores: (1 or B*n, A, N, N)"""
        qkv = self._project(x).reshape(*x.shape[:-1], 3, self.num_heads, -1)  # (B, n, N, 3, A, d)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(1, 2).unbind(0)
        bias = self.bias(windows.size)
        if windows.mask is not None:
            bias = bias + windows.mask[:, None]  # (n, A, N, N)
            bias = bias.expand(x.shape[0], -1, -1, -1, -1).flatten(0, 1)
        return *self._compared(q, k), v, bias

    def _project(self, x: Tensor) -> Tensor:
        """(B, n, N, D) -> (B, n, N, 3*D)"""
        projected: Tensor = self.qkv(x)
        return projected

    def _compared(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, of which the scores are made.  (B*n, A, N, d) twice -> the same"""
        return q, k


class TableAttention(WindowAttention):
    """Version 1: scaled products, and a learned table of biases."""

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__(config, stage, qkv_bias=config.qkv_bias)
        self.stage = stage
        self.scale = (config.dims[stage] // self.num_heads) ** -0.5
        self.window = config.tables[stage]
        self.is_resampled = config.window_rule == "timm"
        length = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(length, self.num_heads))

    @torch.no_grad()
    def fit(self, window: Size) -> None:
        """Resample the bias table for windows of this size."""
        if window != self.window:
            table = resize_bias_table(self.relative_position_bias_table, self.window, window)
            self.relative_position_bias_table = nn.Parameter(table)
            self.window = window

    def bias(self, window: Size) -> Tensor:
        """The bias of the scores in a window. For a smaller window than the table's, timm resamples
        the table; transformers uses the inner part of it.  -> (1, A, N, N)"""
        table: Tensor = self.relative_position_bias_table
        size = self.window
        if self.is_resampled and window != size:
            table, size = resize_bias_table(table, size, window), window
        return bias_of_pairs(table, size, window)


class CosineAttention(WindowAttention):
    """Version 2: cosines with a learned scale for each head, and biases that an MLP computes from
    relative positions. Queries and values have a bias, keys have none."""

    scale = 1.0

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__(config, stage, qkv_bias=False)
        dim = config.dims[stage]
        self.logit_scale = nn.Parameter(torch.full((self.num_heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(
            SmallLinear(2, POSITION_WIDTH),
            nn.ReLU(),
            SmallLinear(POSITION_WIDTH, self.num_heads, bias=False),
        )
        self.q_bias = nn.Parameter(torch.zeros(dim)) if config.qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if config.qkv_bias else None
        pretrained = config.pretrained_windows
        self.pretrained = pretrained[stage] if pretrained and all(pretrained[stage]) else None

    def bias(self, window: Size) -> Tensor:
        """The bias of the scores in a window, from 0 to 16.  -> (1, A, N, N)"""
        distances = log_distances(window, self.pretrained or window, self.logit_scale)
        table = 16 * torch.sigmoid(self.cpb_mlp(distances))
        return bias_of_pairs(table, window, window)

    def _project(self, x: Tensor) -> Tensor:
        """(B, n, N, D) -> (B, n, N, 3*D)"""
        projected: Tensor = self.qkv(x)
        if self.q_bias is None or self.v_bias is None:
            return projected
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return projected + bias.to(projected.dtype)

    def _compared(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Scale both to a length of 1, and queries by the head's scale, of at most 100. In fp16 a
        key of zeros, as padding has, would become NaN, so this is in fp32.
        (B*n, A, N, d) twice -> the same"""
        scale = self.logit_scale.clamp(max=math.log(100)).exp()
        unit_q, unit_k = F.normalize(_wide(q), dim=-1), F.normalize(_wide(k), dim=-1)
        return (unit_q * scale).to(q.dtype), unit_k.to(k.dtype)


class SmallLinear(nn.Module):
    """A linear map of a few numbers. LoRA, and the twins of networks, replace every `nn.Linear`,
    but leave this one as it is."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.kaiming_uniform_(self.weight, math.sqrt(5))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., F)"""
        return F.linear(x, self.weight, self.bias)


def log_distances(window: Size, pretrained: Size, like: Tensor) -> Tensor:
    """The relative positions (down, right) in a window, on a logarithmic scale on which the
    farthest one in a window of pre-training is log8(9).  -> ((2h-1)*(2w-1), 2)"""
    sides = []
    for side, before in zip(window, pretrained, strict=True):
        steps = torch.arange(1 - side, side, dtype=torch.float32, device=like.device)
        steps = steps * 8 / max(before - 1, 1)
        sides.append(steps.sign() * torch.log2(steps.abs() + 1) / 3)
    down, right = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([down, right], dim=-1).flatten(0, 1).to(like.dtype)


def bias_of_pairs(table: Tensor, size: Size, window: Size) -> Tensor:
    """The bias of each pair of tokens in a window, from a table for windows of `size`.
    ((2h-1)*(2w-1), A) -> (1, A, N, N)"""
    height, width = window
    rows = torch.arange(height, device=table.device).repeat_interleave(width)
    columns = torch.arange(width, device=table.device).repeat(height)
    down = rows[:, None] - rows + size[0] - 1  # (N, N)
    right = columns[:, None] - columns + size[1] - 1
    pairs = table[down * (2 * size[1] - 1) + right]  # (N, N, A)
    return pairs.permute(2, 0, 1)[None]


def _wide(x: Tensor) -> Tensor:
    """Half precision in fp32; other dtypes stay."""
    return x.float() if x.dtype.itemsize < 4 else x


class SwinBlock(nn.Module):
    """A pre-norm block: attention within windows, then feed-forward, each with a residual."""

    def __init__(self, config: SwinConfig, stage: int, drop_path: float) -> None:
        super().__init__()
        dim, eps = config.dims[stage], config.norm_eps
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = (CosineAttention if config.version == 2 else TableAttention)(config, stage)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = Mlp(dim, config.hidden_dims[stage], config.act, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, h*w, D) -> (B, h*w, D)"""
        return self._joined(x, self.attn(self._cut(x, windows), windows), windows)

    def weights(self, x: Tensor, windows: Windows) -> Tensor:
        """The attention weights.  (B, h*w, D) -> (B, n, A, N, N)"""
        return self.attn.weights(self._cut(x, windows), windows)

    def with_weights(self, x: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """The result of `forward`, and the weights, from which it is computed here.
        (B, h*w, D) -> (B, h*w, D), (B, n, A, N, N)"""
        attended, weights = self.attn.with_weights(self._cut(x, windows), windows)
        return self._joined(x, attended, windows), weights

    def _cut(self, x: Tensor, windows: Windows) -> Tensor:
        return windows.cut(self.norm1(x))

    def _joined(self, x: Tensor, attended: Tensor, windows: Windows) -> Tensor:
        x = x + self.drop_path(self.dropout(windows.joined(attended)))
        out: Tensor = x + self.drop_path(self.dropout(self.mlp(self.norm2(x))))
        return out


class PostNormBlock(SwinBlock):
    """A block of version 2: each norm follows its sublayer, before the residual is added."""

    def _cut(self, x: Tensor, windows: Windows) -> Tensor:
        return windows.cut(x)

    def _joined(self, x: Tensor, attended: Tensor, windows: Windows) -> Tensor:
        x = x + self.drop_path(self.norm1(self.dropout(windows.joined(attended))))
        out: Tensor = x + self.drop_path(self.norm2(self.dropout(self.mlp(x))))
        return out


class PatchMerging(nn.Module):
    """Merges four neighbouring patches into one of twice the width; odd sides are padded with
    zeros. The norm precedes the linear map; with `norms_after`, as in version 2, it follows it."""

    def __init__(self, dim: int, *, norms_after: bool) -> None:
        super().__init__()
        self.norms_after = norms_after
        self.norm = nn.LayerNorm((2 if norms_after else 4) * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor, grid: Size) -> Tensor:
        """(B, h*w, D) -> (B, ceil(h/2)*ceil(w/2), 2*D)"""
        x = partitioned(padded(on_grid(x, grid), grid[0] % 2, grid[1] % 2), (2, 2))
        x = x[:, :, [0, 2, 1, 3]].flatten(2)  # the four patches column by column
        out: Tensor = (
            self.norm(self.reduction(x)) if self.norms_after else self.reduction(self.norm(x))
        )
        return out.to(x.dtype)  # a product of lower precision leaves the residual stream in fp32


class Stage(nn.Module):
    """Blocks on one grid, every second one with shifted windows. All stages but the last end in a
    merge."""

    def __init__(self, config: SwinConfig, stage: int, drop_path: Sequence[float]) -> None:
        super().__init__()
        is_v2 = config.version == 2
        kind = PostNormBlock if is_v2 else SwinBlock
        self.blocks = nn.ModuleList(kind(config, stage, rate) for rate in drop_path)
        self.is_last = stage == config.depth - 1
        if not self.is_last:
            self.downsample = PatchMerging(config.dims[stage], norms_after=is_v2)

    def forward(self, x: Tensor, windows: tuple[Windows, Windows]) -> Tensor:
        """(B, h*w, D) -> (B, h'*w', D')"""
        for number, block in enumerate(self.blocks):
            x = block(x, windows[number % 2])
        return x if self.is_last else self.downsample(x, windows[0].grid)

    def last_block(self, x: Tensor, windows: tuple[Windows, Windows]) -> tuple[SwinBlock, Tensor]:
        """The last block and its input.  (B, h*w, D) -> (B, h*w, D)"""
        *earlier, last = self.blocks
        assert isinstance(last, SwinBlock)
        for number, block in enumerate(earlier):
            x = block(x, windows[number % 2])
        return last, x


class SwinTransformer(nn.Module):
    """A Swin with the methods of `VisionTransformer`. It has no prefix tokens.

    Layers are numbered as transformers' `hidden_states` of Swin: 0 is the embedding, i the output
    of stage i after its merge. The last stage has no merge, so its output has the width and grid of
    the layer before it.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.patch_norm = nn.LayerNorm(config.embed_dim)
        if config.absolute_positions:
            positions = config.grid[0] * config.grid[1]
            self.pos_embed = nn.Parameter(torch.zeros(1, positions, config.embed_dim))
        self.pos_dropout = nn.Dropout(config.dropout)
        rates = iter(torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist())
        self.layers = nn.ModuleList(
            Stage(config, stage, list(islice(rates, depth)))
            for stage, depth in enumerate(config.depths)
        )
        dim, classes = config.dims[-1], config.num_classes
        self.norm = nn.LayerNorm(dim, config.norm_eps)
        self.head = nn.Linear(dim, classes) if classes else nn.Identity()

    @property
    def num_blocks(self) -> int:
        """The number of blocks in all stages."""
        return sum(self.config.depths)

    def block_of(self, name: str) -> int | None:
        """The block of a parameter or module, counted from 1 through all stages; None outside the
        blocks. `layers.1.blocks.0.attn.qkv` is in the first block of the second stage."""
        first, *rest = name.split(".")
        if first != "layers" or rest[1:2] != ["blocks"] or len(rest) < 3:
            return None
        return sum(self.config.depths[: int(rest[0])]) + int(rest[2]) + 1

    def layer_of(self, name: str) -> int:
        """The layer of a parameter or module: 0 before the blocks, i in block i, `num_blocks` + 1
        after the blocks. A merge belongs to the block after it, as in timm, where it begins the
        next stage."""
        first, *rest = name.split(".")
        if first == "layers" and rest[1:2] == ["downsample"]:
            return sum(self.config.depths[: int(rest[0]) + 1]) + 1
        after = 0 if first in STEM else self.num_blocks + 1
        return self.block_of(name) or after

    def is_undecayed(self, name: str) -> bool:
        """Whether a parameter holds positions, relative positions or the scale of a head, which
        weight decay skips although it is not a vector."""
        return (
            name == "pos_embed"
            or name.endswith((".relative_position_bias_table", ".logit_scale"))
            or ".cpb_mlp." in name
        )

    def embed(self, pixels: Tensor) -> Tensor:
        """The input of stage 1.  (B, C, H, W) -> (B, h*w, D)"""
        config = self.config
        if config.window_rule != "timm":
            bottom, right = (
                -side % patch
                for side, patch in zip(pixels.shape[-2:], config.patch_size, strict=True)
            )
            pixels = F.pad(pixels, (0, right, 0, bottom)) if bottom or right else pixels
        x = self.patch_norm(self.patch_embed(pixels))
        if config.absolute_positions:
            grid = self.grid_of(pixels)
            x = x + resize_pos_embed(self.pos_embed, config.grid, grid, 0, config.pos_resize)
        out: Tensor = self.pos_dropout(x)
        return out

    def walk(self, pixels: Tensor) -> Iterator[Tokens]:
        """Iterate over the tokens: the input of stage 1, then the output of each stage, which is
        computed when it is requested.  (B, C, H, W) -> Tokens of layer 0, 1, ...
        """
        x, grid = self.embed(pixels), self.grid_of(pixels)
        yield Tokens(x, 0, grid)
        for number, stage in enumerate(self.layers):
            x = stage(x, windows_of(self.config, number, grid, x))
            grid = grid if number + 1 == self.config.depth else merged(grid)
            yield Tokens(x, 0, grid)

    def hidden_states(self, pixels: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """The tokens after each of `layers`, without the final norm.
        (B, C, H, W) -> {layer: Tokens}

        Stages after the last requested layer are not computed.
        """
        walked = zip(range(max(layers) + 1), self.walk(pixels))  # noqa: B905  # stops at the range
        return {number: tokens for number, tokens in walked if number in layers}

    def attention(self, pixels: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """The attention weights in the last block of these stages, counted from 1: transformers'
        `attentions`, by image and window.  (B, C, H, W) -> {stage: (B, n, A, N, N)}

        Windows may be shifted, and their N tokens include padding.
        """
        before = self.hidden_states(pixels, [layer - 1 for layer in layers])
        return {layer: self.stage_weights(layer, before[layer - 1])[0] for layer in layers}

    def stage_weights(self, layer: int, before: Tokens) -> tuple[Tensor, Windows]:
        """The attention weights in the last block of a stage, from the stage's input, and the
        block's windows.  (B, h*w, D) -> (B, n, A, N, N)"""
        stage = self.stage(layer)
        windows = windows_of(self.config, layer - 1, before.grid, before.x)
        own = windows[(len(stage.blocks) - 1) % 2]
        block, x = stage.last_block(before.x, windows)
        return block.weights(x, own), own

    def stage(self, layer: int) -> Stage:
        """Return a stage by its number, counted from 1."""
        stage = self.layers[layer - 1]
        assert isinstance(stage, Stage)
        return stage

    def tokens(self, pixels: Tensor) -> Tokens:
        """The last layer after the final norm.  (B, C, H, W) -> Tokens"""
        last = self.config.depth
        tokens = self.hidden_states(pixels, [last])[last]
        return replace(tokens, x=self.norm(tokens.x))

    def pool(self, tokens: Tokens, how: Pooling) -> Tensor:
        """One vector for each image, (B, D), for mean; (B, N, D) for patches and tokens."""
        return tokens.x.mean(dim=1) if how == "mean" else tokens.x

    def features(
        self, pixels: Tensor, layers: Sequence[int], pool: Pooling, norm: bool = True
    ) -> Tensor:
        """Pooled hidden states, concatenated in the order of `layers`.
        (B, C, H, W) -> (B, ..., sum of D)

        `norm` applies the final norm to the last layer, the only one for which it was trained.
        """
        states = self.hidden_states(pixels, layers)
        last = self.config.depth
        if norm and last in states:
            states[last] = replace(states[last], x=self.norm(states[last].x))
        return torch.cat([self.pool(states[layer], pool) for layer in layers], dim=-1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits; without a classifier the pooled embedding.  (B, C, H, W) -> (B, K)"""
        return self.logits(self.hidden_states(pixels, self.head_layers))

    @property
    def head_layers(self) -> range:
        """The layers that the head reads: only the last."""
        return range(self.config.depth, self.config.depth + 1)

    def logits(self, states: Mapping[int, Tokens]) -> Tensor:
        """Apply the head to the last layer, not yet normed.  {layer: Tokens} -> (B, K)"""
        logits: Tensor = self.head(self.norm(states[self.config.depth].x).mean(dim=1))
        return logits

    def grid_of(self, pixels: Tensor) -> Size:
        """Patches (h, w) of pixels (B, C, H, W)."""
        height, width = pixels.shape[-2:]
        return self.config.grid_of((height, width))

    @torch.no_grad()
    def resize(self, image_size: Size) -> None:
        """Change the model's image size to (height, width). Resample the position embeddings and,
        under timm's window rule, the bias tables of windows whose size changes."""
        old, new = self.config, self.config.resized(image_size)
        if old.absolute_positions:
            pos = resize_pos_embed(self.pos_embed, old.grid, new.grid, 0, old.pos_resize)
            self.pos_embed = nn.Parameter(pos.clone())
        for module in self.modules():
            if isinstance(module, TableAttention):
                module.fit(new.tables[module.stage])
        self.config = new
