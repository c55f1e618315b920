"""Maps of where a network looks, from normalised pixels: one value for each patch.

A map is the query's row of weights over all tokens, without the class, distillation and register
tokens. The query is the class token, one patch or, in a model without a class token, the mean of
all patches. SigLIP's attention pooling has its own query, and counts as a layer after the last
block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from vitcli.models.network import Network
from vitcli.models.positions import Position
from vitcli.models.swin import SwinBlock, SwinTransformer
from vitcli.models.vit import Tokens, VisionTransformer
from vitcli.models.windows import Windows, windows_of
from vitcli.records import Size

Fusion: TypeAlias = Literal["mean", "max", "min"]
Heads: TypeAlias = Fusion | Literal["all"] | int


@dataclass(frozen=True, slots=True)
class AttentionMaps:
    """Maps by layer, (B, n, h, w), one for each head or one for all; and the logits, (B, K), if
    requested."""

    maps: dict[int, Tensor]
    logits: Tensor | None = None


def raw(
    network: Network,
    pixels: Tensor,
    layers: Sequence[int],
    heads: Heads = "mean",
    points: Tensor | None = None,
    *,
    wants_logits: bool = False,
) -> AttentionMaps:
    """The raw attention of `layers`: of a ViT's blocks, of the last block of a Swin's stages, or of
    the attention pooling, which follows the last block.  (B, C, H, W) -> AttentionMaps

    `points` (B, 2) are queries: places in the image, down and to the right, from 0 to 1. Only the
    queries' rows are computed, and without `wants_logits` only the network before the last layer.
    """
    depth = network.config.depth
    end = depth if wants_logits else max(layers) - 1
    maps: dict[int, Tensor] = {}
    states: dict[int, Tokens] = {}
    positions = _positions(network, pixels)
    for number, tokens in zip(range(end + 1), network.walk(pixels)):  # noqa: B905  # the range ends
        if number + 1 in layers:
            rows = _query_rows(network, number + 1, tokens, points, positions)
            maps[number + 1] = fused(rows, heads)
        if wants_logits and number in network.head_layers:
            states[number] = tokens
    return AttentionMaps(
        {layer: maps[layer] for layer in layers}, network.logits(states) if wants_logits else None
    )


def rollout(
    network: VisionTransformer,
    pixels: Tensor,
    layers: Sequence[int],
    heads: Fusion = "mean",
    points: Tensor | None = None,
    *,
    discard: float = 0.0,
    wants_logits: bool = False,
) -> AttentionMaps:
    """The product of the attention of blocks 1 to each layer.  (B, C, H, W) -> AttentionMaps

    Abnar & Zuidema, arXiv 2005.00928. In each block the heads are fused, the smallest weights (the
    share `discard`) are set to 0, the identity is added for the residual, and rows are normalised
    to sum to 1 over all tokens. Only one matrix is kept, whatever the depth.
    """
    depth, prefix = network.config.depth, network.config.num_prefix
    end = depth if wants_logits else min(max(layers) - 1, depth)
    maps: dict[int, Tensor] = {}
    states: dict[int, Tokens] = {}
    product: Tensor | None = None
    positions = _positions(network, pixels)
    for number, tokens in zip(range(end + 1), network.walk(pixels)):  # noqa: B905  # the range ends
        if wants_logits and number in network.head_layers:
            states[number] = tokens
        if number < depth and number < max(layers):
            weights = network.block(number + 1).weights(tokens.x, positions[number])
            step = _with_residual(_discarded(fused(weights, heads)[:, 0], discard))
            product = step if product is None else step @ product
            if number + 1 in layers:
                rows = _rows(network, tokens, points)
                images = torch.arange(len(product))
                if rows is None:
                    row = product[:, prefix:].mean(dim=1)
                else:
                    row = product[images[:, None], rows].mean(dim=1)
                maps[number + 1] = _on_grid(row[:, None, prefix:], tokens.grid)
        if number == depth and depth + 1 in layers:
            assert product is not None
            pooling = fused(_pooling(network, tokens), heads)[:, 0]
            pooled = pooling @ product[:, -pooling.shape[-1] :]
            maps[depth + 1] = _on_grid(pooled[..., prefix:], tokens.grid)
    return AttentionMaps(
        {layer: maps[layer] for layer in layers}, network.logits(states) if wants_logits else None
    )


def similarity(
    network: Network,
    pixels: Tensor,
    layers: Sequence[int],
    points: Tensor | None = None,
    *,
    wants_logits: bool = False,
) -> AttentionMaps:
    """The cosine similarity between each patch and the query, in each layer's output after the
    final norm.  (B, C, H, W) -> AttentionMaps"""
    wanted = {*layers, *(network.head_layers if wants_logits else ())}
    states = network.hidden_states(pixels, sorted(wanted))
    maps = {}
    for layer in layers:
        tokens = states[layer]
        has_norm = isinstance(network, VisionTransformer) or layer == network.config.depth
        x = network.norm(tokens.x) if has_norm else tokens.x
        patches = x[:, tokens.num_prefix :]
        if points is not None:
            query = patches[torch.arange(len(x)), _index(points, tokens.grid)]
        else:
            query = patches.mean(dim=1)
            if isinstance(network, VisionTransformer) and network.config.class_token:
                query = x[:, list(network.config.pooled_tokens)].mean(dim=1)
        cosine = F.cosine_similarity(patches.float(), query[:, None].float(), dim=-1)
        maps[layer] = _on_grid(cosine[:, None], tokens.grid)
    return AttentionMaps(maps, network.logits(states) if wants_logits else None)


def relevance(network: Network, pixels: Tensor, classes: Tensor | None = None) -> AttentionMaps:
    """The relevance of each patch to a class, from gradients and attention.
    (B, C, H, W) -> AttentionMaps

    Chefer et al., ICCV 2021, arXiv 2103.15679. `classes` is (B,); None means the best class.

    In each block the weights are multiplied by the gradient of the class's logit with respect to
    them, negative values are set to 0, heads are averaged, and the identity is added for the
    residual. The map is the row of the head's input in the product over all blocks. The product is
    computed from the last block to the first, and each block is recomputed in its turn, so only one
    block's weights are in memory. A merge of a Swin gives each of its four patches a quarter.
    """
    if isinstance(network, SwinTransformer):
        return _relevance_of_stages(network, pixels, classes)
    with torch.no_grad():
        inputs = [tokens.x for tokens in network.walk(pixels)]
    depth, prefix, grid = network.config.depth, network.config.num_prefix, network.grid_of(pixels)
    states = {n: Tokens(_leaf(inputs[n]), prefix, grid) for n in network.head_layers}
    leaves = [tokens.x for tokens in states.values()]
    with torch.enable_grad():
        if network.config.pool == "map":
            normed = network.before_head(states[depth])
            pooled, pooling = network.attn_pool.with_weights(network.pooled_tokens(normed))
            logits = network.logits(states, pooled)
            *gradients, on_pooling = _gradients(logits, classes, [*leaves, pooling])
            unread = len(inputs[depth][0]) - pooling.shape[-1]  # prefix tokens
            row = F.pad(_positive(pooling, on_pooling)[:, 0], (unread, 0))
        else:
            logits = network.logits(states)
            gradients = [*_gradients(logits, classes, leaves)]
            row = _head_row(network, inputs[depth])
    of_head = dict(zip(states, gradients, strict=True))
    gradient = of_head[depth]
    positions = _positions(network, pixels)
    for number in reversed(range(depth)):
        x = _leaf(inputs[number])
        with torch.enable_grad():
            out, weights = network.block(number + 1).with_weights(x, positions[number])
        gradient, on_weights = torch.autograd.grad(out, (x, weights), gradient)
        row = row + (row[:, None] @ _positive(weights, on_weights))[:, 0]
        if number in of_head:  # a head that reads several blocks
            gradient = gradient + of_head[number]
    return AttentionMaps({depth: _on_grid(row[:, None, prefix:], grid)}, logits.detach())


def _relevance_of_stages(
    network: SwinTransformer, pixels: Tensor, classes: Tensor | None
) -> AttentionMaps:
    """`relevance` for a Swin, where rows are cut into windows as the tokens are."""
    with torch.no_grad():
        states = [Tokens(t.x, 0, t.grid) for t in network.walk(pixels)]
    depth = network.config.depth
    last = Tokens(_leaf(states[depth].x), 0, states[depth].grid)
    with torch.enable_grad():
        logits = network.logits({depth: last})
        [gradient] = _gradients(logits, classes, [last.x])
    row = torch.full_like(last.x[..., 0], 1 / last.x.shape[1]).detach()
    for number in reversed(range(depth)):
        stage, grid = network.stage(number + 1), states[number].grid
        windows = windows_of(network.config, number, grid, pixels)
        with torch.no_grad():
            inputs = [states[number].x]
            for place, block in enumerate(stage.blocks):
                inputs.append(block(inputs[-1], windows[place % 2]))
        if not stage.is_last:
            x = _leaf(inputs[-1])
            with torch.enable_grad():
                merged = stage.downsample(x, grid)
            [gradient] = torch.autograd.grad(merged, (x,), gradient)
            row = _unmerged(row, states[number + 1].grid, grid)
        for place in reversed(range(len(stage.blocks))):
            x, own, block = _leaf(inputs[place]), windows[place % 2], stage.blocks[place]
            assert isinstance(block, SwinBlock)
            with torch.enable_grad():
                out, weights = block.with_weights(x, own)
            gradient, on_weights = torch.autograd.grad(out, (x, weights), gradient)
            row = row + _through(row, _positive(weights, on_weights)[:, :, None], own)[:, 0]
    return AttentionMaps({depth: _on_grid(row[:, None], states[0].grid)}, logits.detach())


def has_class_token(network: Network) -> bool:
    """Whether the network has a class token, which can be the query."""
    return isinstance(network, VisionTransformer) and network.config.class_token


def fused(maps: Tensor, heads: Heads) -> Tensor:
    """Fuse the heads, pick one by its number from 1, or keep all.
    (B, A, ...) -> (B, 1 or A, ...)"""
    match heads:
        case "all":
            return maps
        case "mean":
            return maps.mean(dim=1, keepdim=True)
        case "max":
            return maps.amax(dim=1, keepdim=True)
        case "min":
            return maps.amin(dim=1, keepdim=True)
        case int():
            return maps[:, heads - 1 : heads]


def _positions(network: Network, pixels: Tensor) -> list[Position]:
    """The positions of each block; none for a Swin."""
    if isinstance(network, SwinTransformer):
        return []
    return list(network.positions(network.grid_of(pixels), pixels.device))


def _query_rows(
    network: Network,
    layer: int,
    before: Tokens,
    points: Tensor | None,
    positions: Sequence[Position],
) -> Tensor:
    """The query's row in each head of a layer, from the layer's input.  -> (B, A, h, w)"""
    if isinstance(network, SwinTransformer):
        weights, windows = network.stage_weights(layer, before)
        row = torch.full_like(before.x[..., 0], 1 / before.x.shape[1])
        if points is not None:
            row = F.one_hot(_index(points, before.grid), row.shape[1]).to(row.dtype)
        return _on_grid(_through(row, weights, windows), before.grid)
    if layer > network.config.depth:
        patches = before.grid[0] * before.grid[1]
        return _on_grid(_pooling(network, before)[:, :, 0, -patches:], before.grid)
    block, position = network.block(layer), positions[layer - 1]
    rows = _rows(network, before, points)
    if rows is None:
        row = block.weights(before.x, position)[:, :, before.num_prefix :].mean(dim=2)
    else:
        row = block.weights(before.x, position, rows).mean(dim=2)
    return _on_grid(row[..., before.num_prefix :], before.grid)


def _rows(network: VisionTransformer, tokens: Tokens, points: Tensor | None) -> Tensor | None:
    """The indices of the query's rows, (B, 1), or one for each class token, (B, n); None for the
    mean of all patches."""
    if points is not None:
        return (tokens.num_prefix + _index(points, tokens.grid))[:, None]
    if network.config.class_token:
        own = torch.tensor(network.config.pooled_tokens, device=tokens.x.device)
        return own.expand(len(tokens.x), -1)
    return None


def _head_row(network: VisionTransformer, x: Tensor) -> Tensor:
    """The share of each token in the input of the head.  (B, N, D) -> (B, N)"""
    config = network.config
    row = torch.zeros_like(x[..., 0])
    if "mean" in config.pool:
        row[:, config.num_prefix :] = 1 / (x.shape[1] - config.num_prefix)
    if "cls" in config.pool:
        row[:, list(config.pooled_tokens)] = 1 / len(config.pooled_tokens)
    if config.dist_head:
        row[:, 1] = 1.0
    return row / row.sum(dim=1, keepdim=True)


def _pooling(network: VisionTransformer, last: Tokens) -> Tensor:
    """The weights of the attention pooling, from the last layer.  -> (B, A, 1, N)"""
    weights: Tensor = network.attn_pool.weights(network.pooled_tokens(network.before_head(last)))
    return weights


def _through(row: Tensor, weights: Tensor, windows: Windows) -> Tensor:
    """Multiply a row over all patches by the weights of its windows.
    (B, h*w), (B, n, A, N, N) -> (B, A, h*w)"""
    cut = windows.cut(row[..., None])[:, :, None, None, :, 0]  # (B, n, 1, 1, N)
    product = (cut @ weights)[:, :, :, 0].transpose(2, 3)  # (B, n, N, A)
    return windows.joined(product).transpose(1, 2)


def _unmerged(row: Tensor, merged: Size, grid: Size) -> Tensor:
    """Divide each merged patch's value among its four patches.  (B, h'*w') -> (B, h*w)"""
    spread = (row / 4).reshape(-1, *merged).repeat_interleave(2, 1).repeat_interleave(2, 2)
    return spread[:, : grid[0], : grid[1]].flatten(1)


