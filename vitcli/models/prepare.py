"""Make a loaded network ready to run (device, dtype, memory layout, quantisation, compilation), and
run it on pixels."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
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
from vitcli.models.engine import Output
from vitcli.models.network import Network
from vitcli.models.normalise import Normalisation
from vitcli.processes import rank_of
from vitcli.records import Pixels, Preprocess

Ask: TypeAlias = Callable[[Network, Tensor], Tensor]
"""Computes an output of a network, such as its logits or features, from normalised pixels."""
Part = TypeVar("Part")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# The images that a CPU computes at a time have at most this many values in the widest layer. These
# fit the caches, and malloc reuses their memory.
MAX_VALUES = 5 << 18


class Prepared:
    """A network on its device, and the normalisation of its pixels.

    `run` computes results, with `fast_network` and its input from `fast_input`. `network` is the
    plain network in the run's dtype, for inspection, with its input from `pixels`. `fp32_network`
    is the plain network in fp32, for gradients.
    """

    def __init__(
        self,
        network: Network,
        plan: Preprocess,
        device: torch.device,
        dtype: torch.dtype,
        *,
        on_onednn: Network | None = None,
        compile: bool = False,
    ) -> None:
        """`on_onednn` is a twin of the network on oneDNN kernels, which runs in its place."""
        self.device = device
        self.dtype = dtype
        self._loaded = network
        self._on_onednn = on_onednn
        self._compile = compile
        self._normalise = Normalisation(plan, device)
        self._compiled: dict[tuple[int, ...], int] = {}  # the largest batch of each shape
        self._filled: set[tuple[int, tuple[int, ...]]] = set()  # smaller batches, filled up once

    @cached_property
    def network(self) -> Network:
        """The plain network: the loaded one if it has this device and dtype and is not compiled,
        else a copy."""
        first = next(self._loaded.parameters())
        if (first.device, first.dtype) == (self.device, self.dtype) and not self._compile:
            return self._loaded
        network = copy.deepcopy(self._loaded).to(device=self.device, dtype=self.dtype)
        if self.device.type == "cuda":  # the memory format of the pixels, fast for convolutions
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._compile:
            compile_layers(network)
        return network

    def pixels(self, batch: Pixels) -> Tensor:
        """Normalise in fp32, then cast.  (B, H, W, 3) -> (B, 3, H, W)"""
        return self.normalised(batch).to(self.dtype)

    @torch.inference_mode()
    def run(self, ask: Ask, batch: Pixels) -> Tensor:
        """The output for a batch of any size, in fp32 on the CPU.
        (B, H, W, 3) -> (B, ...)"""
        if self.device.type == "cuda":
            return self.start(ask, batch)()

        @torch.inference_mode()  # the mode is set per thread
        def output(part: slice) -> Tensor:
            return self._output(ask, batch[part]).cpu()

        return torch.cat(self.each(output, len(batch)))

    @torch.inference_mode()
    def start(self, ask: Ask, batch: Pixels) -> Callable[[], Tensor]:
        """Launch the work for a batch on CUDA, and the copy of its output. Return a function that
        waits for the output, in fp32 on the CPU.  (B, H, W, 3) -> (B, ...)"""
        output = self._output(ask, batch)
        copied = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
        copied.copy_(output, non_blocking=True)
        done = torch.cuda.current_stream(self.device).record_event()

        def wait() -> Tensor:
            done.synchronize()
            return copied.clone()  # rows that are kept must not keep pinned memory

        return wait

    def _output(self, ask: Ask, batch: Pixels) -> Tensor:
        """The output in fp32 on the device. A compiled network gets a smaller batch, such as the
        last of a run, filled up to the size that is compiled, unless that size comes again.
        (B, H, W, 3) -> (B, ...)"""
        network, x = self.fast_network, self.fast_input(batch)
        if not self._compile:
            return ask(network, x).float()
        count, shape = len(x), tuple(x.shape[1:])
        size = self._compiled.get(shape, 0)
        if count < size and (count, shape) not in self._filled:
            self._filled.add((count, shape))
            x = torch.cat([x, x[-1:].expand(size - count, *shape)])
        try:
            output = ask(network, x)[:count].float()
        except RuntimeError:  # perhaps out of memory: it is tried again with fewer images
            self._compiled.clear()
            raise
        self._compiled[shape] = max(size, count)
        return output

    def each(self, work: Callable[[slice], Part], count: int) -> list[Part]:
        """Call `work` with each part of a batch of `count` images, and return the results in order.

        A CPU takes a few images at a time: their values stay in its caches, and each part reuses
        the memory of the one before. The parts depend on the batch size and the model alone. If
        there are at least as many parts as threads, each part runs on one thread: threads that
        share an operation wait for the slowest of them, especially while images are decoded.
        """
        size = count
        if self.device.type == "cpu":
            size = max(1, MAX_VALUES // self._loaded.config.widest_layer)
        parts = [slice(i, i + size) for i in range(0, count, size)]
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or not 1 < threads <= len(parts):
            return list(map(work, parts))
        return list(_single_threads(threads).map(work, parts))

    @property
    def fast_network(self) -> Network:
        """The network that runs: the twin on oneDNN kernels, or `network`. It has no gradients."""
        return self.network if self._on_onednn is None else self._on_onednn

    def fast_input(self, batch: Pixels) -> Tensor:
        """The input of `fast_network`.  (B, H, W, 3) -> (B, 3, H, W)"""
        if self._on_onednn is None:
            return self.pixels(batch)
        if onednn.takes_pixels(self._on_onednn):
            return self._moved(batch)
        return self.normalised(batch)

    @cached_property
    def fp32_network(self) -> Network:
        """The plain network in fp32 on its device, for gradients."""
        first = next(self._loaded.parameters())
        if (first.device, first.dtype) == (self.device, torch.float32):
            return self._loaded
        return copy.deepcopy(self._loaded).to(device=self.device, dtype=torch.float32)

    def normalised(self, batch: Pixels) -> Tensor:
        """Normalise in fp32, whatever the network's dtype.  (B, H, W, 3) -> (B, 3, H, W)"""
        normalised: Tensor = self._normalise(self._moved(batch))
        return normalised

    def _moved(self, batch: Pixels) -> Tensor:
        """(B, H, W, 3) -> (B, 3, H, W) of the same dtype on the device, channels last in memory"""
        x = torch.as_tensor(batch)
        if self.device.type == "cuda" and x.device.type == "cpu":
            x = x.pin_memory()
        return x.to(self.device, non_blocking=True).permute(0, 3, 1, 2)


