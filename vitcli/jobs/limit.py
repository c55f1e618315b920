"""Measure the rate of large matrix products on this machine: the upper limit for any network."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor

from vitcli.engines import DtypeName, Quantize
from vitcli.models import onednn
from vitcli.models.config import Config
from vitcli.models.cost import cost
from vitcli.models.prepare import choose_device, choose_dtype

SIDE = 2048  # on a CPU: large enough to hide the overhead, and three matrices fit the caches
SIDE_ON_GPU = 8192
MIN_PRODUCTS = 3
WIDTH, ROWS = 768, 340  # of a thread's products: a ViT-B's, for nearly two images


@torch.inference_mode()
def matmul_flops(
    dtype: DtypeName = "fp32",
    device: str = "cpu",
    *,
    quantize: Quantize | None = None,
    seconds: float = 0.5,
) -> float:
    """Return the floating-point (or int8) operations per second of the fastest of several products.

    A multiply-add counts as two. Only the product is timed: weights are packed before, as in
    `onednn`, and the first product is a warm-up. Each product uses all of torch's threads.

    Raises DeviceError for a device that this machine lacks, RuntimeError if torch has no such
    product.
    """
    target = choose_device(device)
    side = SIDE if target.type == "cpu" else SIDE_ON_GPU
    product = _product(choose_dtype(dtype, target), target, side, quantize)
    wait = _synchronise(target)
    times: list[float] = []
    while len(times) <= MIN_PRODUCTS or sum(times[1:]) < seconds:
        started = time.perf_counter()
        product()
        wait()
        times.append(time.perf_counter() - started)
    return 2 * side**3 / min(times[1:])


def thread_rates(precision: Literal["bf16", "int8"]) -> tuple[float, float] | None:
    """The operations per second of one thread at small products, in fp32 and in a precision; None
    if they are not both of the CPU's own and of oneDNN's.

    The time is the thread's own, so that other work on the machine matters little. The products of
    the two precisions take turns. All take less than 50 ms on an idle machine.
    """
    native = {
        "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
        "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
    }
    has_bf16 = onednn.has(*native["bf16"])
    result = torch.bfloat16 if has_bf16 else torch.float32
    if not onednn.has(*native[precision]) or not onednn.supports(torch.float32):
        return None
    if not onednn.supports(result, int8=precision == "int8"):
        return None
    with ThreadPoolExecutor(1) as thread:
        threads = torch.get_num_threads()
        try:
            return thread.submit(_thread_rates, precision, result).result()
        finally:
            torch.set_num_threads(threads)


@torch.inference_mode()
def _thread_rates(precision: str, result: torch.dtype) -> tuple[float, float]:
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(rows, WIDTH, generator=draw) for rows in (WIDTH, ROWS))
    exact = onednn.PackedLinear(weight, None, None, torch.float32)
    kind = onednn.Int8Linear if precision == "int8" else onednn.PackedLinear
    products = ((exact, x), (kind(weight, None, None, result), x.to(result)))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + MIN_PRODUCTS):
        for (product, rows), spent in zip(products, times, strict=True):
            started = time.thread_time()
            product(rows)
            spent.append(time.thread_time() - started)
    fp32, fast = (2 * ROWS * WIDTH**2 / max(min(spent[1:]), 1e-9) for spent in times)
    return fp32, fast


def share_of_limit(config: Config, images_per_second: float, flops: float) -> float:
    """The share of `matmul_flops` that a network uses at a rate of images; 1 means all of it."""
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
    """The product of `onednn.Int8Linear`, without the quantisation of its input."""
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


def _synchronise(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has finished."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None
