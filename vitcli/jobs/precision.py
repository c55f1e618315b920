"""Which precision is fast on this CPU: measured once, and kept in the cache.

Instruction sets do not tell: some CPUs have bf16 instructions and multiply faster in fp32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

from vitcli.cache import RATES, keep, kept
from vitcli.engines import ENGINES
from vitcli.files import real
from vitcli.jobs.job import Running
from vitcli.machine import first_processor
from vitcli.runs.journal import journals_of, read_header

Fast: TypeAlias = Literal["bf16", "int8"]
WORTH = 1.1  # how much faster bf16 has to be for --dtype auto
NOISE = 0.9
OPTIONS: dict[Fast, str] = {"bf16": "--dtype bf16", "int8": "--quantize int8"}


@dataclass(frozen=True, slots=True)
class Rates:
    """Multiply-adds per second, times two, of one thread: in fp32 and in a faster precision."""

    fp32: float
    fast: float

    @property
    def gain(self) -> float:
        return self.fast / self.fp32


def note_if_slower(running: Running, note: Callable[[str], None]) -> None:
    """Call `note` if a precision of the run is slower than fp32 on this CPU."""
    precision: Fast = "int8" if running.quantize else "bf16"
    if running.quantize is None and running.dtype != "bf16":
        return
    rates = None if running.engine == "onnx" else measured(precision)
    if rates is not None and rates.gain < NOISE:
        note(
            f"{OPTIONS[precision]} is slower than fp32 on this CPU: a thread multiplies matrices "
            f"at {rates.fast / 1e9:.0f} Gop/s in {precision}, at {rates.fp32 / 1e9:.0f} in fp32; "
            "vit bench measures whole runs"
        )


def settled(running: Running, resumed: Iterable[Path] = ()) -> Running:
    """The run with a precision in place of `--dtype auto`: the one with which the first of the
    outputs `resumed` began, if there is any; else bf16 on a CPU where it is clearly faster than
    fp32, and fp32 on others. On a GPU "auto" stays, and means fp16."""
    if running.dtype != "auto":
        return running
    known = ENGINES[running.engine].dtypes
    for journal in (journal for out in resumed for journal in journals_of(real(out))):
        if (header := read_header(journal)) is not None:
            values = {**header.fingerprint.defaults, **header.fingerprint.values}
            dtype = values.get("--dtype")
            return replace(running, dtype=dtype) if dtype in known else running
    if running.engine == "torch" and not _is_on_cpu(running.device):
        return running
    rates = measured("bf16") if "bf16" in known else None
    is_fast = rates is not None and rates.gain >= WORTH
    return replace(running, dtype="bf16" if is_fast else "fp32")


def _is_on_cpu(device: str) -> bool:
    from vitcli.models.prepare import choose_device

    return choose_device(device).type == "cpu"


def measured(precision: Fast) -> Rates | None:
    """The rates of this CPU, from the cache if they are there; None if PyTorch lacks the kernels or
    the CPU the instructions."""
    machine = {"cpu": _cpu(), "torch": version("torch"), "threads": 1}
    digest = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]
    name = f"{digest}-{precision}.json"
    if (known := _read(kept(RATES, name), precision)) is not None:
        return known
    from vitcli.jobs.limit import thread_rates

    found = thread_rates(precision)
    if found is None:
        return None
    rates = Rates(*found)
    values = {**machine, "fp32": rates.fp32, precision: rates.fast}
    keep(RATES, name, json.dumps(values).encode() + b"\n")
    return rates


def _read(content: bytes | None, precision: Fast) -> Rates | None:
    """The rates in the content of a file; None without a file, or if it is damaged."""
    try:
        values = json.loads(content or b"")
        fp32, fast = (float(values[name]) for name in ("fp32", precision))
    except (ValueError, KeyError, TypeError):
        return None
    return Rates(fp32, fast) if fp32 > 0 and fast > 0 else None


def _cpu() -> str:
    """The model and the instruction sets of the first processor."""
    names = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")
    processor = first_processor()
    return "\n".join(f"{name}: {processor[name]}" for name in names if name in processor)
