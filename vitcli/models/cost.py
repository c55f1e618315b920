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

from vitcli.models.config import Config
from vitcli.models.shapes import count_of
from vitcli.models.swin_config import SwinConfig, merged


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
    return Cost(count_of(config), multiply_adds(config))


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
