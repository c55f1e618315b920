"""How many matrix products a machine does at the most: what no network can outrun on it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from vitcli.engines import DtypeName, Quantize
from vitcli.models import onednn
from vitcli.models.config import Config
from vitcli.models.cost import cost
from vitcli.models.prepare import choose_device, choose_dtype

SIDE = 2048  # on a CPU: its three matrices stay in the caches, and it is large for the overhead
SIDE_ON_GPU = 8192
LEAST = 3  # products, however slow they are


@torch.inference_mode()
def matmul_flops(
    dtype: DtypeName = "fp32",
    device: str = "cpu",
    *,
    quantize: Quantize | None = None,
    seconds: float = 0.5,
) -> float:
    """Floating-point (or int8) operations a second of a large product, the best of many in a row.

    A multiply-add counts two. Weights are laid out beforehand, as `onednn` does it, and nothing
    but the product is timed. The first product is not counted. With as many threads as torch has.

    Raises DeviceError for a device that is not here, RuntimeError where torch has no such product.
    """
    target = choose_device(device)
    kind = choose_dtype(dtype, target)
    side = SIDE if target.type == "cpu" else SIDE_ON_GPU
    product = _product(kind, target, side, quantize)
    wait = _waiting(target)
    best, spent, rounds = float("inf"), -1.0, 0
    while rounds <= LEAST or spent < seconds:
        started = time.perf_counter()
        product()
        wait()
        took = time.perf_counter() - started
        if rounds:
            best, spent = min(best, took), max(spent, 0.0) + took
        rounds += 1
    return 2 * side**3 / best


def share_of_limit(config: Config, images_per_second: float, flops: float) -> float:
    """What part of `matmul_flops` a network uses that does so many images: 1 is all of it."""
    return 2 * cost(config).multiply_adds * images_per_second / flops


def _product(
    dtype: torch.dtype, device: torch.device, side: int, quantize: Quantize | None
) -> Callable[[], Tensor]:
    if quantize == "int8":
        return _bytes_product(side)
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(side, side, generator=draw).to(device, dtype) for _ in range(2))
    if device.type == "cpu" and onednn.supports(dtype):
        linear = onednn.PackedLinear(weight, None, None, dtype)
        return lambda: linear(x)
    return lambda: torch.nn.functional.linear(x, weight)


def _bytes_product(side: int) -> Callable[[], Tensor]:
    """What `onednn.Int8Linear` does, without making bytes of its input."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 255, (side, side), dtype=torch.uint8, generator=draw)
    weight = torch.randint(-127, 127, (side, side), dtype=torch.int8, generator=draw)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    scales, zeros = torch.ones(side), torch.zeros(side, dtype=torch.int8)
    scale, zero = 1 / 127, 128
    multiply: Callable[..., Tensor] = torch.ops.onednn.qlinear_pointwise
    return lambda: multiply(
        *(x, scale, zero, packed, scales, zeros, None),
        *(1.0, 0, torch.bfloat16, "none", [], ""),
    )


def _waiting(device: torch.device) -> Callable[[], None]:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None
