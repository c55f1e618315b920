"""A checkpoint of any layout into a directory for transformers or timm, or an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vitcli.checkpoints import onnx
from vitcli.checkpoints.load import Model, load
from vitcli.checkpoints.write import WRITERS, Dtype, replacing
from vitcli.errors import CheckpointError, OutputError, UsageError
from vitcli.tasks.job import ModelOptions
from vitcli.tasks.run import load_model

# What rounding of the weights may do to logits and hidden states, relative to their largest.
TOLERANCE: dict[Dtype, float] = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 8e-2}
IMAGES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertJob:
    """One run of `vit convert`."""

    source: str
    target: Path
    to: Literal["hf", "timm", "onnx"]
    dtype: Dtype = "fp32"
    verify: bool = False
    overwrite: bool = False
    options: ModelOptions = ModelOptions()


@dataclass(frozen=True, slots=True)
class Conversion:
    """What happened: found `layout`, wrote `written`; `dropped` says why by tensor. `deltas` are
    the largest differences of the verification, by what was compared, with their tolerance."""

    layout: str
    written: str
    renamed: int
    fused: int
    dropped: dict[str, str]
    notes: tuple[str, ...]
    tolerance: float
    deltas: dict[str, float] = field(default_factory=dict)


def convert(job: ConvertJob, say: Callable[[str], None] = lambda text: None) -> Conversion:
    """Run the job. Raises CheckpointError for what the target cannot express, and, with
    `verify`, for a difference above the tolerance; then nothing is left under the target's name."""
    if job.target.exists() and not job.overwrite:
        raise OutputError(f"{job.target} exists", "--overwrite replaces it")
    if job.to == "onnx" and job.target.suffix != ".onnx":
        raise UsageError(f"{job.target} is no ONNX file", "give a name that ends in .onnx")
    if job.to == "onnx" and job.dtype == "bf16":
        raise UsageError("ONNX Runtime does not run bf16 on a CPU", "use --dtype fp32 or fp16")
    model = load_model(job.source, job.options, say, keep_grid=True, keep_decoder=job.to == "hf")
    deltas: dict[str, float] = {}
    with replacing(job.target, is_file=job.to == "onnx") as partial:
        if job.to == "onnx":
            notes = onnx.write(model, partial, job.dtype)
            written = "onnx"
            if job.verify:
                deltas = _compare_onnx(model, partial)
        else:
            result = WRITERS[job.to](model, partial, job.dtype)
            notes, written = result.notes, result.layout
            if job.verify:
                back = load(str(partial.resolve()), keep_grid=True, keep_decoder=job.to == "hf")
                deltas = compare(model, back)
        _check(deltas, TOLERANCE[job.dtype])
    return Conversion(
        layout=model.layout,
        written=written,
        renamed=len((model.reconstruction or model.network).state_dict()) - model.fused,
        fused=model.fused,
        dropped=dict(model.dropped),
        notes=notes,
        tolerance=TOLERANCE[job.dtype],
        deltas=deltas,
    )


def synthetic_pixels(model: Model) -> Tensor:
    """Normalised noise, the same on every run.  -> (2, 3, H, W)"""
    generator = torch.Generator().manual_seed(0)
    height, width = model.config.image_size
    return torch.randn(IMAGES, model.config.in_chans, height, width, generator=generator)


@torch.inference_mode()
def compare(one: Model, other: Model) -> dict[str, float]:
    """The largest difference of the logits and of each hidden state, relative to the largest
    value there."""
    pixels = synthetic_pixels(one)
    layers = range(one.config.depth + 1)
    first, second = (model.network.hidden_states(pixels, layers) for model in (one, other))
    deltas = {"hidden states": max(_delta(first[i].x, second[i].x) for i in layers)}
    if one.config.num_classes:
        deltas["logits"] = _delta(one.network(pixels), other.network(pixels))
    if one.reconstruction and other.reconstruction:
        mask = torch.arange(one.config.grid[0] * one.config.grid[1]).expand(IMAGES, -1) % 4 > 0
        deltas["reconstruction"] = _delta(
            one.reconstruction(pixels, mask), other.reconstruction(pixels, mask)
        )
    return deltas


@torch.inference_mode()
def _compare_onnx(model: Model, file: Path) -> dict[str, float]:
    pixels = synthetic_pixels(model)
    output = "logits" if model.config.num_classes else "embedding"
    return {output: _delta(model.network(pixels), torch.from_numpy(onnx.run(file, pixels.numpy())))}


def _delta(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1))


def _check(deltas: dict[str, float], tolerance: float) -> None:
    wrong = {name: delta for name, delta in deltas.items() if not delta <= tolerance}
    if wrong:
        listed = ", ".join(f"{name} differ by {delta:.2g}" for name, delta in wrong.items())
        raise CheckpointError(f"verification failed: {listed}, tolerance {tolerance:g}")
