"""Rows to write, and how what a sink has written is read again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitcli.records import Classified, Embedded, ErrorType, Failure, ImageRef, Prediction

META = {"model": "a/b", "seconds": 1.5, "layers": [3]}

# Names and labels that a format may trip over; each is one file name.
NAMES = (
    "plain.jpg",
    "two words.jpg",
    "鳥.png",
    "a\nb.jpg",
    "a\rb.jpg",
    "a\r\nb.jpg",
    "a\tb.jpg",
    'say "no".jpg',
    "a,b;c.jpg",
    "back\\slash.jpg",
    "=cmd().jpg",
    "-dash.jpg",
    "\x1b[31mred.jpg",
    "\u202egpj.exe",
    "[/b].jpg",
    " spaces .jpg",
    "x" * 255,
)
NOT_UTF8 = "caf\udce9.jpg"  # as os.fsdecode gives b"caf\xe9.jpg"


def classified(index: int, path: str, *labels: str) -> Classified:
    predictions = [Prediction(label, i, 0.5 / (i + 1)) for i, label in enumerate(labels)]
    return Classified(ImageRef(index, path), tuple(predictions))


def failed(index: int, path: str, message: str = "truncated image") -> Failure:
    return Failure(ImageRef(index, path), ErrorType.DECODE_ERROR, message)


def embedded(index: int, path: str, shape: Sequence[int], dtype: str = "float32") -> Embedded:
    values = np.random.RandomState(index).standard_normal(shape).astype(dtype)
    return Embedded(ImageRef(index, path), values)


def array_meta(shape: Sequence[int], dtype: str = "float32") -> dict[str, Any]:
    """What the meta of an embedding says of its rows."""
    return {"row_shape": list(shape), "array_dtype": dtype}


def lines_of(path: Path | bytes) -> list[dict[str, Any]]:
    """JSON Lines as strictly as any reader takes them: UTF-8, one value a line, no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    data = path if isinstance(path, bytes) else path.read_bytes()
    assert data == b"" or data.endswith(b"\n")
    lines = data.decode("utf-8").split("\n")[:-1]
    return [json.loads(line, parse_constant=refuse) for line in lines]
