"""The name and shape of each parameter of a network, from its config alone: torch is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Protocol

from vitcli.models.block_config import BlockConfig
from vitcli.models.config import Config, ViTConfig
from vitcli.models.swin_config import POSITION_WIDTH, SwinConfig
from vitcli.models.text_config import TextConfig

Shapes = dict[str, tuple[int, ...]]
Named = Iterator[tuple[str, tuple[int, ...]]]


class Shaped(Protocol):
    """A tensor, lazy or of torch."""

    @property
    def shape(self) -> Sequence[int]: ...

    def is_floating_point(self) -> bool: ...


def shapes_of(config: Config | TextConfig) -> Shapes:
    """The shapes in the order of the network's state dict."""
    return dict(_named(config, is_short=False))


def count_of(config: Config | TextConfig) -> int:
    """The number of parameters."""
    repeats = {"blocks.": config.depth} if isinstance(config, BlockConfig) else {}
    if isinstance(config, SwinConfig):
        repeats = {f"layers.{i}.blocks.": depth for i, depth in enumerate(config.depths)}
    return sum(
        prod(shape) * next((n for at, n in repeats.items() if name.startswith(at)), 1)
        for name, shape in _named(config, is_short=True)
    )


def _named(config: Config | TextConfig, *, is_short: bool) -> Named:
    """The names and shapes; with `is_short`, of the first block alone (in a Swin, of each stage):
    the others are like it."""
    match config:
        case ViTConfig():
            return _vit(config, 1 if is_short else config.depth)
        case SwinConfig():
            return _swin(config, (1,) * config.depth if is_short else config.depths)
    return _text(config, 1 if is_short else config.depth)


def fits(tensors: Mapping[str, Shaped], config: Config | TextConfig) -> bool:
    """Whether the network of a config can be built of these tensors, by names and shapes."""
    return {n: tuple(t.shape) for n, t in tensors.items()} == shapes_of(config) and all(
        tensor.is_floating_point() for tensor in tensors.values()
    )


