"""Positions inside attention, and the rare parts of a block, in every form of the network: plain,
with attention weights, on oneDNN kernels, for training; and their cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vitcli.errors import UsageError
from vitcli.models import attention, onednn
from vitcli.models.block_config import Rope
from vitcli.models.config import ViTConfig
from vitcli.models.shapes import count_of
from vitcli.models.training import with_checkpoints, with_products
from vitcli.models.vit import VisionTransformer
from vitcli.records import Preprocess

SIZES: dict[str, Any] = {
    "image_size": (32, 48),
    "patch_size": (8, 8),
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 4,
    "hidden_dim": 48,
    "num_classes": 5,
}
NO_TABLE = {"pos_embed": False, "pos_prefix": 0}
QV = {"qkv_bias": False, "qv_bias": True, "layer_scale": True}
INDEX = {"coordinates": "index", "columns_first": True, "halves": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "dinov3": {**NO_TABLE, **QV, "rope": Rope(), "num_registers": 2, "ffn": "swiglu"},
    "pe": {
        "rope": Rope(theta=1e4, offset=1, reference=(3, 3), **INDEX),
        "pool": "map",
        "pool_heads": 8,
        "pool_hidden_dim": 64,
        "pool_prefix": True,
        "patch_bias": False,
        "pre_norm": True,
    },
    "mixed": {"rope": Rope(mixed=True, **INDEX), "attn_norm": True, "ffn_norm": True},
    "beit": {**NO_TABLE, **QV, "rel_bias": "block", "pool": "mean", "final_norm": "pooled"},
    "shared": {**NO_TABLE, "rel_bias": "shared", "ffn": "swiglu", "ffn_norm": True},
    "aimv2": {
        "norm": "rms",
        "patch_norm": True,
        "qkv_bias": False,
        "proj_bias": False,
        "ffn_bias": False,
        "ffn": "swiglu",
        "class_token": False,
        "pos_prefix": 0,
        "pool": "mean",
        "final_norm": "none",
    },
    "pixio": {"num_class_tokens": 3, "pos_prefix": 3},
}
PLAN = Preprocess(size=(32, 48), resize=(32, 48), source="test")
PIXELS = torch.randint(0, 256, (2, 3, 32, 48), generator=torch.Generator().manual_seed(1)).byte()


@pytest.fixture(scope="module", params=CONFIGS)
def network(request: pytest.FixtureRequest) -> VisionTransformer:
    """A network whose parameters are all random, with steep attention."""
    torch.manual_seed(0)
    network = VisionTransformer(ViTConfig(**SIZES | CONFIGS[request.param])).eval()
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, std=1.0 if "qkv.weight" in name else 0.4)
    return network


@pytest.fixture
def x() -> torch.Tensor:
    return (PIXELS / 255 - 0.5) / 0.5


def off(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours - expected).abs().mean() / expected.abs().mean())


def test_every_parameter_is_counted_and_in_one_layer(network: VisionTransformer) -> None:
    assert count_of(network.config) == sum(p.numel() for p in network.parameters())
    assert {network.layer_of(name) for name, _ in network.named_parameters()} <= set(range(5))


@torch.inference_mode()
def test_twins_give_the_same_numbers(network: VisionTransformer, x: torch.Tensor) -> None:
    expected, pixels = network(x), PIXELS.to(memory_format=torch.channels_last)
    for dtype, int8, allowed in (
        (torch.float32, False, 1e-5),
        (torch.bfloat16, False, 0.05),
        (torch.bfloat16, True, 0.2),
    ):
        if onednn.supports(dtype, int8=int8):
            assert off(onednn.repacked(network, PLAN, dtype, int8=int8)(pixels), expected) < allowed


def test_maps_come_from_the_same_attention(network: VisionTransformer, x: torch.Tensor) -> None:
    with torch.no_grad():
        expected = network(x)
        for weights in network.attention(x, [1, 3]).values():
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    for found in (
        attention.raw(network, x, [1, 3], wants_logits=True),
        attention.rollout(network, x, [3], wants_logits=True),
        attention.relevance(network, x),
    ):
        assert found.logits is not None and off(found.logits.detach(), expected) < 1e-5
        assert all(maps.shape[2:] == (4, 6) for maps in found.maps.values())


def test_training_twins_have_the_same_gradients(
    network: VisionTransformer, x: torch.Tensor
) -> None:
    parameters_of = [p.requires_grad_(True) for p in network.parameters()]
    expected = torch.autograd.grad(network(x).square().sum(), parameters_of)
    twin = with_checkpoints(with_products(network, torch.float32))
    for ours, theirs in zip(
        torch.autograd.grad(twin(x).square().sum(), parameters_of), expected, strict=True
    ):
        assert off(ours, theirs) < 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        low = with_products(network, torch.bfloat16)(x).float()
    assert off(low.detach(), network(x).detach()) < 0.1
    network.requires_grad_(False)


def test_positions_for_one_grid_alone_refuse_another() -> None:
    network = VisionTransformer(ViTConfig(**SIZES, **NO_TABLE, rope=Rope(), fixed_grid=True))
    for use in (lambda: network(torch.zeros(1, 3, 48, 48)), lambda: network.resize((48, 48))):
        with pytest.raises(UsageError, match="positions for images of 32x48 alone"):
            use()
