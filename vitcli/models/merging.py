"""Merge similar tokens between a block's attention and its feed-forward, so that there is less to
compute: Token Merging (Bolya et al., arXiv 2210.09461, section 3).

A merged token is the mean of the patch tokens that it stands for. Its size is their number: the
mean is weighted by it, and attention adds its logarithm to the scores of the token's key, as if the
key were there as many times ("proportional attention"). Prefix tokens are not merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitcli.engines import MergeTokens
from vitcli.models.config import Config, ViTConfig
from vitcli.models.cost import multiply_adds
from vitcli.models.layers import Block
from vitcli.models.positions import Position
from vitcli.models.swin_config import SwinConfig

AUTO = 0.65  # of the multiply-adds are left by --merge-tokens auto; see docs/speed.md


class MergingBlock(nn.Module):
    """A `Block` that merges `count` pairs of patch tokens, or half of them if there are fewer."""

    def __init__(self, block: Block, count: int, num_prefix: int) -> None:
        super().__init__()
        self.block = block
        self.count = count
        self.num_prefix = num_prefix

    def forward(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D), (B, N) -> (B, N - count, D), (B, N - count)"""
        block = self.block
        attended, keys = block.attn.with_keys(block.norm1(x), Position(bias=size_bias(sizes)))
        x, sizes = merge(block.joined(x, attended), keys, sizes, self.count, self.num_prefix)
        return block.fed(x), sizes


def merging_blocks(blocks: Sequence[Block], config: ViTConfig) -> nn.ModuleList:
    """The blocks of a network, each in a `MergingBlock` if the config merges tokens."""
    if not config.merge_tokens:
        return nn.ModuleList(blocks)
    count, prefix = config.merge_tokens, config.num_prefix
    return nn.ModuleList(MergingBlock(block, count, prefix) for block in blocks)


def merged_pairs(config: ViTConfig, asked: MergeTokens) -> int:
    """The number of pairs for a network: at most half of its patches. "auto" is the largest number
    that leaves AUTO of its multiply-adds. It follows from the config alone, and a run records
    "auto", so that another rule needs another `ROWS` in `runs/fingerprint.py`."""
    half = config.grid[0] * config.grid[1] // 2
    if asked != "auto":
        return min(asked, half)
    least = AUTO * multiply_adds(config)
    left = {n: multiply_adds(replace(config, merge_tokens=n)) for n in range(half + 1)}
    return max(n for n in left if left[n] >= least)


def size_bias(sizes: Tensor) -> Tensor:
    """The bias that attention adds to the scores of each key.  (B, N) -> (B, 1, 1, N)"""
    return sizes.log()[:, None, None]


def merge(
    x: Tensor, keys: Tensor, sizes: Tensor, count: int, num_prefix: int
) -> tuple[Tensor, Tensor]:
    """Merge the `count` most similar pairs of patch tokens, by bipartite soft matching.
    (B, N, D), (B, A, N, d), (B, N) -> (B, N - count, D), (B, N - count)

    Every second patch token is a source. Its partner is the most similar of the other patch tokens,
    by the cosine of the heads' mean keys. The `count` sources that are most similar to their
    partners are merged into them; several may have the same partner. Of equal similarities, the
    first counts. The result has the prefix, then the sources that are left, then the others.
    """
    _, source_keys, other_keys = _apart(keys.mean(dim=1, dtype=torch.float32), num_prefix)
    cosines = F.normalize(source_keys, dim=-1) @ F.normalize(other_keys, dim=-1).transpose(1, 2)
    similarity, partners = cosines.max(dim=-1)
    order = _from_largest(similarity)
    count = min(count, order.shape[1])
    merged, left = order[:, :count], order[:, count:].sort(dim=-1).values

    prefix_sizes, source_sizes, other_sizes = _apart(sizes, num_prefix)
    places = torch.arange(other_sizes.shape[1], device=x.device)
    joins = partners.gather(1, merged)[:, None] == places[:, None]  # (B, others, count)
    added = joins * source_sizes.gather(1, merged)[:, None]
    totals = other_sizes + added.sum(dim=-1)

    images = torch.arange(x.shape[0], device=x.device)[:, None]
    prefix, sources, others = _apart(x, num_prefix)
    means = others * (other_sizes / totals)[..., None]
    means = means + (added / totals[..., None]) @ sources[images, merged].float()
    tokens = torch.cat([prefix, sources[images, left], means.to(x.dtype)], dim=1)
    return tokens, torch.cat([prefix_sizes, source_sizes.gather(1, left), totals], dim=1)


def _apart(values: Tensor, num_prefix: int) -> tuple[Tensor, Tensor, Tensor]:
    """The prefix, every second patch token, and the others.  (B, N, ...) -> (B, n, ...) thrice"""
    patches = values[:, num_prefix:]
    return values[:, :num_prefix], patches[:, 1::2], patches[:, ::2]


def _from_largest(values: Tensor) -> Tensor:
    """The places of the values, from that of the largest; of equal values, the first place is
    first.  (B, n) -> (B, n)

    A stable sort, by counts: ONNX has none, and exported engines choose the same pairs.
    """
    places = torch.arange(values.shape[1], device=values.device)
    value, other = values[:, :, None], values[:, None]
    is_before = (other > value) | ((other == value) & (places < places[:, None]))
    return is_before.sum(dim=-1).argsort(dim=-1)


def unmergeable(config: Config) -> str | None:
    """The reason why the tokens of a network cannot be merged; None if they can."""
    if isinstance(config, SwinConfig):
        return "a Swin cuts its tokens into windows of the grid"
    if config.rope is not None:
        return "each block rotates its tokens by their positions, and a merged token has several"
    if config.rel_bias != "none":
        return "each block reads the distances of its tokens, and a merged token has several places"
    if config.any_grid:
        return "its images have different numbers of tokens (NaFlex)"
    return None
