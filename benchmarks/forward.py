"""Measure images per second of the network alone, on ready tensors: vit against other libraries.

    python benchmarks/forward.py --material /tmp/material --model b --batch-size 16

The engines take turns for `--rounds` rounds. The script prints the median of each, and its share of
the rate of the machine's matrix products in the same precision (`vitcli.jobs.limit`), measured in
the same run. transformers, ONNX Runtime and OpenVINO convert the same weights themselves, and get a
batch of normalised fp32 pixels. vit gets the same batch as bytes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from vitcli.checkpoints.engines import open_engine
from vitcli.checkpoints.load import load
from vitcli.jobs.limit import matmul_flops, share_of_limit
from vitcli.models.engine import Logits
from vitcli.models.prepare import TorchEngine, prepare

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Run = Callable[[], object]


def of_transformers(folder: Path, pixels: torch.Tensor, dtype: str) -> Run:
    from transformers import ViTForImageClassification

    model = ViTForImageClassification.from_pretrained(folder, dtype=DTYPES[dtype]).eval()
    cast = pixels.to(DTYPES[dtype])
    return lambda: model(pixel_values=cast).logits


def of_onnxruntime(folder: Path, pixels: torch.Tensor, int8: bool) -> Run:
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    file = _exported(folder, pixels)
    if int8:
        smaller = file.with_name("int8.onnx")
        quantize_dynamic(file, smaller)
        file = smaller
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"pixel_values": pixels.numpy()})


def of_openvino(folder: Path, pixels: torch.Tensor, dtype: str) -> Run:
    import openvino

    core = openvino.Core()
    hint = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[dtype]}
    compiled = core.compile_model(_exported(folder, pixels), "CPU", hint)
    return lambda: compiled(pixels.numpy())


def _exported(folder: Path, pixels: torch.Tensor) -> Path:
    file = folder.with_name(f"{folder.name}.onnx") / "model.onnx"
    if not file.exists():
        from transformers import ViTForImageClassification

        file.parent.mkdir(exist_ok=True)
        model = ViTForImageClassification.from_pretrained(folder).eval()
        batch = {"pixel_values": {0: torch.export.Dim("batch")}}
        torch.onnx.export(
            model, (), str(file), kwargs={"pixel_values": pixels}, dynamic_shapes=batch, dynamo=True
        )
    return file


def of_vit(folder: Path, batch: np.ndarray, dtype: str, int8: bool) -> Run:
    model = load(str(folder))
    quantize = "int8" if int8 else None
    prepared = prepare(model.network, model.preprocess, "cpu", dtype, quantize=quantize)
    engine = TorchEngine(prepared, Logits())
    return lambda: engine(batch)


def of_engine(folder: Path, batch: np.ndarray, name: str, dtype: str, int8: bool) -> Run:
    engine = open_engine(load(str(folder)), Logits(), name, dtype, "int8" if int8 else None)
    return lambda: engine(batch)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--model", choices=["ti", "s", "b"], default="b")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    folder = args.material / f"vit-{args.model}16"
    draw = np.random.default_rng(0)
    batch = draw.integers(0, 256, (args.batch_size, 224, 224, 3), dtype=np.uint8)
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
    contenders: dict[str, tuple[Run, str]] = {
        "transformers fp32": (of_transformers(folder, pixels, "fp32"), "fp32"),
        "transformers bf16": (of_transformers(folder, pixels, "bf16"), "bf16"),
        "ONNX Runtime fp32": (of_onnxruntime(folder, pixels, False), "fp32"),
        "ONNX Runtime int8, dynamic": (of_onnxruntime(folder, pixels, True), "int8"),
        "OpenVINO fp32": (of_openvino(folder, pixels, "fp32"), "fp32"),
        "OpenVINO bf16": (of_openvino(folder, pixels, "bf16"), "bf16"),
        "vit fp32": (of_vit(folder, batch, "fp32", False), "fp32"),
        "vit bf16": (of_vit(folder, batch, "bf16", False), "bf16"),
        "vit int8": (of_vit(folder, batch, "bf16", True), "int8"),
        "vit openvino fp32": (of_engine(folder, batch, "openvino", "fp32", False), "fp32"),
        "vit openvino bf16": (of_engine(folder, batch, "openvino", "bf16", False), "bf16"),
        "vit openvino int8": (of_engine(folder, batch, "openvino", "fp32", True), "int8"),
        "vit openvino int8 + bf16": (of_engine(folder, batch, "openvino", "bf16", True), "int8"),
        "vit onnx fp32": (of_engine(folder, batch, "onnx", "fp32", False), "fp32"),
        "vit onnx int8": (of_engine(folder, batch, "onnx", "fp32", True), "int8"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    limits: dict[str, list[float]] = {"fp32": [], "bf16": [], "int8": []}
    for _ in range(args.rounds):
        for kind, rates in limits.items():
            rates.append(matmul_flops("bf16" if kind == "int8" else kind, **_int8(kind)))
        for name, (run, _) in contenders.items():
            run()
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    config = load(str(folder)).config
    best = {kind: max(rates) for kind, rates in limits.items()}
    print(", ".join(f"{kind} product {flops / 1e9:.0f} Gop/s" for kind, flops in best.items()))
    print("\n| | images/s | of the limit |\n|---|---|---|")
    for name, (_, kind) in contenders.items():
        rate = args.batch_size / statistics.median(seconds[name])
        print(f"| {name} | {rate:.1f} | {share_of_limit(config, rate, best[kind]):.0%} |")


def _int8(kind: str) -> dict[str, str]:
    return {"quantize": "int8"} if kind == "int8" else {}


if __name__ == "__main__":
    main()
