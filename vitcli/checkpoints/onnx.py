"""A loaded model into an ONNX file with a dynamic batch, and back out of ONNX Runtime."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.preprocessing import to_hf
from vitcli.errors import CheckpointError

MISSING = "pip install 'vitcli[onnx]'"


def write(model: Model, file: Path, dtype: str) -> tuple[str, ...]:
    """`pixel_values` (batch, 3, H, W), normalised -> `logits` (batch, K), or `embedding`.

    The metadata hold `preprocess` (as transformers' JSON), `labels` and `layout`.
    Raises CheckpointError where the extra is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter is written with it
    except ImportError:
        raise CheckpointError("--to onnx needs the extra onnx", MISSING) from None
    network = copy.deepcopy(model.network)
    height, width = model.config.image_size
    pixels = torch.zeros(2, model.config.in_chans, height, width)
    if dtype == "fp16":
        network, pixels = network.half(), pixels.half()
    output = "logits" if model.config.num_classes else "embedding"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            program: Any = torch.onnx.export(
                network,
                (pixels,),
                input_names=["pixel_values"],
                output_names=[output],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
        finally:
            logging.disable(logging.NOTSET)
    proto = program.model_proto
    metadata = {
        "preprocess": json.dumps(to_hf(model.preprocess)),
        "labels": json.dumps(list(model.labels), ensure_ascii=False),
        "layout": model.layout,
    }
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, str(file))
    return ()


def run(file: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first output of ONNX Runtime on the CPU, as fp32."""
    try:
        import onnxruntime
    except ImportError:
        raise CheckpointError("--verify needs the extra onnx", MISSING) from None
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    kind = session.get_inputs()[0].type
    cast = pixels.astype(np.float16 if "float16" in kind else np.float32)
    found: NDArray[np.float32] = session.run(None, {"pixel_values": cast})[0].astype(np.float32)
    return found
