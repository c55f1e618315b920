"""The cost of a network, from its config alone: parameters, and work for one image.

A multiply-add counts as one, as in the "FLOPs" of the papers: ViT-B/16 at 224x224 has 17.6 G. Every
matrix product counts: the patch projection, the q, k, v and output projections, both products of
attention (query with key, weights with value: 0.7 G of the 17.6), the feed-forward, attention
pooling, Swin's merges and the padding of its windows, the comparison and the means of merged
tokens, and the heads. Small parts do not count:
biases, norms, softmax, activations, layer scales, additions, resampled position embeddings, the MLP
of a Swin V2's positions, which runs once for a batch. Tools that leave out the products of
attention report 16.8 or 16.9 G for the same model.
"""

from __future__ import annotations

from dataclasses import dataclass

from vitcli.models.config import Config, ViTConfig
from vitcli.models.swin_config import POSITION_WIDTH, SwinConfig, merged


@dataclass(frozen=True, slots=True)
class Cost:
    """The number of parameters, and multiply-adds for one image at the config's `image_size`."""

    parameters: int
    multiply_adds: int

    @property
    def gflops(self) -> float:
        return self.multiply_adds / 1e9


def cost(config: Config) -> Cost:
    """The cost of the network that `network_of` builds for a config."""
    return Cost(parameters(config), multiply_adds(config))


def parameters(config: Config) -> int:
    """The number of parameters."""
    if isinstance(config, SwinConfig):
        return _swin_parameters(config)
    width, hidden, classes = config.embed_dim, config.hidden_dim, config.num_classes
    of_norm = 1 if config.norm == "rms" else 2  # parameters for each value
    norm = of_norm * width
    inputs = config.in_chans * config.patch_size[0] * config.patch_size[1]
    patch_embed = width * inputs + width * config.patch_bias + norm * config.patch_norm
    table = config.pos_prefix + config.table_grid[0] * config.table_grid[1]
    tokens = width * (config.num_prefix + config.pos_embed * table)
    attention = 3 * width * (width + config.qkv_bias) + 2 * width * config.qv_bias
    attention += width * (width + config.proj_bias) + norm * config.attn_norm
    gated = config.ffn == "swiglu"
    feed_forward = hidden * (1 + gated) * (width + config.ffn_bias)
    feed_forward += width * (hidden + config.ffn_bias) + of_norm * hidden * config.ffn_norm
    block = norm + attention + norm + feed_forward + 2 * width * config.layer_scale
    projection = (config.pooled_dim + config.projection_bias) * config.projection
    pooling = 0
    if config.pool == "map":
        projections = _linear(width, width) + _linear(width, 2 * width) + _linear(width, width)
        hidden = config.pool_hidden_dim or hidden
        pooling = width + projections + norm + _linear(width, hidden) + _linear(hidden, width)
    heads = _linear(config.joint_dim, classes) + _linear(width, classes) * config.dist_head
    norms = norm * config.pre_norm + norm * (config.final_norm != "none")
    outside = patch_embed + tokens + norms + pooling + heads + projection
    return outside + config.depth * block + _positions(config)


def _positions(config: ViTConfig) -> int:
    """The parameters of positions that act inside attention."""
    total = 0
    if config.rope and config.rope.mixed:
        total += config.depth * config.embed_dim
    if config.rel_bias != "none":
        height, width = config.grid
        table = ((2 * height - 1) * (2 * width - 1) + 3) * config.num_heads
        total += table * (config.depth if config.rel_bias == "block" else 1)
    return total


def multiply_adds(config: Config) -> int:
    """The number of multiply-adds in a forward pass for one image."""
    if isinstance(config, SwinConfig):
        return _swin_multiply_adds(config)
    width, hidden, prefix = config.embed_dim, config.hidden_dim, config.num_prefix
    blocks, patches = 0, _patches(config)
    for _ in range(config.depth):
        length = prefix + patches
        blocks += 4 * length * width * width + 2 * length * length * width
        merged = min(config.merge_tokens, patches // 2)
        if config.merge_tokens:
            others = patches - patches // 2
            blocks += others * (patches // 2 * width // config.num_heads + merged * width)
        patches -= merged
        blocks += (prefix + patches) * width * hidden * (3 if config.ffn == "swiglu" else 2)
    pooling = 0
    if config.pool == "map":
        read = prefix * config.pool_prefix + patches
        pooling = 2 * (1 + read) * width * width + 2 * read * width
        pooling += 2 * width * (config.pool_hidden_dim or hidden)
    heads = config.joint_dim * config.num_classes + config.pooled_dim * config.projection
    heads += width * config.dist_head * config.num_classes
    inputs = config.in_chans * config.patch_size[0] * config.patch_size[1]
    return _patches(config) * inputs * width + blocks + pooling + heads


def _swin_parameters(config: SwinConfig) -> int:
    inputs = config.in_chans * config.patch_size[0] * config.patch_size[1]
    first, last = config.dims[0], config.dims[-1]
    total = _linear(inputs, first) + 2 * first + 2 * last + _linear(last, config.num_classes)
    total += first * config.grid[0] * config.grid[1] * config.absolute_positions
    is_v2 = config.version == 2
    for stage, width in enumerate(config.dims):
        (height, breadth), heads = config.tables[stage], config.num_heads[stage]
        table = (2 * height - 1) * (2 * breadth - 1) * heads
        positions = heads + _linear(2, POSITION_WIDTH) + POSITION_WIDTH * heads if is_v2 else table
        biases = (2 if is_v2 else 3) * width * config.qkv_bias
        attention = 3 * width * width + biases + _linear(width, width) + positions
        hidden = config.hidden_dims[stage]
        feed_forward = _linear(width, hidden) + _linear(hidden, width)
        total += config.depths[stage] * (2 * width + attention + 2 * width + feed_forward)
        if stage < config.depth - 1:
            total += 2 * (2 if is_v2 else 4) * width + 4 * width * 2 * width
    return total


def _swin_multiply_adds(config: SwinConfig) -> int:
    inputs = config.in_chans * config.patch_size[0] * config.patch_size[1]
    total = _patches(config) * inputs * config.embed_dim + config.dims[-1] * config.num_classes
    for stage, width in enumerate(config.dims):
        grid = config.layer_grid(stage)
        (height, breadth), _ = config.windows(stage, grid)
        length = height * breadth
        windows = -(-grid[0] // height) * -(-grid[1] // breadth)
        attention = windows * (4 * length * width * width + 2 * length * length * width)
        feed_forward = 2 * grid[0] * grid[1] * width * config.hidden_dims[stage]
        total += config.depths[stage] * (attention + feed_forward)
        if stage < config.depth - 1:
            down, across = merged(grid)
            total += down * across * 4 * width * 2 * width
    return total


def _patches(config: Config) -> int:
    return config.grid[0] * config.grid[1]


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs
