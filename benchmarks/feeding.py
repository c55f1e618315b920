"""Measure how fast the main process takes images from its workers, without their decoding.

    python benchmarks/feeding.py --images 20000

Each of 16 workers sleeps as long as an image takes to decode, and returns 224x224 pixels. The
network does nothing. What is left is the work of the main process for each image: a task for a
worker, the pixels back, the batch, the row, its lines in the output and in the journal. Each run is
a process of its own, for N images and for ten times as many.

The table has the processor time of the main process for each image, which other work on the machine
hardly changes; images a second, which it does; and the peak memory of the main process.
`--profile` prints where the main process spends its time instead.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.images.job import Decoded
from vitcli.records import FoundImage, ImageRef, Limits, Sample

NEEDED = 6000  # images a second that an H200 computes of ViT-B/16 in fp16
CLASSES = 1000
PIXELS = np.zeros((224, 224, 3), np.uint8)


@dataclass(frozen=True)
class SleepJob:
    """Sleeps instead of decoding."""

    seconds: float
    limits: Limits = Limits()
    imports_torch: bool = False

    def __call__(self, ref: ImageRef, *more: Any) -> Decoded:
        time.sleep(self.seconds)
        return Sample(ref, (PIXELS,), (375, 500), self.seconds)


@dataclass(frozen=True)
class Numbered:
    """A source of images that exist in name only, and take no memory."""

    total: int

    def images(self, *, stamped: bool = False) -> Iterator[FoundImage]:
        for number in range(self.total):
            yield FoundImage(f"photos/{number // 1000:04}/{number:07}.jpg", None, (100_000, number))

    def count(self) -> int:
        return self.total


def feed(images: int, workers: int, sleep: float, batch: int, profile: bool) -> None:
    """Classify images without network and decoding, and print the measurements as JSON."""

    from vitcli.jobs import run as runs
    from vitcli.jobs.job import SILENT, Inputs, Running
    from vitcli.jobs.listing import Listing
    from vitcli.jobs.writing import write_rows
    from vitcli.records import Batch
    from vitcli.tasks.classify import classify

    runs.DecodeJob = lambda *given: SleepJob(sleep)  # type: ignore[assignment, misc]
    logits = np.random.default_rng(0).normal(size=(batch, CLASSES)).astype(np.float32)
    began: list[tuple[float, float]] = []

    def logits_of(batch: Batch) -> list[NDArray[np.float32]]:
        if not began:  # the workers have started
            began.append((time.perf_counter(), time.process_time()))
        return [logits[: len(batch.refs)]]

    labels = [f"class {number}" for number in range(CLASSES)]
    running = Running(device="cpu", batch_size=batch, workers=workers)
    with tempfile.TemporaryDirectory() as folder:
        job = classify.ClassifyJob(
            inputs=Inputs(), running=running, out=Path(folder) / "rows.jsonl"
        )
        work = runs.Computation(forward=classify._forward(logits_of, labels, "softmax", job))
        run = runs.Run(job.inputs, running, SILENT, Listing([Numbered(images)]))
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        write_rows(run, classify._output(job), [], lambda specs: work)
        profiler.disable()
    wall, cpu = time.perf_counter() - began[0][0], time.process_time() - began[0][1]
    assert run.progress.done == images
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"images": images, "seconds": wall, "cpu": cpu, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--sleep", type=float, default=0.0025, help="seconds for each image")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child or asked.profile:
        feed(asked.images, asked.workers, asked.sleep, asked.batch_size, asked.profile)
        return
    print(
        f"{asked.workers} workers that sleep {1000 * asked.sleep:g} ms, batches of "
        f"{asked.batch_size}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"torch {version('torch')}, Linux {platform.release()}\n\n"
        "| images | main process, microseconds an image | that is at most, images/s "
        "| images/s here | peak, MB |\n|---|---|---|---|---|"
    )
    for images in (asked.images, 10 * asked.images):
        found = measured(["--images", str(images)])
        each = found["cpu"] / images
        print(
            f"| {images:,} | {1e6 * each:.0f} | {1 / each:,.0f} "
            f"| {images / found['seconds']:,.0f} | {found['peak'] / 1e6:.0f} |",
            flush=True,
        )
    print(f"\nNeeded: {NEEDED:,} images/s, {1e6 / NEEDED:.0f} microseconds.")


def measured(images: Sequence[str]) -> dict[str, float]:
    words = [sys.executable, __file__, *sys.argv[1:], *images, "--child"]
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # as in the `vit` process
    ended = subprocess.run(words, stdout=subprocess.PIPE, check=True, env=environment)
    found: dict[str, float] = json.loads(ended.stdout)
    return found


if __name__ == "__main__":
    import feeding  # the workers import SleepJob by this name

    feeding.main()