class TorchEngine:
    """Runs a prepared network for one output: the protocol `Engine` of `models/engine.py`."""

    def __init__(self, prepared: Prepared, output: Output) -> None:
        self._prepared = prepared
        self._output = output

    @property
    def starts_ahead(self) -> bool:
        """Whether the device computes a batch while this process does something else."""
        return self._prepared.device.type == "cuda"

    def start(self, pixels: Pixels) -> Callable[[], NDArray[np.float32]]:
        """Launch the work for a batch, and return a function that waits for its output.
        (B, H, W, 3) -> (B, ...)"""
        wait = self._prepared.start(self._output, pixels)
        return lambda: wait().numpy()

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        """(B, H, W, 3) -> (B, ...)"""
        output: NDArray[np.float32] = self._prepared.run(self._output, pixels).numpy()
        return output


def compile_layers(network: nn.Module) -> None:
    """Compile each block or stage of a network. A ViT's blocks share one compilation."""
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
    """Make a network ready to run; `note` gets a message for each option that has no effect.

    Raises DeviceError for a device, dtype or kernel that this machine or PyTorch lacks.
    """
    target = choose_device(device)
    kind = choose_dtype(dtype, target)
    if quantize or _uses_onednn(target, kind, note):
        twin = _on_onednn(network, plan, target, kind, quantize, note)
        if compile:
            note("--compile has no effect: on this CPU the network already runs on oneDNN kernels")
        return Prepared(network, plan, target, kind, on_onednn=twin)
    return Prepared(network, plan, target, kind, compile=compile and can_compile(target, note))


def _uses_onednn(device: torch.device, dtype: torch.dtype, note: Callable[[str], None]) -> bool:
    """Whether the network can run on oneDNN kernels."""
    if device.type != "cpu":
        return False
    native = {torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"), torch.float16: ("avx512_fp16",)}
    if dtype in native and not onednn.has(*native[dtype]):
        name = next(name for name, kind in DTYPES.items() if kind == dtype)
        note(f"this CPU has no {name} instructions: --dtype fp32 is faster here, and more exact")
    if dtype == torch.float16:
        return False
    if not onednn.supports(dtype):
        note("this PyTorch or CPU lacks the oneDNN kernels: the run is slower than it could be")
        return False
    return True


def _on_onednn(
    network: Network,
    plan: Preprocess,
    device: torch.device,
    dtype: torch.dtype,
    quantize: Quantize | None,
    note: Callable[[str], None],
) -> Network:
    if quantize is None:
        return onednn.repacked(network, plan, dtype)
    result_dtype = torch.bfloat16 if onednn.has("avx512_bf16", "amx_bf16") else torch.float32
    if device.type != "cpu":
        raise DeviceError(
            f"--quantize int8 is for a CPU, and this is {device}",
            "use --dtype fp16, or --device cpu",
        )
    if not onednn.supports(result_dtype, int8=True):
        raise DeviceError(
            f"PyTorch {torch.__version__} has no int8 kernels for this CPU",
            "leave out --quantize int8",
        )
    if not onednn.has("avx512_vnni", "avx_vnni", "amx_int8"):
        note("this CPU has no int8 instructions (VNNI): --quantize int8 is not faster here")
    return onednn.repacked(network, plan, result_dtype, int8=True)


def can_compile(device: torch.device, note: Callable[[str], None]) -> bool:
    """Whether `torch.compile` works here (it needs a C++ compiler), tried on a tiny function."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        note(f"--compile does not work here, and the run continues without it: {reason}")
        return False
    return True


@cache
def _single_threads(count: int) -> ThreadPoolExecutor:
    """A pool of threads that each run torch on one thread. Other threads keep torch's number
    of threads."""
    threads = ThreadPoolExecutor(count, "network")
    all_started = Barrier(count)

    def limit(_: int) -> None:
        torch.set_num_threads(1)  # for this thread, and for threads started later
        all_started.wait()

    list(threads.map(limit, range(count)))
    torch.set_num_threads(count)
    return threads


def choose_device(name: str) -> torch.device:
    """Choose a device; "auto" is CUDA, else Apple's MPS, else the CPU. Under torchrun each process
    gets a CUDA device of its own."""
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


def devices() -> Iterator[tuple[str, str, int | None]]:
    """Yield the devices other than the CPU: name, model, and memory in bytes."""
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            yield f"cuda:{number}", found.name, found.total_memory
    if torch.backends.mps.is_available():
        yield "mps", "Apple GPU", torch.mps.recommended_max_memory()


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Choose a dtype; "auto" is half precision on a GPU, fp32 on a CPU."""
    if name == "auto":
        name = {"cuda": "fp16", "mps": "fp16"}.get(device.type, "fp32")  # type: ignore[assignment]
    return DTYPES[name]
