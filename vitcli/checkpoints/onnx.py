"""Models into ONNX files with a dynamic batch, and ONNX Runtime, which runs them."""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitcli.checkpoints.keymap import Made
from vitcli.checkpoints.load import Model
from vitcli.checkpoints.preprocessing import to_hf, to_timm
from vitcli.checkpoints.write import Written
from vitcli.errors import CheckpointError
from vitcli.models.engine import Engine, Graph

FILE = "model.onnx"
MAX_FILE = 1_900_000_000  # bytes of weights: a file of protobuf ends at 2 GiB
ERRORS_ONLY = 3  # the severity from which ONNX Runtime logs


def write(model: Model, file: Path, dtype: str) -> Written:
    """`pixel_values` (batch, 3, H, W), normalised -> `logits` (batch, K), or `embedding`.

    The metadata hold `preprocess` (JSON of transformers, or of timm where that alone can say it),
    `steps` (the same in words), `labels`, `scores` (what makes scores of the logits: softmax,
    sigmoid, none) and `layout`. What is more than a file can hold stands
    beside it, under its name and `.data`.
    """
    _onnxruntime()  # before the exporter, which loads it too
    network = copy.deepcopy(model.network)
    height, width = model.config.image_size
    pixels = torch.zeros(2, model.config.in_chans, height, width)
    if dtype == "fp16":
        network, pixels = network.half(), pixels.half()
    output = "logits" if model.config.num_classes else "embedding"
    with _quiet():
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
    notes = [f"the weights are beside it, in {file.name}.data"] if size > MAX_FILE else []
    return Written("onnx", tuple(notes), {name: Made((name,)) for name in names})


def _preprocess(model: Model) -> dict[str, Any]:
    """JSON of the library that crops as the model does, or of the one that alone can say it."""
    says = {"hf": to_hf, "timm": to_timm}
    first = model.preprocess.crop
    for name in sorted(says, key=lambda name: name != first):
        with suppress(CheckpointError):
            return says[name](model.preprocess)
    return {}


def run(file: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first output of ONNX Runtime on the CPU, as fp32."""
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    kind = session.get_inputs()[0].type
    cast = pixels.astype(np.float16 if "float16" in kind else np.float32)
    found: NDArray[np.float32] = session.run(None, {"pixel_values": cast})[0].astype(np.float32)
    return found


def export(graph: Graph, folder: Path, int8: bool) -> None:
    """`model.onnx`: `pixels`, uint8 (batch, H, W, 3) -> `output`.

    int8 is dynamic: the weights of every linear map are bytes, and activations are scaled batch by
    batch, so nothing has to be calibrated.
    """
    import onnx

    _onnxruntime()  # before the exporter, which loads it too
    with _quiet():
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
    """The package, which would report its use to a server over the network: by the variable that it
    reads when it is loaded, and, for versions without it, before the first session."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def open_export(folder: Path, dtype: str) -> Engine:
    """Run what `export` wrote with ONNX Runtime, on as many threads as torch has."""
    onnxruntime = _onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = ERRORS_ONLY
    # Its threads share the processors with the image workers, and must not spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    broken = tuple(getattr(state, name) for name in ("Fail", "InvalidProtobuf", "NoSuchFile"))
    try:
        session = onnxruntime.InferenceSession(
            str(folder / FILE), options, providers=["CPUExecutionProvider"]
        )
    except broken as error:  # ONNX Runtime's exceptions have no common base
        raise RuntimeError(str(error)) from None
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter has much to say that is no user's business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
