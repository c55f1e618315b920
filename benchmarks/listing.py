"""Measure the time to the first row and the memory of every process, for a million images.

    python benchmarks/listing.py --files 1000000 --folder /tmp/million

makes hard links to 40 small images, once in a single folder and once in folders of a thousand. It
runs `vit classify` without the network on both, and prints a Markdown table. Linux only.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

INODES = 40  # ext4 allows at most 65,000 links to a file
PER_FOLDER = 1000

# `vit` without the network: every image gets the label 0.
STUBBED = """
import sys
from vitcli import cli
from vitcli.records import Classified, Prediction
from vitcli.tasks.classify import classify

found = (Prediction("0", 0, 1.0),)
classify._forward = lambda *given: lambda batch: [Classified(ref, found) for ref in batch.refs]
sys.exit(cli.main(sys.argv[1:]))
"""
# Only the listing, with its time and memory.
LISTED = """
import resource, sys, time
from vitcli.images.sources import count, iter_refs, open_sources

used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, started = used(), time.perf_counter()
files = sum(1 for _ in iter_refs(open_sources([sys.argv[1]])))
print(files, time.perf_counter() - started, (used() - before) * 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument(
        "--folder", type=Path, required=True, help="is created, and deleted at the end"
    )
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    asked.folder.mkdir()
    try:
        seeds = make_seeds(asked.folder / "seeds")
        print(
            f"{asked.files:,} files, -j {asked.workers}, {os.cpu_count()} processors, "
            f"Python {platform.python_version()}, torch {version('torch')}, "
            f"Pillow {version('pillow')}, Linux {platform.release()}\n"
        )
        print(
            "| tree | listed in | bytes a file | first row | all rows | main at 1 % | main at 90 %"
            " | main, peak | a worker, peak |\n|---|---|---|---|---|---|---|---|---|"
        )
        for name, per_folder in (("one folder", asked.files), ("folders of 1,000", PER_FOLDER)):
            tree = asked.folder / name
            make_tree(tree, seeds, asked.files, per_folder)
            print(f"| {name} | {listing(tree)} | {run(tree, asked.files, asked.workers)} |")
            shutil.rmtree(tree)
    finally:
        shutil.rmtree(asked.folder)


def make_seeds(folder: Path) -> list[Path]:
    folder.mkdir()
    seeds = [folder / f"{index}.jpg" for index in range(INODES)]
    for index, seed in enumerate(seeds):
        pixels = np.random.RandomState(index).randint(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(seed)
    return seeds


def make_tree(tree: Path, seeds: list[Path], files: int, per_folder: int) -> None:
    """Make hard links, not in the order of their names."""
    for index in range(files):
        number = index * 7919 % files
        folder = tree / f"{number // per_folder:04}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(seeds[index % len(seeds)], f"{folder}/photo-{number:07}.jpg")


def listing(tree: Path) -> str:
    process = subprocess.run(
        [sys.executable, "-c", LISTED, tree], capture_output=True, text=True, check=True
    )
    files, seconds, size = map(float, process.stdout.split())
    return f"{seconds:.1f} s | {size / files:.0f}"


def run(tree: Path, files: int, workers: int) -> str:
    """Measure the times and the memory of one run while reading its output."""
    command = [sys.executable, "-c", STUBBED, "classify", tree, "-m", "demo", "-k", "1", "-q"]
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "-j", str(workers)], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        sizes, rows, first = {}, 0, 0.0
        for rows, _ in enumerate(process.stdout, start=1):
            if rows == 1:
                first = time.perf_counter() - started
            if rows in (files // 100, files * 9 // 10):
                sizes[rows] = memory(process.pid, "VmRSS")
                peak = memory(process.pid, "VmHWM")
                others = [memory(pid, "VmHWM") for pid in session_of(process.pid)]
        seconds = time.perf_counter() - started
    assert rows == files, f"{rows} rows of {files} files, exit code {process.returncode}"
    resident = " | ".join(f"{size:.0f} MB" for size in sizes.values())
    return f"{first:.1f} s | {seconds:.0f} s | {resident} | {peak:.0f} MB | {max(others):.0f} MB"


def session_of(leader: int) -> list[int]:
    process = subprocess.run(["pgrep", "-s", str(leader)], capture_output=True, text=True)
    return [int(pid) for pid in process.stdout.split() if int(pid) != leader]


def memory(pid: int, field: str) -> float:
    """The memory of a process in megabytes, by a field of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
