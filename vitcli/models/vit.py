"""The Vision Transformer: normalised pixels into tokens, an embedding, or logits.

One class for ViT (arXiv 2010.11929), DeiT (2012.12877), DINOv2 with and without registers
(2304.07193, 2309.16588), DINOv3 (2508.10104), MAE's encoder, BEiT (2106.08254), EVA-02
(2303.11331), Perception Encoder (2504.13181), and the vision towers of CLIP (2103.00020) and SigLIP
(2303.15343): the differences are options of `ViTConfig`. Parameter names are those of timm's
`vision_transformer.py`, which most checkpoints have.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, repeat

import torch
from torch import Tensor, nn

from vitcli.models.config import ViTConfig
from vitcli.models.fields import Pooling
from vitcli.models.layers import AttentionPool, Block, CosineHead, PatchEmbed, norm_of
from vitcli.models.merging import merging_blocks, size_bias, unmergeable
from vitcli.models.pos_embed import resize_pos_embed
from vitcli.models.positions import (
    Position,
    RelativePositions,
    RotaryEmbedding,
    Rotation,
    resize_relative,
)
from vitcli.records import Size

TOKENS = ("cls_token", "dist_token", "register_tokens")  # in this order
STEM = ("patch_embed", "norm_pre", "pos_embed", "rope", "rel_pos", *TOKENS)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The output of a layer: `x` (B, T + h*w, D), the prefix length T and the grid (h, w).

    Where tokens are merged, there are fewer of them, and `sizes` (B, N) are the numbers of tokens
    that they stand for.
    """

    x: Tensor
    num_prefix: int
    grid: Size
    sizes: Tensor | None = None

    @property
    def prefix(self) -> Tensor:
        """Class, distillation and register tokens, in this order.  (B, T, D)"""
        return self.x[:, : self.num_prefix]

    @property
    def patches(self) -> Tensor:
        """Patch tokens, row by row of the grid.  (B, h*w, D)"""
        return self.x[:, self.num_prefix :]

    @property
    def mean(self) -> Tensor:
        """The mean of the patch tokens; a merged one counts as often as its size.  (B, D)"""
        if self.sizes is None:
            return self.patches.mean(dim=1)
        shares = self.sizes[:, self.num_prefix :] / (self.grid[0] * self.grid[1])
        return (self.patches * shares[..., None]).sum(dim=1).to(self.x.dtype)


