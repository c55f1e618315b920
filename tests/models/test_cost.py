"""Parameters and multiply-adds from the config alone, against counting the real thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitcli.checkpoints.load import load
from vitcli.models.config import ViTConfig
from vitcli.models.cost import cost, multiply_adds
from vitcli.models.shapes import count_of
from vitcli.models.swin_config import SwinConfig
from vitcli.models.vit import VisionTransformer

TINY = ViTConfig(
    image_size=(48, 80),
    patch_size=(8, 16),
    embed_dim=32,
    depth=3,
    num_heads=4,
    hidden_dim=96,
    num_classes=7,
)
VARIANTS = {
    "plain": TINY,
    "no head": replace(TINY, num_classes=0),
    "one channel": replace(TINY, in_chans=1),
    "odd size": replace(TINY, image_size=(50, 90)),
    "distilled": replace(TINY, dist_token=True, dist_head=True, pos_prefix=2),
    "registers": replace(TINY, num_registers=4, layer_scale=True),
    "swiglu": replace(TINY, ffn="swiglu", act="silu"),
    "no biases": replace(TINY, qkv_bias=False, patch_bias=False, pre_norm=True),
    "class beside mean": replace(TINY, pool="cls+mean"),
    "mean": replace(TINY, pool="mean", final_norm="pooled", class_token=False, pos_prefix=0),
    "map": replace(TINY, pool="map", class_token=False, pos_prefix=0),
    "merging": replace(TINY, merge_tokens=4, num_registers=2),
    "merging, map": replace(TINY, pool="map", class_token=False, pos_prefix=0, merge_tokens=12),
    "summary": replace(
        TINY,
        num_class_tokens=3,
        num_registers=2,
        summary=(0, 2),
        pos_prefix=0,
        pos_grid=(9, 9),
        pos_resize="bilinear-square",
    ),
}
SIZES = {
    "B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "L": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
}


@pytest.fixture(params=VARIANTS)
def config(request: pytest.FixtureRequest) -> ViTConfig:
    return VARIANTS[request.param]


def test_parameters_are_those_of_the_network(config: ViTConfig) -> None:
    with torch.device("meta"):
        network = VisionTransformer(config)
    assert count_of(config) == sum(p.numel() for p in network.parameters())


def test_multiply_adds_are_half_of_the_counted_flops(config: ViTConfig) -> None:
    plain = VisionTransformer(replace(config, merge_tokens=0)).requires_grad_(False).eval()
    network = plain.with_merging(config.merge_tokens)
    pixels = torch.zeros(1, config.in_chans, *config.image_size)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        network(pixels)
    assert 2 * multiply_adds(config) == counter.get_total_flops()


@pytest.mark.parametrize("window", [8, 16])
def test_parameters_of_swin_v2_tiny_are_those_of_transformers(window: int) -> None:
    """And 5.9 G with windows of 8, 6.6 G with windows of 16, as the paper says."""
    theirs = transformers.Swinv2Config(image_size=256, window_size=window, num_labels=1000)
    with torch.device("meta"):
        count = transformers.Swinv2ForImageClassification(theirs).num_parameters()
    ours = SwinConfig(
        image_size=(256, 256),
        patch_size=(4, 4),
        embed_dim=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        hidden_dims=(384, 768, 1536, 3072),
        window_sizes=((window, window),) * 4,
        window_image=(256, 256),
        window_rule="hf-v2",
        version=2,
        num_classes=1000,
    )
    assert count_of(ours) == count
    assert cost(ours).gflops == pytest.approx({8: 5.9, 16: 6.6}[window], abs=0.05)


@pytest.mark.parametrize(
    "family", ["vit", "deit", "deit-distilled", "dinov2-classifier", "dinov2-reg-classifier"]
)
def test_parameters_of_tiny_models_are_those_of_transformers(
    tiny_model: Callable[[str], Path], family: str
) -> None:
    model = load(str(tiny_model(family)))
    kind = transformers.AutoConfig.from_pretrained(tiny_model(family)).architectures[0]
    theirs = getattr(transformers, kind).from_pretrained(tiny_model(family))
    unused = {"mask_token"}  # of pre-training: read, and dropped
    count = sum(
        p.numel() for n, p in theirs.named_parameters() if n.rpartition(".")[2] not in unused
    )
    assert count_of(model.config) == count


@pytest.mark.parametrize(
    ("size", "patch", "image"), [("B", 16, 224), ("B", 32, 384), ("L", 16, 384)]
)
def test_parameters_of_published_sizes_are_those_of_transformers(
    size: str, patch: int, image: int
) -> None:
    sizes = SIZES[size]
    width = sizes["hidden_size"]
    theirs = transformers.ViTConfig(
        **sizes, intermediate_size=4 * width, patch_size=patch, image_size=image, num_labels=1000
    )
    with torch.device("meta"):
        count = transformers.ViTForImageClassification(theirs).num_parameters()
    ours = ViTConfig(
        image_size=(image, image),
        patch_size=(patch, patch),
        embed_dim=width,
        depth=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        hidden_dim=4 * width,
        num_classes=1000,
    )
    assert count_of(ours) == count


def test_vit_b_16_costs_what_the_papers_say() -> None:
    """17.6 G with the products of attention, about 16.9 G without; 86.6 M parameters."""
    config = ViTConfig(
        image_size=(224, 224),
        patch_size=(16, 16),
        embed_dim=768,
        depth=12,
        num_heads=12,
        hidden_dim=3072,
        num_classes=1000,
    )
    price = cost(config)
    assert round(price.gflops, 1) == 17.6
    assert round(price.parameters / 1e6, 1) == 86.6
    products = 12 * 2 * 197 * 197 * 768
    assert (price.multiply_adds - products) / 1e9 == pytest.approx(16.9, abs=0.06)
