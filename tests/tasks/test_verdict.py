"""What `vit bench` makes of its figures: likeness to fp32, rows, and which of them is best."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from vitcli.jobs.job import ModelOptions
from vitcli.tasks.bench.protocol import Candidate, Outputs, Read, Reading, Timed
from vitcli.tasks.bench.verdict import (
    BenchRow,
    Likeness,
    Measured,
    advise,
    command_of,
    likeness,
    table,
)

FP32 = Candidate("torch", "fp32")
BF16 = Candidate("torch", "bf16")
INT8 = Candidate("openvino", "bf16", "int8")


def outputs(pictures: list[int], *rows: list[float]) -> Outputs:
    return Outputs(np.array(pictures), np.array(rows, dtype=np.float32))


# Embeddings of two numbers, logits of three.
EXACT = outputs([0, 1, 2], [1, 0, 9, 1, 1], [0, 2, 1, 9, 1], [3, 4, 1, 1, 9])


def test_likeness_is_the_mean_cosine_and_the_part_with_the_same_label() -> None:
    # Turned by 90 degrees; three times as long; turned from (3, 4) to (4, 3): 24 / 25.
    found = outputs([0, 1, 2], [0, 1, 5, 4, 3], [0, 6, 2, 3, 1], [4, 3, 7, 1, 2])
    like = likeness(EXACT, found, 2)
    assert like is not None
    assert like.cosine == pytest.approx((0 + 1 + 24 / 25) / 3, abs=1e-12)
    assert like.agreement == pytest.approx(2 / 3)
    assert like.images == 3


def test_likeness_compares_the_same_pictures() -> None:
    """Each has its own part of them, in an order of its own."""
    like = likeness(EXACT, outputs([5, 2, 0], [7, 7, 1, 2, 3], [6, 8, 0, 0, 1], [1, 0, 2, 1, 1]), 2)
    assert like == Likeness(pytest.approx(1.0), 1.0, 2)  # type: ignore[arg-type]
    assert likeness(EXACT, outputs([7], [1, 0, 9, 1, 1]), 2) is None


def test_a_backbone_has_no_labels_to_agree_on() -> None:
    like = likeness(outputs([0], [1, 1]), outputs([0], [1, 0]), 2)
    assert like is not None
    assert like.cosine == pytest.approx(0.5**0.5)
    assert like.agreement is None


def test_a_single_output_has_no_best_label() -> None:
    like = likeness(outputs([0], [1, 1, 5]), outputs([0], [1, 1, -5]), 2)
    assert like is not None and like.agreement is None


def test_rows_tell_of_each_batch_and_each_way_to_read() -> None:
    one = Measured(
        BF16,
        [Timed(1, 0.1, 500), Timed(16, 0.8, 700)],
        outputs([0, 1], [2, 0, 9, 1, 1], [0, 2, 9, 1, 1]),
        [Read(Reading("exact", 2), 15.0, 900), Read(Reading("fast", 2), 18.0, None)],
        16,
        outputs([1], [2, 0, 1, 9, 1]),
    )
    single, batch, exact, fast = table([one], EXACT, 2, {BF16: 0.04})
    assert (single.images_per_second, single.peak, single.workers) == (10, 500, None)
    assert single.limit_share == pytest.approx(0.4)
    assert (batch.images_per_second, batch.batch_size) == (pytest.approx(20), 16)
    assert batch.latency_ms == pytest.approx(100), "of one image"
    assert batch.likeness == Likeness(pytest.approx(1.0), 0.5, 2)  # type: ignore[arg-type]
    assert (exact.batch_size, exact.workers, exact.decode, exact.peak) == (16, 2, "exact", 900)
    assert exact.likeness == batch.likeness
    assert fast.likeness == Likeness(pytest.approx(0.0), 1.0, 1)  # type: ignore[arg-type]


def row(candidate: Candidate, batch: int, rate: float, agreement: float | None = 1.0) -> BenchRow:
    return BenchRow(
        candidate=candidate,
        batch_size=batch,
        images_per_second=rate,
        latency_ms={FP32: 90.0, BF16: 40.0, INT8: 60.0}[candidate],
        peak={FP32: 800, BF16: 900, INT8: 700}[candidate] + batch,
        likeness=Likeness(0.996, agreement, 64),
    )


def test_advice_is_the_best_for_each_purpose() -> None:
    rows = [
        *(row(FP32, 1, 9), row(FP32, 16, 10)),
        *(row(BF16, 1, 20), row(BF16, 16, 24.9), row(BF16, 32, 25)),
        *(row(INT8, 1, 16, 0.95), row(INT8, 16, 33, 0.95)),
    ]
    found = {a.purpose: (a.row.candidate, a.row.batch_size) for a in advise(rows)}
    assert found == {
        "exact": (FP32, 16),
        "fastest": (INT8, 16),
        "close": (BF16, 16),  # the batch of 32 is not faster by more than noise
        "latency": (BF16, 1),
        "memory": (INT8, 1),
    }


def test_without_labels_the_embeddings_have_to_be_alike() -> None:
    found = {a.purpose: a.row for a in advise([row(FP32, 1, 9), row(BF16, 1, 20, None)])}
    assert found["close"].candidate == BF16


def test_files_decide_where_files_were_read() -> None:
    ready = [row(FP32, 1, 10), row(BF16, 1, 20)]
    read = [
        BenchRow(candidate=BF16, batch_size=4, workers=1, decode="exact", images_per_second=8),
        BenchRow(candidate=BF16, batch_size=4, workers=2, decode="fast", images_per_second=18),
        BenchRow(candidate=FP32, batch_size=4, workers=2, decode="fast", images_per_second=7),
        BenchRow(candidate=FP32, batch_size=4, workers=2, decode="exact", images_per_second=6),
        BenchRow(candidate=FP32, batch_size=4, workers=1, decode="exact", images_per_second=5.95),
    ]
    found = {a.purpose: a.row for a in advise([*ready, *read])}
    assert found["fastest"] is read[1]
    assert found["exact"] is read[4], "fewer workers do as well, and fast decoding is not exact"
    assert found["latency"] is ready[1]


def test_a_command_has_everything_that_was_measured_and_asked_for() -> None:
    options = ModelOptions(
        layout="timm",
        labels=Path("my names.txt"),
        image_size=(224, 160),
        patch_size=(8, 16),
        exif=False,
    )
    read = BenchRow(candidate=INT8, batch_size=4, workers=0, decode="fast", images_per_second=1.0)
    command = command_of(read, "my model", options, "cpu", "my photos", has_labels=True)
    assert shlex.split(command) == [
        *("vit", "classify", "my photos", "-m", "my model"),
        *("--layout", "timm", "--labels", "my names.txt", "--image-size", "224x160"),
        *("--patch-size", "8x16", "--no-exif"),
        *("--device", "cpu", "--engine", "openvino", "--dtype", "bf16", "--quantize", "int8"),
        *("-b", "4", "-j", "0", "--decode", "fast"),
    ]
    command = command_of(row(FP32, 16, 1), "demo", ModelOptions(), "auto", "photos", False)
    assert command == ("vit embed photos -m demo --engine torch --dtype fp32 -b 16 -o features.npy")
