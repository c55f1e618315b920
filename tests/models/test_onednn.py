"""The network in oneDNN's hands against the plain one, over everything that a config can say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.fixtures.cpu import needs_bf16, needs_int8
from tests.fixtures.tiny import randomise
from vitcli.errors import DeviceError
from vitcli.models import onednn
from vitcli.models.config import ViTConfig
from vitcli.models.network import Network
from vitcli.models.prepare import Prepared, prepare
from vitcli.models.swin import SwinTransformer
from vitcli.models.swin_config import SwinConfig
from vitcli.models.vit import VisionTransformer
from vitcli.records import PixelArray, Preprocess

SIZE = (48, 40)
PLAN = Preprocess(
    size=SIZE, resize=SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), source="given"
)
SWIN = {
    "image_size": SIZE,
    "patch_size": (4, 4),
    "embed_dim": 16,
    "depths": (2, 2, 1),
    "num_heads": (2, 4, 8),
    "hidden_dims": (64, 128, 256),
    "window_sizes": ((4, 4), (4, 4), (3, 3)),
    "num_classes": 7,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one-head": {"num_heads": 1},
    "heads-of-12": {"embed_dim": 48},
    "patch-not-square": {"patch_size": (8, 4)},
    "remainder": {"patch_size": (7, 9)},
    "no-patch-bias": {"patch_bias": False},
    "no-qkv-bias": {"qkv_bias": False},
    "gelu-tanh": {"act": "gelu_tanh"},
    "quick-gelu": {"act": "quick_gelu", "pre_norm": True, "head_norm": False},
    "relu": {"act": "relu"},
    "silu": {"act": "silu"},
    "swiglu": {"ffn": "swiglu", "num_registers": 4, "layer_scale": True},
    "distilled": {"dist_token": True, "dist_head": True, "pos_prefix": 2},
    "projection": {"num_classes": 0, "projection": 24},
    "map": {"pool": "map", "class_token": False, "pos_prefix": 0},
    "cls+mean": {"pool": "cls+mean", "num_classes": 0},
    "norm-after-pooling": {"pool": "mean", "final_norm": "pooled"},
    "merging": {"merge_tokens": 4, "pool": "cls+mean"},
    "merging-map": {"merge_tokens": 5, "pool": "map", "class_token": False, "pos_prefix": 0},
    "merging-no-k-bias": {"merge_tokens": 3, "qkv_bias": False, "qv_bias": True},
    "swin": SWIN,
    "swin-v2": {**SWIN, "version": 2, "pretrained_windows": ((6, 6), (0, 0), (2, 2))},
    "swin-timm-remainder": {**SWIN, "window_rule": "timm", "patch_size": (7, 9)},
    "swin-hf-remainder": {**SWIN, "patch_size": (7, 9)},
}
INT8 = pytest.param({"quantize": "int8"}, marks=needs_int8)
needs_onednn = pytest.mark.skipif(
    not onednn.supports(torch.float32), reason="this CPU or PyTorch has no such products"
)
pytestmark = needs_onednn


def make(**options: Any) -> Network:
    if "depths" in options:
        return randomised(SwinTransformer(SwinConfig(**options)))
    sizes = {
        "image_size": SIZE,
        "patch_size": (8, 8),
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 4,
        "hidden_dim": 80,
        "num_classes": 7,
    }
    return randomised(VisionTransformer(ViTConfig(**sizes | options)))


def randomised(network: Network) -> Network:
    randomise(network)
    return network.eval()


@pytest.fixture(scope="module", params=VARIANTS)
def network(request: pytest.FixtureRequest) -> Network:
    return make(**VARIANTS[request.param])


@pytest.fixture(scope="module")
def batch() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)


def logits(network: Network, pixels: Tensor) -> Tensor:
    return network(pixels)


def expected(network: Network, batch: PixelArray) -> Tensor:
    with torch.inference_mode():
        return network(prepare(network, PLAN, "cpu").pixels(batch))


def cosine(ours: Tensor, theirs: Tensor) -> float:
    return torch.cosine_similarity(ours, theirs, dim=-1).min().item()


def test_fp32_logits_are_those_of_the_plain_network(
    network: Network, batch: NDArray[np.uint8]
) -> None:
    ours = prepare(network, PLAN, "cpu").run(logits, batch)
    torch.testing.assert_close(ours, expected(network, batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"patch_size": (7, 9)}], ids=["whole", "remainder"])
def test_pixels_that_were_resized_as_floats_are_taken(options: dict[str, Any]) -> None:
    network, plan = make(**options), replace(PLAN, resizer="floats")
    batch = np.random.default_rng(0).uniform(0, 255, (3, *SIZE, 3)).astype(np.float32)
    kept = batch.copy()
    ours = prepare(network, plan, "cpu").run(logits, batch)
    torch.testing.assert_close(ours, expected(network, batch), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(batch, kept)


def test_the_fp32_residual_stream_is_that_of_the_plain_network(
    network: Network, batch: NDArray[np.uint8]
) -> None:
    prepared = prepare(network, PLAN, "cpu")

    def every_token(network: Network, pixels: Tensor) -> Tensor:
        return network.features(pixels, [network.config.depth], "tokens", norm=False)

    with torch.inference_mode():
        plain = every_token(network, prepared.pixels(batch))
    torch.testing.assert_close(prepared.run(every_token, batch), plain, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("how", "least"),
    [
        pytest.param("bf16", 0.9995, marks=needs_bf16),
        pytest.param("int8", 0.99, marks=needs_int8),
    ],
)
def test_low_precision_points_the_same_way(
    how: str, least: float, network: Network, batch: NDArray[np.uint8]
) -> None:
    options: dict[str, Any] = {"dtype": "bf16"} if how == "bf16" else {"quantize": "int8"}
    if getattr(network.config, "merge_tokens", 0):
        least = 0.9  # where pairs are nearly as similar, rounding decides which are merged
    ours = prepare(network, PLAN, "cpu", **options).run(logits, batch)
    assert ours.dtype == torch.float32
    assert cosine(ours, expected(network, batch)) > least


@pytest.mark.parametrize("options", [{}, {"dtype": "bf16"}, INT8], ids=str)
def test_the_network_that_is_given_stays_as_it_is(
    options: dict[str, Any], batch: NDArray[np.uint8]
) -> None:
    network = make()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    kinds = [type(module) for module in network.modules()]
    prepare(network, PLAN, "cpu", **options).run(logits, batch)
    assert [type(module) for module in network.modules()] == kinds
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)


def test_the_numbers_do_not_depend_on_how_a_batch_is_parted(
    batch: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(make(), PLAN, "cpu")
    whole = prepared.run(logits, batch)
    monkeypatch.setattr("vitcli.models.prepare.MAX_VALUES", 1)
    torch.testing.assert_close(prepared.run(logits, batch), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"dtype": "bf16"}, INT8], ids=str)
def test_threads_of_their_own_give_the_numbers_of_one_and_the_same_bits_every_time(
    options: dict[str, Any], batch: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitcli.models.prepare.MAX_VALUES", 1)  # an image each
    prepared, before = prepare(make(), PLAN, "cpu", **options), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            found.append(prepared.run(logits, batch))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    alone, together, again = found
    assert torch.equal(together, again)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"dtype": "bf16"}, INT8], ids=str)
def test_a_batch_gives_the_same_bits_every_time(
    options: dict[str, Any], batch: NDArray[np.uint8]
) -> None:
    first, second = (prepare(make(), PLAN, "cpu", **options).run(logits, batch) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("scores", [1, 1000, 5000])
def test_attention_is_the_same_for_any_number_of_heads_at_a_time(
    scores: int, batch: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(make(), PLAN, "cpu", "bf16")
    whole = prepared.run(logits, batch)
    monkeypatch.setattr(onednn, "SCORES", scores)
    torch.testing.assert_close(prepared.run(logits, batch), whole, atol=0.02, rtol=0)


@pytest.mark.parametrize("scores", [1, 1000, 5000])
def test_sizes_count_in_low_precision_for_any_number_of_heads_at_a_time(
    scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 4, 9, 8, generator=draw) for _ in range(3))
    bias = torch.randn(3, 1, 1, 9, generator=draw)
    expected = nn.functional.scaled_dot_product_attention(q, k, v, bias, scale=1.0)
    monkeypatch.setattr(onednn, "SCORES", scores)
    ours = onednn.attend(*(t.flatten(0, 1) for t in (q, k, v)), bias)
    torch.testing.assert_close(ours.view(3, 4, 9, 8), expected, atol=1e-6, rtol=0)


@needs_int8
def test_int8_products_are_as_exact_as_8_bits_allow() -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=draw) for s in ((3, 9, 64), (32, 64), (32,)))
    weight *= torch.logspace(-3, 3, 32)[:, None]  # each output has a scale of its own
    ours = onednn.Int8Linear(weight, bias, None, torch.float32)(x)
    exact = nn.functional.linear(x, weight, bias)
    error = (ours - exact).norm(dim=(0, 1)) / exact.norm(dim=(0, 1))
    assert error.max() < 0.02


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_int8_inputs_of_one_value_have_a_range(value: float) -> None:
    weight = torch.eye(8)
    ours = onednn.Int8Linear(weight, None, None, torch.float32)(torch.full((2, 8), value))
    torch.testing.assert_close(ours, torch.full((2, 8), value), atol=1e-5, rtol=1e-5)


def test_without_the_operators_the_plain_network_runs(
    batch: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, notes = make(), []
    monkeypatch.setattr(onednn, "supports", lambda dtype, int8=False: False)
    prepared = prepare(network, PLAN, "cpu", note=notes.append)
    assert torch.equal(prepared.run(logits, batch), expected(network, batch))
    assert len(notes) == 1
    assert "oneDNN" in notes[0]


def test_operators_that_are_missing_or_wrong_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> Tensor:
        raise NotImplementedError("no such kernel")

    supports = onednn.supports.__wrapped__
    assert supports(torch.float32)
    for forward in (broken, lambda self, x: torch.zeros(len(x), 32)):
        monkeypatch.setattr(onednn.PackedLinear, "forward", forward)
        assert not supports(torch.float32)


def test_int8_where_there_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "supports", lambda dtype, int8=False: False)
    with pytest.raises(DeviceError, match="no int8 kernels"):
        prepare(make(), PLAN, "cpu", quantize="int8")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"quantize": "int8"}, "not faster", marks=needs_int8),
        pytest.param({"dtype": "bf16"}, "--dtype fp32 is faster", marks=needs_bf16),
        ({"dtype": "fp16"}, "--dtype fp32 is faster"),
        ({"compile": True}, "--compile"),
        ({}, None),
    ],
)
def test_what_this_cpu_is_not_made_for_is_said(
    options: dict[str, Any], says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "has", lambda *instructions: False)
    notes: list[str] = []
    prepare(make(), PLAN, "cpu", note=notes.append, **options)
    assert len(notes) == (says is not None)
    assert says is None or says in notes[0]


def test_an_int8_capable_cpu_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "has", lambda *instructions: True)
    notes: list[str] = []
    prepared: Prepared = prepare(make(), PLAN, "cpu", quantize="int8", note=notes.append)
    assert prepared.dtype == torch.float32
    assert not notes
