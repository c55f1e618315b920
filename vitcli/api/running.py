"""The options of running a model from Python."""

from __future__ import annotations

from typing import Literal, TypedDict

from vitcli.engines import DtypeName, EngineName, Quantize


class RunningOptions(TypedDict, total=False):
    """Options of running a model. By default one worker process for each processor decodes, at most
    8; with workers=0 this process does. `attention` runs on engine="torch" only."""

    device: str  # "auto"
    dtype: DtypeName  # "fp32"
    engine: EngineName  # "torch"
    quantize: Quantize | None
    compile: bool
    batch_size: int | Literal["auto"]  # 16
    workers: int | None
