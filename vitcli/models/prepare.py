"""A loaded network made ready to run: device, dtype, layout, quantisation, compilation, in this
order and nowhere else; then uint8 pixels into what is asked of the network."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from threading import Barrier
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitcli.engines import DtypeName, Quantize
from vitcli.errors import DeviceError
from vitcli.models import onednn
from vitcli.models.config import Config, ViTConfig
from vitcli.models.network import Network
from vitcli.processes import rank_of
from vitcli.records import Preprocess

Ask: TypeAlias = Callable[[Network, Tensor], Tensor]
"""What is wanted of a network for its pixels: the logits, say, or some of its features."""
Part = TypeVar("Part")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

AT_ONCE = 5 << 18  # values in the widest layer: small enough for caches and for malloc to keep


class Prepared:
    """A network on its device, and the normalisation that its pixels need.

    `run` is the way to results. `network` is the plain network in the same dtype, for who wants
    to look inside; it takes what `pixels` makes.
    """

    def __init__(
        self,
        network: Network,
        plan: Preprocess,
        device: torch.device,
        dtype: torch.dtype,
        *,
        packed: Network | None = None,
        compile: bool = False,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self._given = network
        self._packed = packed
        self._compile = compile
        self._scale = 1 / plan.rescale  # a division, as torchvision's: 1/255 is not exact
        self._mean = torch.tensor(plan.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(plan.std, device=device).view(3, 1, 1)

    @cached_property
    def network(self) -> Network:
        """The caller's own where device and dtype are those it has."""
        first = next(self._given.parameters())
        if (first.device, first.dtype) == (self.device, self.dtype) and not self._compile:
            return self._given
        network = copy.deepcopy(self._given).to(device=self.device, dtype=self.dtype)
        if self.device.type == "cuda":  # as the pixels come, and as its convolutions like them
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._compile:
            compile_layers(network)
        return network

    def pixels(self, batch: NDArray[np.uint8]) -> Tensor:
        """Normalise in fp32, then cast.  uint8 (B, H, W, 3) -> (B, 3, H, W)

        Equal, bit for bit, to transformers' Pillow backend and to timm's ToTensor + Normalize.
        """
        return self.normalised(batch).to(self.dtype)

    @torch.inference_mode()
    def run(self, ask: Ask, batch: NDArray[np.uint8]) -> Tensor:
        """What is asked, of a batch of any size, on the CPU in fp32.
        uint8 (B, H, W, 3) -> (B, ...)"""
        network = self.runs

        @torch.inference_mode()  # of each thread
        def asked(part: slice) -> Tensor:
            return ask(network, self.input_of(batch[part])).float().cpu()

        return torch.cat(self.each(asked, len(batch)))

    def each(self, work: Callable[[slice], Part], count: int) -> list[Part]:
        """`work` on every part of a batch of `count` images, in their order.

        A CPU takes a few images at a time: what they need stays in its caches, and the memory of
        one part serves the next. The parts of a batch depend on its size and the model alone.
        Each is the work of one thread, as long as there are parts for all: threads that share
        every operation wait for the last of them, the more so where images are decoded meanwhile.
        """
        some = _at_once(self._given.config) if self.device.type == "cpu" else count
        parts = [slice(i, i + some) for i in range(0, count, some)]
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or not 1 < threads <= len(parts):
            return list(map(work, parts))
        return list(_single_threads(threads).map(work, parts))

    @property
    def runs(self) -> Network:
        """The network that runs: oneDNN's twin of it, or `network` itself. It takes what `input_of`
        makes, and has no gradients."""
        return self.network if self._packed is None else self._packed

    def input_of(self, batch: NDArray[np.uint8]) -> Tensor:
        """What the network that runs takes.  uint8 (B, H, W, 3) -> (B, 3, H, W)"""
        if self._packed is None:
            return self.pixels(batch)
        if onednn.takes_bytes(self._packed):
            return self._moved(batch)
        return self.normalised(batch)

    @cached_property
    def exact(self) -> Network:
        """The plain network in fp32 on its device, for gradients."""
        first = next(self._given.parameters())
        if (first.device, first.dtype) == (self.device, torch.float32):
            return self._given
        return copy.deepcopy(self._given).to(device=self.device, dtype=torch.float32)

    def normalised(self, batch: NDArray[np.uint8]) -> Tensor:
        """In fp32, whatever the dtype of the network.  uint8 (B, H, W, 3) -> (B, 3, H, W)"""
        x = self._moved(batch).float()
        return x.div_(self._scale).sub_(self._mean).div_(self._std)

    def _moved(self, batch: NDArray[np.uint8]) -> Tensor:
        """uint8 (B, H, W, 3) -> uint8 (B, 3, H, W) on the device, channels last in memory"""
        x = torch.from_numpy(batch)
        if self.device.type == "cuda":
            x = x.pin_memory()
        return x.to(self.device, non_blocking=True).permute(0, 3, 1, 2)


