"""Measure the time of a whole process for one image with a local model, against a lower bound.

    python benchmarks/startup.py --material /tmp/material --model b

Engines other than torch are measured if they are installed; the first round, which is not counted,
exports the model. The lower bound (the floor) is a Python that imports torch and reads the bytes of
the weights once. The commands take turns for `--rounds` rounds, with the files in the system's
cache. The script prints the medians of the times and of their differences.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from vitcli.engines import ENGINES

FLOOR = "import torch, sys, pathlib; pathlib.Path(sys.argv[1]).read_bytes()"


def seconds(words: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--model", choices=["ti", "s", "b"], default="b")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    folder = args.material / f"vit-{args.model}16"
    image = str(args.material / "small" / "0000.jpg")
    vit = [sys.executable, "-m", "vitcli", "classify", image, "-m", str(folder), "-q"]
    commands = {
        "import torch, read the weights": [
            *(sys.executable, "-c", FLOOR, str(folder / "model.safetensors"))
        ],
        "import torch": [sys.executable, "-c", "import torch"],
        "vit classify": vit,
        "vit classify -j 0": [*vit, "-j", "0"],
        **{
            f"vit classify --engine {name}": [*vit, "--engine", name]
            for name, row in ENGINES.items()
            if name != "torch" and all(map(find_spec, row.packages))
        },
        "vit info": [sys.executable, "-m", "vitcli", "info", str(folder)],
        "vit --help": [sys.executable, "-m", "vitcli", "--help"],
    }
    times_of: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(args.rounds + 1):
        for name, words in commands.items():
            times_of[name].append(seconds(words))
    floor = next(iter(times_of.values()))
    print("| | s | above the floor |\n|---|---|---|")
    for name, times in times_of.items():
        above = statistics.median(a - b for a, b in zip(times[1:], floor[1:], strict=True))
        print(f"| {name} | {statistics.median(times[1:]):.2f} | {above:+.2f} |")


if __name__ == "__main__":
    main()
