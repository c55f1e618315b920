"""Write models as ONNX files with a dynamic batch, and run them with ONNX Runtime."""

from __future__ import annotations

import copy
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitcli.checkpoints.keymap import Made
from vitcli.checkpoints.preprocess.hf import to_hf
from vitcli.checkpoints.preprocess.timm import to_timm
from vitcli.errors import CheckpointError
from vitcli.machine import compute_threads
from vitcli.models.engine import Engine

if TYPE_CHECKING:  # an export runs without torch
    from vitcli.checkpoints.graph import Graph
    from vitcli.checkpoints.load import Model
    from vitcli.checkpoints.write import Written

FILE = "model.onnx"
MAX_FILE = 1_900_000_000  # bytes of weights; a protobuf file cannot exceed 2 GiB
ERRORS_ONLY = 3  # the lowest severity that ONNX Runtime logs


def write(model: Model, file: Path, dtype: str) -> Written:
    """Write a model that maps normalised `pixel_values` (batch, 3, H, W) to `logits` (batch, K), or
    to `embedding` without a classifier.

    The file's metadata are `preprocess` (JSON of transformers or timm), `steps` (the same in
    words), `labels`, `scores` (the function for the logits: softmax, sigmoid or none) and `layout`.
    Weights of more than MAX_FILE bytes go into a second file, FILE.data.
    """
    import torch

    from vitcli.checkpoints.graph import quiet
    from vitcli.checkpoints.write import Written

    _onnxruntime()  # before the exporter, which imports it too
    network = copy.deepcopy(model.network)
    height, width = model.config.image_size
    pixels = torch.zeros(2, model.config.in_chans, height, width)
    if dtype == "fp16":
        network, pixels = network.half(), pixels.half()
    output = "logits" if model.config.num_classes else "embedding"
    with quiet():
        program: Any = torch.onnx.export(
            network,
            (pixels,),
            input_names=["pixel_values"],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
        program.model.metadata_props.update(
            preprocess=json.dumps(_preprocess(model)),
            steps=model.preprocess.describe(),
            labels=json.dumps(list(model.labels), ensure_ascii=False),
            scores=model.score_function if model.labels else "none",
            layout=model.layout,
        )
        size = sum(parameter.nbytes for parameter in network.parameters())
        program.save(str(file), external_data=size > MAX_FILE)
    names = network.state_dict()
    notes = [f"the weights are next to it, in {file.name}.data"] if size > MAX_FILE else []
    return Written("onnx", tuple(notes), {name: Made((name,)) for name in names})


def _preprocess(model: Model) -> dict[str, Any]:
    """The JSON of the library whose crop the model uses, else of the other; {} if neither can
    express the preprocessing."""
    writers = {"hf": to_hf, "timm": to_timm}
    first = model.preprocess.crop
    for name in sorted(writers, key=lambda name: name != first):
        with suppress(CheckpointError):
            return writers[name](model.preprocess)
    return {}


def run(file: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a file with ONNX Runtime on the CPU, and return its first output as fp32."""
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    kind = session.get_inputs()[0].type
    cast = pixels.astype(np.float16 if "float16" in kind else np.float32)
    result: NDArray[np.float32] = session.run(None, {"pixel_values": cast})[0].astype(np.float32)
    return result


def export(graph: Graph, folder: Path, int8: bool) -> None:
    """Write `model.onnx`, which maps `pixels` (batch, H, W, 3) to `output`.

    int8 quantisation is dynamic: the weights of every linear map are bytes, and activations are
    scaled for each batch, so no calibration is needed.
    """
    import onnx
    import torch

    from vitcli.checkpoints.graph import quiet

    _onnxruntime()  # before the exporter, which imports it too
    with quiet():
        program: Any = torch.onnx.export(
            graph.traced(), input_names=["pixels"], output_names=["output"], verbose=False
        )
        proto = program.model_proto
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(
                proto,
                folder / FILE,
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
        else:
            onnx.save(proto, str(folder / FILE))


def _onnxruntime() -> Any:
    """Import ONNX Runtime with its telemetry disabled: by a variable that it reads at import and,
    for older versions, by a call before the first session."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def open_export(folder: Path, dtype: str) -> Engine:
    """Run what `export` wrote with ONNX Runtime, on as many threads as torch has."""
    onnxruntime = _onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = compute_threads()
    options.log_severity_level = ERRORS_ONLY
    # The threads share the processors with the image workers, and must not spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    broken = tuple(getattr(state, name) for name in ("Fail", "InvalidProtobuf", "NoSuchFile"))
    try:
        session = onnxruntime.InferenceSession(
            str(folder / FILE), options, providers=["CPUExecutionProvider"]
        )
    except broken as error:  # ONNX Runtime's exceptions have no common base
        raise RuntimeError(str(error)) from None
    return lambda pixels: session.run(None, {"pixels": pixels})[0]