def compile_layers(network: nn.Module) -> None:
    """Compile each layer of its lists of layers: they are alike, and one compilation serves all."""
    for layers in network.children():
        if isinstance(layers, nn.ModuleList):
            for layer in layers:
                layer.compile()


def prepare(
    network: Network,
    plan: Preprocess,
    device: str = "auto",
    dtype: DtypeName = "fp32",
    *,
    quantize: Quantize | None = None,
    compile: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Raises DeviceError for what this machine or this PyTorch does not have; `note` hears what
    was asked for in vain."""
    target = choose_device(device)
    kind = choose_dtype(dtype, target)
    if quantize or _packs(target, kind, note):
        packed = _packed(network, plan, target, kind, quantize, note)
        if compile:
            note("--compile: on this CPU the network is made of oneDNN's products, as it would be")
        return Prepared(network, plan, target, kind, packed=packed)
    return Prepared(network, plan, target, kind, compile=compile and can_compile(target, note))


def _packs(device: torch.device, dtype: torch.dtype, note: Callable[[str], None]) -> bool:
    """Whether the network runs on oneDNN's products."""
    if device.type != "cpu":
        return False
    native = {torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"), torch.float16: ("avx512_fp16",)}
    if dtype in native and not onednn.has(*native[dtype]):
        name = next(name for name, kind in DTYPES.items() if kind == dtype)
        note(f"this CPU has no {name} instructions: --dtype fp32 is faster here, and more exact")
    if dtype == torch.float16:
        return False
    if not onednn.supports(dtype):
        note("this PyTorch or CPU lacks oneDNN's products: the run is slower than it could be")
        return False
    return True


def _packed(
    network: Network,
    plan: Preprocess,
    device: torch.device,
    dtype: torch.dtype,
    quantize: Quantize | None,
    note: Callable[[str], None],
) -> Network:
    if quantize is None:
        return onednn.repacked(network, plan, dtype)
    between = torch.bfloat16 if onednn.has("avx512_bf16", "amx_bf16") else torch.float32
    if device.type != "cpu":
        raise DeviceError(
            f"--quantize int8 is for a CPU, and this is {device}",
            "use --dtype fp16, or --device cpu",
        )
    if not onednn.supports(between, int8=True):
        raise DeviceError(
            f"PyTorch {torch.__version__} has no int8 products for this CPU",
            "leave out --quantize int8",
        )
    if not onednn.has("avx512_vnni", "avx_vnni", "amx_int8"):
        note("this CPU has no int8 instructions (VNNI): --quantize int8 is not faster here")
    return onednn.repacked(network, plan, between, int8=True)


def can_compile(device: torch.device, note: Callable[[str], None]) -> bool:
    """Whether `torch.compile` finds what it needs, such as a C++ compiler: tried on a trifle."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except RuntimeError as error:
        note(f"--compile cannot be done here, and the run goes on without: {_first_line(error)}")
        return False
    return True


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@cache
def _single_threads(count: int) -> ThreadPoolExecutor:
    """Threads in each of which torch works alone; what it does elsewhere stays as it is."""
    threads = ThreadPoolExecutor(count, "network")
    all_are_there = Barrier(count)

    def alone(_: int) -> None:
        torch.set_num_threads(1)  # of this thread, and of those to come
        all_are_there.wait()

    list(threads.map(alone, range(count)))
    torch.set_num_threads(count)
    return threads


def _at_once(config: Config) -> int:
    """Images that a CPU takes together."""
    tokens = config.grid[0] * config.grid[1]
    if isinstance(config, ViTConfig):
        return max(1, AT_ONCE // ((config.num_prefix + tokens) * config.hidden_dim))
    return max(1, AT_ONCE // (tokens * config.hidden_dims[0]))


def choose_device(name: str) -> torch.device:
    """auto: CUDA, else Apple's MPS, else the CPU; under torchrun each process has its own CUDA."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if has_cuda else "mps" if has_mps else "cpu"
        rank = rank_of(os.environ).local_rank
        if has_cuda and rank is not None:
            name = f"cuda:{rank % torch.cuda.device_count()}"
    kind, _, number = name.partition(":")
    if kind == "cuda" and not has_cuda:
        raise DeviceError("no CUDA device is available", "use --device cpu")
    if kind == "mps" and not has_mps:
        raise DeviceError("MPS is not available", "use --device cpu")
    if kind not in ("cpu", "cuda", "mps") or (number and (kind != "cuda" or not number.isdigit())):
        raise DeviceError(f"unknown device {name!r}", "known are auto, cpu, cuda, cuda:N, mps")
    if number and int(number) >= torch.cuda.device_count():
        raise DeviceError(f"no device {name}: there are {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """auto: half precision where the device is made for it, fp32 on a CPU."""
    if name == "auto":
        name = {"cuda": "fp16", "mps": "fp16"}.get(device.type, "fp32")  # type: ignore[assignment]
    return DTYPES[name]
