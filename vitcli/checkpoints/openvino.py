"""Write models as OpenVINO files with a dynamic batch, and run them with OpenVINO."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitcli.machine import compute_threads
from vitcli.models.engine import Engine
from vitcli.records import PixelArray, Size

if TYPE_CHECKING:  # an export runs without torch
    from vitcli.checkpoints.graph import Graph

FILE = "model.xml"
HINTS = {"fp32": "f32", "bf16": "bf16"}
CALIBRATION = 64  # images


def export(graph: Graph, folder: Path, int8: bool) -> None:
    """Write `model.xml` and `model.bin`, which map pixels (batch, H, W, 3) to the graph's output.

    int8 is NNCF's post-training quantisation: the weights and activations of every matrix product
    are bytes, and the ranges of the activations are calibrated on `calibration_pixels`.
    """
    ov = _openvino()
    with _quiet():
        model = ov.convert_model(graph.traced())
        model.reshape([-1, *graph.size, 3])
        if int8:
            model = _quantized(
                model, calibration_pixels(graph.size, CALIBRATION).astype(graph.dtype)
            )
        ov.save_model(model, folder / FILE, compress_to_fp16=False)


def _quantized(model: Any, images: PixelArray) -> Any:
    """Quantise with ranges that hold every value: clipped outliers cost a ViT its accuracy.

    SmoothQuant (arXiv 2211.10438) divides the outliers evenly between activations and weights, as
    published; NNCF's default of 0.95 gives nearly all to the weights, and does worse here.
    """
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return nncf.quantize(
        model,
        nncf.Dataset([image[None] for image in images]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(images),
        advanced_parameters=AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=0.5),
        ),
    )


def open_export(folder: Path, dtype: str) -> Engine:
    """Run what `export` wrote with OpenVINO, on as many threads as torch has."""
    config = {
        "INFERENCE_PRECISION_HINT": HINTS[dtype],  # the default runs fp32 models in bf16
        "INFERENCE_NUM_THREADS": compute_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the image workers need the processors, too
    }
    compiled = _openvino().Core().compile_model(folder / FILE, "CPU", config)
    return lambda pixels: compiled(pixels, share_inputs=True)[0]


def calibration_pixels(size: Size, count: int) -> NDArray[np.uint8]:
    """Draw images like photographs, drawings and print, the same every time.  -> (count, H, W, 3)

    If a run's own images calibrated the model, results would depend on which run came first.
    """
    rng = np.random.default_rng(0)
    images = []
    for number in range(count):
        texture, paper = _texture(rng, size), rng.choice([0, 255, rng.uniform(0, 255)])
        image = texture if number % 4 < 2 else np.full_like(texture, paper)
        for _ in range(rng.integers(2, 9) * (number % 4 > 0)):
            ink = rng.uniform(0, 255, 3) if number % 4 < 3 else rng.choice([0, 255])
            image[_stroke(rng, size)] = ink
        images.append(image)
    return np.clip(np.stack(images), 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, size: Size) -> NDArray[np.float64]:
    """A texture with the spectrum of natural images, amplitude 1 / frequency.  -> (H, W, 3)"""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # the mean is drawn separately
    noise = np.fft.rfft2(rng.standard_normal((4, *size))) / frequency
    fields = np.fft.irfft2(noise, s=size).transpose(1, 2, 0)  # (H, W, 4)
    texture = fields[..., :1] + 0.4 * fields[..., 1:]  # brightness, and a tint for each channel
    texture *= rng.uniform(10, 70) / (texture.std() + 1e-6)
    texture += rng.uniform(60, 200) + rng.normal(0, 15, 3)
    return texture


def _stroke(rng: np.random.Generator, size: Size) -> NDArray[np.bool_]:
    """The mask of a narrow ellipse at a random angle.  -> (H, W)"""
    rows, columns = np.mgrid[: size[0], : size[1]] - (rng.random(2) * size)[:, None, None]
    turn = rng.uniform(0, np.pi)
    across = rows * np.cos(turn) + columns * np.sin(turn)
    along = columns * np.cos(turn) - rows * np.sin(turn)
    side = min(size)
    width, length = side * rng.uniform(0.02, 0.12), side * rng.uniform(0.1, 0.6)
    inside: NDArray[np.bool_] = (across / width) ** 2 + (along / length) ** 2 < 1
    return inside


def _openvino() -> Any:
    """Import OpenVINO without its telemetry package."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    import openvino

    return openvino


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings, logs, and NNCF's progress bar on standard output, which is for data."""
    from vitcli.checkpoints.graph import quiet

    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        yield
