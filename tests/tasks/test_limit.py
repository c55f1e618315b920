"""The limit of matrix products: counted as published, and of the kind that was asked for."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
import torch

from tests.fixtures.cpu import needs_int8
from vitcli.jobs import limit
from vitcli.models.config import ViTConfig


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_product_counts_two_operations_for_each_multiply_add(
    dtype: Literal["fp32", "bf16"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes on by a known step for each look: no machine's speed is asserted."""
    clock = itertools.count(step=0.25)
    monkeypatch.setattr(limit.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(limit, "SIDE", 64)
    assert limit.matmul_flops(dtype, seconds=1) == 2 * 64**3 / 0.25


@needs_int8
def test_bytes_are_multiplied_as_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "SIDE", 64)
    assert limit.matmul_flops(quantize="int8", seconds=0) > 0
    product = limit._bytes_product(64)()
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 255, (64, 64), dtype=torch.uint8, generator=draw)
    weight = torch.randint(-127, 127, (64, 64), dtype=torch.int8, generator=draw)
    expected = (x.double() - 128) @ weight.double().T / 127
    torch.testing.assert_close(product.double(), expected, rtol=0.01, atol=1.0)


def test_a_network_at_the_limit_has_a_share_of_one() -> None:
    """ViT-B/16: 17.58 G multiply-adds, as the papers count them."""
    config = ViTConfig(
        image_size=(224, 224),
        patch_size=(16, 16),
        embed_dim=768,
        depth=12,
        num_heads=12,
        hidden_dim=3072,
        num_classes=1000,
    )
    assert limit.share_of_limit(config, 10.0, 10 * 2 * 17.58e9) == pytest.approx(1, rel=2e-3)
