"""Measure images per second from files to JSON lines, for vit and its peers in turn.

    python benchmarks/end_to_end.py CASE --material /tmp/material --peers /envs/peers/bin/python

A case is a model and a folder made by `material.py`. Its contenders run one after the other, each
in its own process, for `--rounds` rounds. The time runs from the last row of the second batch to
the last row, so it includes neither start-up nor images decoded ahead. Ratios compare runs of the
same round, and their median is printed. Peak memory is that of the largest process. `--peers` is
the Python with the peers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BATCH = 16
SKIPPED_ROWS = 2 * BATCH
HERE = Path(__file__).parent
PEERS = ("transformers", "timm", "openvino")
HF, HF_FAST = ["transformers"], ["transformers", "--fast"]
INT8 = ["--quantize", "int8"]
OPENVINO = ["--engine", "openvino"]


@dataclass(frozen=True, slots=True)
class Case:
    """A model, a folder, and the contenders by name; all are compared with the first. `peers.py`
    runs those whose arguments begin with the name of a peer, `vit classify` the others."""

    model: str
    folder: str
    images: int
    contenders: dict[str, list[str]]


B16 = {
    "transformers, Pillow": HF,
    "transformers, torchvision": HF_FAST,
    "transformers, Pillow, batch 16": [*HF, "--batch-size", "16"],
    "transformers, Pillow, bf16": [*HF, "--dtype", "bf16"],
    "timm": ["timm", "--batch-size", "16"],
    "timm, bf16": ["timm", "--batch-size", "16", "--dtype", "bf16"],
    "OpenVINO bf16, ready tensors": ["openvino", "--batch-size", "16", "--dtype", "bf16"],
    "vit": [],
    "vit --dtype bf16": ["--dtype", "bf16"],
    "vit --quantize int8": INT8,
    "vit --engine openvino": OPENVINO,
    "vit --engine openvino --dtype bf16": [*OPENVINO, "--dtype", "bf16"],
    "vit --engine openvino --quantize int8": [*OPENVINO, *INT8],
    "vit --engine openvino --dtype bf16 --quantize int8": [*OPENVINO, "--dtype", "bf16", *INT8],
    "vit --engine onnx": ["--engine", "onnx"],
    "vit --engine onnx --quantize int8": ["--engine", "onnx", *INT8],
}
TI16 = {
    "transformers, Pillow": HF,
    "transformers, torchvision": HF_FAST,
    "timm": ["timm", "--batch-size", "16"],
    "vit": [],
    "vit --dtype bf16": ["--dtype", "bf16"],
    "vit --quantize int8": INT8,
    "vit --engine openvino --dtype bf16": [*OPENVINO, "--dtype", "bf16"],
}
LARGE = {
    "transformers, Pillow": HF,
    "transformers, torchvision": HF_FAST,
    "timm": ["timm", "--batch-size", "16"],
    "vit": [],
    "vit --decode fast": ["--decode", "fast"],
    "vit --decode fast --dtype bf16": ["--decode", "fast", "--dtype", "bf16"],
}
CASES = {
    "b16": Case("vit-b16", "small", 96, B16),
    "s16": Case("vit-s16", "small", 240, TI16),
    "ti16": Case("vit-ti16", "small", 400, TI16),
    "ti16-large": Case("vit-ti16", "large", 64, LARGE),
}


def command(case: Case, asked: list[str], material: Path, files: Path, peers: str) -> list[str]:
    model = str(material / case.model)
    if asked and asked[0] in PEERS:
        name, *rest = asked
        model += "-timm" * (name == "timm")
        return [peers, str(HERE / "peers.py"), name, model, str(files), *rest]
    return [sys.executable, "-m", "vitcli", "classify", str(files), "-m", model, *asked]


def run(words: list[str], images: int) -> tuple[float, float, float]:
    """Return images per second, seconds of the process, and megabytes of the largest process."""
    started = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        at = [time.perf_counter() for _ in process.stdout]
        errors = process.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or len(at) != images:
        raise SystemExit(f"{' '.join(words)}\ngave {len(at)} of {images} rows\n{errors}")
    rate = (images - SKIPPED_ROWS) / (at[-1] - at[SKIPPED_ROWS - 1])
    return rate, time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, help="number of links to the case's images")
    parser.add_argument("--only", nargs="*", default=[], help="contenders to run with the first")
    args = parser.parse_args()
    case = CASES[args.case]
    images = args.images or case.images
    files = links(sorted((args.material / case.folder).iterdir()), images)
    first, *others = case.contenders
    names = [first, *(name for name in others if not args.only or name in args.only)]
    results_of: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for number in range(args.rounds):
        for name in names:
            asked = case.contenders[name]
            words = command(case, asked, args.material, files, args.peers)
            if number == 0 and "--engine" in words:
                run(words, images)  # exports the model
            results_of[name].append(run(words, images))
    print(f"{args.case}: {images} images, {args.rounds} rounds, medians\n")
    print("| | images/s | against the first | process, s | MB |\n|---|---|---|---|---|")
    for name, results in results_of.items():
        ratio = statistics.median(
            a[0] / b[0] for a, b in zip(results, results_of[first], strict=True)
        )
        rate, whole, memory = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"| {name} | {rate:.1f} | {ratio:.2f}x | {whole:.1f} | {memory:.0f} |", flush=True)


def links(photographs: list[Path], count: int) -> Path:
    """Make a folder of `count` links to the photographs in turn."""
    folder = photographs[0].parent.with_name(f"{photographs[0].parent.name}-{count}")
    folder.mkdir(exist_ok=True)
    for number in range(count):
        link = folder / f"{number:05d}.jpg"
        if not link.exists():
            link.hardlink_to(photographs[number % len(photographs)])
    return folder


if __name__ == "__main__":
    main()
