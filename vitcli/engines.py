"""The engines that run a network, with the dtypes and packages of each.

Nothing here imports an engine; only a run that uses one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitcli.errors import check_installed

DtypeName = Literal["fp32", "bf16", "fp16", "auto"]
EngineName = Literal["torch", "openvino", "onnx"]
Quantize = Literal["int8"]
MergeTokens = int | Literal["auto"]


@dataclass(frozen=True, slots=True)
class EngineRow:
    """The dtypes that an engine runs; for all but torch, the `module` that exports a model and
    opens the export, and the `packages` that it needs, which the extra of its name installs."""

    dtypes: tuple[DtypeName, ...]
    module: str | None = None
    packages: tuple[str, ...] = ()


ENGINES: dict[EngineName, EngineRow] = {
    "torch": EngineRow(("fp32", "bf16", "fp16", "auto")),
    "openvino": EngineRow(
        ("fp32", "bf16", "auto"), "vitcli.checkpoints.openvino", ("openvino", "nncf")
    ),
    "onnx": EngineRow(
        ("fp32", "auto"), "vitcli.checkpoints.onnx", ("onnx", "onnxscript", "onnxruntime")
    ),
}


def check_engine(name: EngineName) -> None:
    """Raise DeviceError if a package that the engine needs is not installed."""
    check_installed(f"--engine {name}", *ENGINES[name].packages, extra=name)