class VisionTransformer(nn.Module):
    """A ViT. Each kind of feature has a method of its own, so `forward` needs no flags."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config)
        if config.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, config.num_class_tokens, dim))
        if config.dist_token:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, dim))
        if config.num_registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.num_registers, dim))
        positions = config.pos_prefix + config.table_grid[0] * config.table_grid[1]
        if config.pos_embed:
            self.pos_embed = nn.Parameter(torch.zeros(1, positions, dim))
        if config.rope:
            heads = config.num_heads
            self.rope = RotaryEmbedding(config.rope, config.depth, heads, dim // heads)
        if config.rel_bias != "none":
            self.rel_pos = RelativePositions(config)
        self.pos_dropout = nn.Dropout(config.dropout)
        self.norm_pre = norm_of(config, dim, is_there=config.pre_norm)
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = merging_blocks([Block(config, rate) for rate in rates], config)
        self.norm = norm_of(config, dim, is_there=config.final_norm == "tokens")
        if config.pool == "map":
            self.attn_pool = AttentionPool(config)
        self.fc_norm = norm_of(config, dim, is_there=config.final_norm == "pooled")
        classes = config.num_classes
        self.head: nn.Module = nn.Linear(config.pooled_dim, classes) if classes else nn.Identity()
        if config.cosine_head:
            self.head = CosineHead(torch.zeros(classes, config.joint_dim), torch.zeros(classes))
        width = config.projection
        bias = config.projection_bias
        self.proj = nn.Linear(config.pooled_dim, width, bias) if width else nn.Identity()
        if config.dist_head:
            self.head_dist = nn.Linear(dim, classes)

    @property
    def num_blocks(self) -> int:
        return self.config.depth

    def block_of(self, name: str) -> int | None:
        """The block of a parameter or module: 1 for `blocks.0.attn.qkv` and for the first block's
        table of relative positions, None outside the blocks."""
        first, *rest = name.split(".")
        of_blocks = ("blocks", "rel_pos") if self.config.rel_bias == "block" else ("blocks",)
        return int(rest[0]) + 1 if first in of_blocks and rest else None

    def layer_of(self, name: str) -> int:
        """The layer of a parameter or module: 0 before the blocks, i in block i, `num_blocks` + 1
        after the blocks."""
        after = 0 if name.split(".")[0] in STEM else self.num_blocks + 1
        return self.block_of(name) or after

    def is_undecayed(self, name: str) -> bool:
        """Whether a parameter is a token or position embedding, which weight decay skips although
        it is not a vector."""
        undecayed = (*TOKENS, "pos_embed", "rope.freqs", "attn_pool.latent")
        return name in undecayed or name.startswith("rel_pos.")

    def embed(self, pixels: Tensor) -> Tensor:
        """The input of block 1.  (B, C, H, W) -> (B, T + h*w, D)

        The image may have any size from one patch up: position embeddings are resampled for it.
        """
        return self.place(self.patch_embed(pixels), self.grid_of(pixels))

    def place(self, patches: Tensor, grid: Size) -> Tensor:
        """Add positions to embedded patches, and put the prefix tokens before them.

        (B, h*w, D) -> (B, T + h*w, D)
        """
        x, prefix = patches, self._prefix()
        if self.config.pos_embed:
            pos = self._positions_for(grid)
            covered = self.config.pos_prefix
            x = x + pos[:, covered:]
            if prefix is not None and covered:
                placed = prefix[:, :covered] + pos[:, :covered]
                prefix = torch.cat([placed, prefix[:, covered:]], dim=1)
        elif self.config.fixed_grid:
            self.config.check_grid(grid)
        if prefix is not None:
            x = torch.cat([prefix.expand(x.shape[0], -1, -1), x], dim=1)
        out: Tensor = self.norm_pre(self.pos_dropout(x))
        return out

    def positions(self, grid: Size, device: torch.device) -> Iterator[Position]:
        """The positions of a grid's tokens for the attention of each block. Rotations that all
        blocks share are computed once."""
        config = self.config
        rotations: Iterator[Rotation | None] = repeat(None)
        biases: Iterator[Tensor | None] = repeat(None)
        if config.rope:
            rotations = cycle(self.rope(grid, config.num_prefix, device))
        if config.rel_bias != "none":
            biases = self.rel_pos.biases(config.grid, grid, config.rel_resize)
        if config.rel_bias == "shared":
            biases = repeat(next(biases))
        return (Position(next(rotations), next(biases)) for _ in range(config.depth))

    def through(self, x: Tensor, grid: Size) -> Iterator[Tensor]:
        """Iterate over the output of each block, computed when it is requested.
        (B, T + h*w, D) -> (B, T + h*w, D), ..."""
        for block, position in zip(self.blocks, self.positions(grid, x.device), strict=True):
            x = block(x, position)
            yield x

    def walk(self, pixels: Tensor) -> Iterator[Tokens]:
        """Iterate over the raw residual stream: the input of block 1, then the output of each
        block, computed when it is requested.  (B, C, H, W) -> Tokens of layer 0, 1, ...
        """
        tokens = self._tokens(self.embed(pixels), pixels)
        yield tokens
        if self.config.merge_tokens:
            yield from self.merging(tokens)
            return
        for x in self.through(tokens.x, tokens.grid):
            yield replace(tokens, x=x)

    def merging(self, tokens: Tokens) -> Iterator[Tokens]:
        """Iterate over the output of each block, which merges similar tokens (`models/merging.py`).
        Tokens -> Tokens of layer 1, 2, ..."""
        x, sizes = tokens.x, torch.ones(tokens.x.shape[:2], device=tokens.x.device)
        for block in self.blocks:
            x, sizes = block(x, sizes)
            yield replace(tokens, x=x, sizes=sizes)

    def hidden_states(self, pixels: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """The raw residual stream after each of `layers`.  (B, C, H, W) -> {layer: Tokens}

        Layers are numbered as Hugging Face's `hidden_states`: 0 is the embedding, i the output of
        block i. Blocks after the last requested layer are not computed.
        """
        walked = zip(range(max(layers) + 1), self.walk(pixels))  # noqa: B905  # stops at the range
        return {number: tokens for number, tokens in walked if number in layers}

    def attention(self, pixels: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """The attention weights of these blocks, counted from 1: Hugging Face's `attentions`. Rows
        sum to 1.  (B, C, H, W) -> {block: (B, A, N, N)}
        """
        states = self.hidden_states(pixels, [layer - 1 for layer in layers])
        positions = list(self.positions(self.grid_of(pixels), pixels.device))
        return {
            layer: self.block(layer).weights(states[layer - 1].x, positions[layer - 1])
            for layer in layers
        }

    def block(self, layer: int) -> Block:
        """Return a block by its number, counted from 1."""
        block = self.blocks[layer - 1]
        assert isinstance(block, Block)
        return block

    def tokens(self, pixels: Tensor) -> Tokens:
        """The last layer after the final norm.  (B, C, H, W) -> Tokens

        In a model whose norm comes after pooling (`final_norm="pooled"`), the tokens stay unnormed.
        """
        tokens = self._last(pixels)
        return replace(tokens, x=self.norm(tokens.x))

    def pool(self, tokens: Tokens, how: Pooling) -> Tensor:
        """One vector for each image, (B, D); (B, 2*D) for cls+mean; (B, N', D) for patches, tokens.
        The class tokens of a summary are joined, not averaged.

        `mean`, `map` and `patches` use the patch tokens alone; `map` also the prefix tokens if the
        config's `pool_prefix` is set.
        """
        match how:
            case "cls":
                return self.class_token_of(tokens)
            case "mean":
                return tokens.mean
            case "cls+mean":
                return torch.cat([self.class_token_of(tokens), tokens.mean], dim=-1)
            case "map":
                read = self.pooled_tokens(tokens)
                bias = None
                if tokens.sizes is not None:
                    bias = size_bias(tokens.sizes[:, -read.shape[1] :]).to(read.dtype)
                pooled: Tensor = self.attn_pool(read, bias)
                return pooled
            case "patches":
                return tokens.patches
            case "tokens":
                return tokens.x

    def class_token_of(self, tokens: Tokens) -> Tensor:
        """The class token, the mean of several, or the tokens of a summary, joined.
        (B, D) or (B, n*D)"""
        if self.config.summary:
            return tokens.x[:, list(self.config.summary)].flatten(1)
        count = self.config.num_class_tokens
        return tokens.x[:, 0] if count == 1 else tokens.x[:, :count].mean(dim=1)

    def pooled_tokens(self, tokens: Tokens) -> Tensor:
        """The tokens that the attention pooling reads.  (B, N', D)"""
        return tokens.x if self.config.pool_prefix else tokens.patches

    def features(
        self, pixels: Tensor, layers: Sequence[int], pool: Pooling, norm: bool = True
    ) -> Tensor:
        """Pooled hidden states, concatenated in the order of `layers`.
        (B, C, H, W) -> (B, ..., n*D)

        `norm` applies the model's final norm to each layer, before or after pooling as in the
        model. If the model's norm comes after pooling, `patches` and `tokens` stay unnormed.
        """
        states = self.hidden_states(pixels, layers)
        parts = []
        for layer in layers:
            tokens = states[layer]
            if norm:
                tokens = replace(tokens, x=self.norm(tokens.x))
            pooled = self.pool(tokens, pool)
            if norm and pool not in ("patches", "tokens"):
                halves = torch.split(pooled, self.config.embed_dim, dim=-1)
                pooled = torch.cat([self.fc_norm(half) for half in halves], dim=-1)
            parts.append(pooled)
        return torch.cat(parts, dim=-1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits; without a classifier the pooled embedding.  (B, C, H, W) -> (B, K)

        A CLIP tower with its projection returns the projected embedding, (B, projection), not
        scaled to unit length: HF's `image_embeds`. `features` omits the projection.
        """
        return self.logits(self.hidden_states(pixels, self.head_layers))

    @property
    def head_layers(self) -> range:
        """The layers that the head reads: the last, or the last few."""
        depth = self.config.depth
        return range(depth - self.config.head_blocks + 1, depth + 1)

    def logits(self, states: Mapping[int, Tokens], pooled: Tensor | None = None) -> Tensor:
        """Apply the head to the raw hidden states of `head_layers`. It reads the class tokens of
        the earlier layers, then the pooled last layer (or `pooled`).  {layer: Tokens} -> (B, K)
        """
        *earlier, last = (self.before_head(states[layer]) for layer in self.head_layers)
        if pooled is None:
            pooled = self.pool(last, self.config.pool)
        parts = [*(self.class_token_of(tokens) for tokens in earlier), self.fc_norm(pooled)]
        logits: Tensor = self.head(self.proj(torch.cat(parts, dim=-1)))
        if self.config.dist_head:
            logits = (logits + self.head_dist(last.x[:, 1])) / 2
        return logits

    def with_cosine_head(self, weight: Tensor, bias: Tensor) -> VisionTransformer:
        """Return a network of the same parameters with another head, a `CosineHead`.
        weight: (K, E), bias: (K,)"""
        network = copy.copy(self)
        network._modules = {**self._modules, "head": CosineHead(weight, bias)}
        network.config = replace(self.config, num_classes=len(weight), cosine_head=True)
        return network

    def with_merging(self, count: int) -> VisionTransformer:
        """Return a network of the same parameters whose blocks each merge `count` pairs of similar
        patch tokens, at most half of them, or the network itself for 0.

        The tokens that are left form no grid: the network has pooled features alone.
        """
        if not count:
            return self
        assert unmergeable(self.config) is None
        network = copy.copy(self)
        network.config = replace(self.config, merge_tokens=count)
        blocks = [self.block(layer) for layer in range(1, self.config.depth + 1)]
        network._modules = {**self._modules, "blocks": merging_blocks(blocks, network.config)}
        return network

    def before_head(self, tokens: Tokens) -> Tokens:
        """The hidden state as pooling and head read it: normed if `head_norm` is set."""
        return replace(tokens, x=self.norm(tokens.x)) if self.config.head_norm else tokens

    def grid_of(self, pixels: Tensor) -> Size:
        """Patches (h, w) of pixels (B, C, H, W)."""
        patch_height, patch_width = self.config.patch_size
        return pixels.shape[-2] // patch_height, pixels.shape[-1] // patch_width

    @torch.no_grad()
    def resize(self, image_size: Size) -> None:
        """Change the model's image size to (height, width), and resample the position embeddings
        for it."""
        new = self.config.resized(image_size)
        if self.config.pos_embed and self.config.pos_grid is None:
            self.pos_embed = nn.Parameter(self._positions_for(new.grid).clone())
        if self.config.rel_bias != "none":
            old, how = self.config.grid, self.config.rel_resize
            for number, table in enumerate(self.rel_pos):
                resized = resize_relative(table, old, new.grid, how)
                self.rel_pos[number] = nn.Parameter(resized.clone())
        self.config = new

    def _positions_for(self, grid: Size) -> Tensor:
        """The table of positions for a grid.  -> (1, pos_prefix + h*w, D)"""
        config = self.config
        config.check_grid(grid)
        return resize_pos_embed(
            self.pos_embed, config.table_grid, grid, config.pos_prefix, config.pos_resize
        )

    def _last(self, pixels: Tensor) -> Tokens:
        """The last layer before the final norm.  (B, C, H, W) -> Tokens"""
        depth = self.config.depth
        return self.hidden_states(pixels, [depth])[depth]

    def _tokens(self, x: Tensor, pixels: Tensor) -> Tokens:
        return Tokens(x, self.config.num_prefix, self.grid_of(pixels))

    def _prefix(self) -> Tensor | None:
        """The class, distillation and register tokens that the model has.  (1, T, D)"""
        tokens = [getattr(self, name) for name in TOKENS if hasattr(self, name)]
        return torch.cat(tokens, dim=1) if tokens else None


class EncoderDecoder(nn.Module):
    """A Vision Transformer with a decoder of masked pre-training. Its layers are the encoder's."""

    def __init__(self, encoder: VisionTransformer) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def num_blocks(self) -> int:
        return self.encoder.num_blocks

    def block_of(self, name: str) -> int | None:
        """The encoder's block of a parameter or module; None in the decoder."""
        part, _, name = name.partition(".")
        return self.encoder.block_of(name) if part == "encoder" else None

    def layer_of(self, name: str) -> int:
        """The encoder's layer of a parameter or module; the decoder comes after the blocks."""
        part, _, name = name.partition(".")
        return self.encoder.layer_of(name) if part == "encoder" else self.num_blocks + 1

    def is_undecayed(self, name: str) -> bool:
        """Whether a parameter is a token or position embedding, which weight decay skips although
        it is not a vector."""
        part, _, name = name.partition(".")
        if part == "encoder":
            return self.encoder.is_undecayed(name)
        return name in ("mask_token", "pos_embed")
