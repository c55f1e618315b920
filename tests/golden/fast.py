"""What transformers' fast image processors make of pictures: fast.json, a record a line.

Run by hand, with Python that has torch, torchvision and transformers (5 or later):

    python -m tests.golden.fast

Each record has the processor, its options, the size of the picture (`photo` of
`tests.fixtures.weights`), and the shape and sha256 of the RGB bytes (H, W, 3) before they become
floats.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.fixtures.weights import photo

GOLDEN = Path(__file__).parent / "fast.json"
SHAPES = (  # width, height
    *((1, 1), (3, 1), (1, 50), (900, 37), (37, 900), (500, 375), (225, 223), (227, 231)),
    *((224, 224), (256, 255), (31, 400), (30, 40)),
)
BYTES = {"do_rescale": False, "do_normalize": False}


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ViT", {}),
    ("ViT", {"size": {"height": 96, "width": 160}, "resample": 3}),
    ("Siglip", {}),
    ("DeiT", {}),
    ("DeiT", {"size": square(65), "crop_size": {"height": 32, "width": 48}}),
    ("DeiT", {"size": {"height": 60, "width": 40}, "crop_size": {"height": 47, "width": 51}}),
    ("Bit", {"size": {"shortest_edge": 256}}),
    ("Bit", {"size": {"shortest_edge": 64}, "crop_size": square(97)}),
    ("Bit", {"size": {"shortest_edge": 37, "longest_edge": 90}, "crop_size": square(64)}),
    ("Bit", {"do_resize": False, "crop_size": {"height": 225, "width": 98}}),
    ("CLIP", {}),
    ("Beit", {"resample": 2}),
    ("GotOcr2", {"size": square(112)}),
    ("Siglip2", {"max_num_patches": 64}),
)


def pixels_of(processor: str, options: dict[str, Any], width: int, height: int) -> np.ndarray:
    """The bytes of one picture.  -> (H, W, 3)"""
    made = getattr(transformers, f"{processor}ImageProcessor")(**options, **BYTES)
    assert made.backend == "torchvision"
    # As a tensor, and said: of a picture one or three pixels wide it would guess wrongly.
    planes = torch.from_numpy(np.array(photo(width, height)).transpose(2, 0, 1).copy())
    found = made(planes, input_data_format="channels_first", return_tensors="pt")
    pixels = found["pixel_values"][0]
    assert pixels.dtype == torch.uint8
    if processor != "Siglip2":
        return pixels.permute(1, 2, 0).numpy()
    rows, columns = found["spatial_shapes"][0].tolist()
    patches = pixels[: rows * columns].numpy().reshape(rows, columns, 16, 16, 3)
    return patches.transpose(0, 2, 1, 3, 4).reshape(rows * 16, columns * 16, 3)


def record(processor: str, options: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    known = {"processor": processor, "options": options, "width": width, "height": height}
    try:
        pixels = np.ascontiguousarray(pixels_of(processor, options, width, height))
    except RuntimeError as error:  # a side of 0 pixels
        assert "should be greater than zero" in str(error), error
        return {**known, "shape": None}
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return {**known, "shape": list(pixels.shape), "sha256": digest}


def main() -> None:
    records = [record(*case, *shape) for case in CASES for shape in SHAPES]
    GOLDEN.write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