def relative_rows(grid: tuple[int, int]) -> int:
    """The number of rows of BEiT's table of relative positions."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def _vit(config: ViTConfig, depth: int) -> Named:
    dim, classes, hidden = config.embed_dim, config.num_classes, config.hidden_dim
    if config.class_token:
        yield "cls_token", (1, config.num_class_tokens, dim)
    if config.dist_token:
        yield "dist_token", (1, 1, dim)
    if config.num_registers:
        yield "register_tokens", (1, config.num_registers, dim)
    if config.pos_embed:
        rows, columns = config.table_grid
        yield "pos_embed", (1, config.pos_prefix + rows * columns, dim)
    yield from _patch_embed(config, bias=config.patch_bias)
    if config.patch_norm:
        yield from _norm("patch_embed.norm", dim, config)
    if config.rope and config.rope.mixed:
        width = dim // config.num_heads
        yield "rope.freqs", (2, config.depth, config.num_heads, width // 2)
    if config.rel_bias != "none":
        for number in range(config.depth if config.rel_bias == "block" else 1):
            yield f"rel_pos.{number}", (relative_rows(config.grid), config.num_heads)
    if config.pre_norm:
        yield from _norm("norm_pre", dim, config)
    yield from _blocks(config, depth)
    if config.final_norm == "tokens":
        yield from _norm("norm", dim, config)
    if config.pool == "map":
        yield "attn_pool.latent", (1, 1, dim)
        yield from _linear("attn_pool.q", dim, dim)
        yield from _linear("attn_pool.kv", dim, 2 * dim)
        yield from _linear("attn_pool.proj", dim, dim)
        yield from _norm("attn_pool.norm", dim, config)
        yield from _mlp("attn_pool.mlp", dim, config.pool_hidden_dim or hidden)
    if config.final_norm == "pooled":
        yield from _norm("fc_norm", dim, config)
    if classes:
        yield from _linear("head", config.joint_dim, classes)
    if config.projection:
        width = config.projection
        yield from _linear("proj", config.pooled_dim, width, bias=config.projection_bias)
    if config.dist_head:
        yield from _linear("head_dist", dim, classes)


def _text(config: TextConfig, depth: int) -> Named:
    dim = config.embed_dim
    yield "pos_embed", (1, config.context_length, dim)
    yield "token_embed.weight", (config.vocab_size, dim)
    yield from _blocks(config, depth)
    yield from _norm("norm", dim, config)
    if config.projection:
        yield from _linear("proj", dim, config.projection, bias=config.projection_bias)


def _swin(config: SwinConfig, depths: Sequence[int]) -> Named:
    dim = config.embed_dim
    if config.absolute_positions:
        yield "pos_embed", (1, config.grid[0] * config.grid[1], dim)
    yield from _patch_embed(config, bias=True)
    yield from _norm("patch_norm", dim)
    for stage, width in enumerate(config.dims):
        for number in range(depths[stage]):
            yield from _swin_block(f"layers.{stage}.blocks.{number}", config, stage)
        if stage < config.depth - 1:
            at = f"layers.{stage}.downsample"
            yield from _norm(f"{at}.norm", (2 if config.version == 2 else 4) * width)
            yield from _linear(f"{at}.reduction", 4 * width, 2 * width, bias=False)
    yield from _norm("norm", config.dims[-1])
    if config.num_classes:
        yield from _linear("head", config.dims[-1], config.num_classes)


def _swin_block(at: str, config: SwinConfig, stage: int) -> Named:
    dim, heads = config.dims[stage], config.num_heads[stage]
    yield from _norm(f"{at}.norm1", dim)
    if config.version == 2:
        yield f"{at}.attn.logit_scale", (heads, 1, 1)
        if config.qkv_bias:
            yield from ((f"{at}.attn.{x}_bias", (dim,)) for x in "qv")
        yield from _linear(f"{at}.attn.qkv", dim, 3 * dim, bias=False)
        yield from _linear(f"{at}.attn.proj", dim, dim)
        yield from _linear(f"{at}.attn.cpb_mlp.0", 2, POSITION_WIDTH)
        yield from _linear(f"{at}.attn.cpb_mlp.2", POSITION_WIDTH, heads, bias=False)
    else:
        height, width = config.tables[stage]
        table = (2 * height - 1) * (2 * width - 1)
        yield f"{at}.attn.relative_position_bias_table", (table, heads)
        yield from _linear(f"{at}.attn.qkv", dim, 3 * dim, bias=config.qkv_bias)
        yield from _linear(f"{at}.attn.proj", dim, dim)
    yield from _norm(f"{at}.norm2", dim)
    yield from _mlp(f"{at}.mlp", dim, config.hidden_dims[stage])


def _blocks(config: BlockConfig, depth: int) -> Named:
    dim, hidden = config.embed_dim, config.hidden_dim
    is_gated = config.ffn == "swiglu"
    for number in range(depth):
        at = f"blocks.{number}"
        yield from _norm(f"{at}.norm1", dim, config)
        if config.qv_bias:
            yield from ((f"{at}.attn.{x}_bias", (dim,)) for x in "qv")
        yield from _linear(f"{at}.attn.qkv", dim, 3 * dim, bias=config.qkv_bias)
        if config.attn_norm:
            yield from _norm(f"{at}.attn.norm", dim, config)
        yield from _linear(f"{at}.attn.proj", dim, dim, bias=config.proj_bias)
        if config.layer_scale:
            yield f"{at}.ls1.gamma", (dim,)
        yield from _norm(f"{at}.norm2", dim, config)
        yield from _linear(f"{at}.mlp.fc1", dim, (1 + is_gated) * hidden, bias=config.ffn_bias)
        if config.ffn_norm:
            yield from _norm(f"{at}.mlp.norm", hidden, config)
        yield from _linear(f"{at}.mlp.fc2", hidden, dim, bias=config.ffn_bias)
        if config.layer_scale:
            yield f"{at}.ls2.gamma", (dim,)


def _patch_embed(config: Config, *, bias: bool) -> Named:
    yield "patch_embed.proj.weight", (config.embed_dim, config.in_chans, *config.patch_size)
    if bias:
        yield "patch_embed.proj.bias", (config.embed_dim,)


def _mlp(at: str, dim: int, hidden: int) -> Named:
    yield from _linear(f"{at}.fc1", dim, hidden)
    yield from _linear(f"{at}.fc2", hidden, dim)


def _linear(at: str, inputs: int, outputs: int, *, bias: bool = True) -> Named:
    yield f"{at}.weight", (outputs, inputs)
    if bias:
        yield f"{at}.bias", (outputs,)


def _norm(at: str, dim: int, config: BlockConfig | None = None) -> Named:
    """A norm of the config's kind; without a config a LayerNorm."""
    yield f"{at}.weight", (dim,)
    if config is None or config.norm == "layer":
        yield f"{at}.bias", (dim,)