def _discarded(weights: Tensor, share: float) -> Tensor:
    """Set the smallest weights of each image to 0.  (B, N, N) -> (B, N, N)"""
    flat = weights.flatten(1)
    smallest = flat.topk(int(flat.shape[1] * share), largest=False).indices
    return flat.scatter(1, smallest, 0.0).view_as(weights)


def _with_residual(weights: Tensor) -> Tensor:
    """Add the identity for the residual, and normalise the rows.  (B, N, N) -> (B, N, N)"""
    added = weights + torch.eye(weights.shape[-1], device=weights.device)
    return added / added.sum(dim=-1, keepdim=True)


def _gradients(logits: Tensor, classes: Tensor | None, of: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients of each image's class logit with respect to the tensors `of`."""
    chosen = logits.argmax(dim=1) if classes is None else classes.to(logits.device)
    return torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), of)


def _positive(weights: Tensor, gradients: Tensor) -> Tensor:
    """The heads' mean positive contribution to the class.  (..., A, N, N) -> (..., N, N)"""
    return (weights.detach() * gradients).clamp(min=0).mean(dim=-3)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _index(points: Tensor, grid: Size) -> Tensor:
    """The index of the patch at each point.  (B, 2) -> (B,)"""
    sides = torch.tensor(grid, device=points.device)
    down, across = (
        (points * sides).long().clamp(min=torch.zeros_like(sides), max=sides - 1).unbind(1)
    )
    return down * grid[1] + across


def _on_grid(rows: Tensor, grid: Size) -> Tensor:
    """(B, n, h*w) -> (B, n, h, w)"""
    return rows.reshape(*rows.shape[:2], *grid).float()
