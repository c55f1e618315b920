"""A loaded network made ready to run: on its device, in its dtype, fed with uint8 pixels."""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitcli.errors import DeviceError
from vitcli.models.network import Network
from vitcli.records import Preprocess

DtypeName = Literal["fp32", "bf16", "fp16", "auto"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Prepared:
    """A network on its device, and the normalisation that its pixels need."""

    def __init__(
        self, network: Network, plan: Preprocess, device: torch.device, dtype: torch.dtype
    ) -> None:
        first = next(network.parameters())
        if (first.device, first.dtype) != (device, dtype):  # the caller's own stays as it is
            network = copy.deepcopy(network).to(device=device, dtype=dtype)
        self.network = network
        self.device = device
        self.dtype = dtype
        self._scale = 1 / plan.rescale  # a division, as torchvision's: 1/255 is not exact
        self._mean = torch.tensor(plan.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(plan.std, device=device).view(3, 1, 1)

    def pixels(self, batch: NDArray[np.uint8]) -> Tensor:
        """Normalise in fp32, then cast.  uint8 (B, H, W, 3) -> (B, 3, H, W)

        Equal, bit for bit, to transformers' Pillow backend and to timm's ToTensor + Normalize.
        """
        x = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).float()
        return x.div_(self._scale).sub_(self._mean).div_(self._std).to(self.dtype)


def prepare(
    network: Network, plan: Preprocess, device: str = "auto", dtype: DtypeName = "fp32"
) -> Prepared:
    """Raises DeviceError for a device that this machine or this PyTorch does not have."""
    chosen = choose_device(device)
    return Prepared(network, plan, chosen, choose_dtype(dtype, chosen))


def choose_device(name: str) -> torch.device:
    """auto: CUDA, else Apple's MPS, else the CPU."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if has_cuda else "mps" if has_mps else "cpu"
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
