"""Compare a tar with the same images as files: images per second, and memory during a long tar.

    python benchmarks/tars.py --photos /tmp/material/small-4000 --folder /tmp/tars [--cold]

copies the images, packs them, and runs `vit classify` on both in turn, without the network (see
`listing.py`). It measures time like `end_to_end.py`, and prints the median of the ratios of all
rounds. `--cold` drops the page cache before each run (root, Linux). `--long 20000` runs once on a
tar of 20,000 members, and prints the memory of every process during the run.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

from end_to_end import run
from listing import STUBBED, memory, session_of

VIT = [sys.executable, "-c", STUBBED, "classify"]
DEMO = ["-m", "demo", "-k", "1", "-b", "16", "-q"]
SHARES = (0.1, 0.5, 0.9)  # of the members of a long tar, after which memory is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument(
        "--folder", type=Path, required=True, help="is created, and deleted at the end"
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument(
        "--long", type=int, help="run once on a tar of N members instead", metavar="N"
    )
    asked = parser.parse_args()
    photos = sorted(asked.photos.iterdir())
    asked.folder.mkdir()
    print(
        f"-j {asked.workers}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"torch {version('torch')}, Pillow {version('pillow')}, Linux {platform.release()}\n"
    )
    try:
        if asked.long:
            print_memory(packed(asked.folder, photos, asked.long), asked.long, asked.workers)
        else:
            compare(asked, photos)
    finally:
        shutil.rmtree(asked.folder)


def packed(folder: Path, photos: list[Path], count: int) -> Path:
    """Write a tar of `count` members, with the photographs in turn."""
    archive = folder / "images.tar"
    with tarfile.open(archive, "w", dereference=True) as tar:
        for number in range(count):
            tar.add(photos[number % len(photos)], f"{number:07}.jpg")
    return archive


def compare(asked: argparse.Namespace, photos: list[Path]) -> None:
    files = asked.folder / "files"
    files.mkdir()
    for number in range(asked.images):
        shutil.copyfile(photos[number % len(photos)], files / f"{number:07}.jpg")
    contenders = {
        "files": files,
        "tar": packed(asked.folder, photos, asked.images),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(asked.rounds):
        order = list(contenders)
        for name in order if number % 2 else reversed(order):
            if asked.cold:
                os.sync()
                Path("/proc/sys/vm/drop_caches").write_text("3")
            words = [*VIT, str(contenders[name]), *DEMO, "-j", asked.workers]
            rates[name].append(run(words, asked.images)[0])
    low, *_, high = ratios = sorted(
        tar / files for tar, files in zip(rates["tar"], rates["files"], strict=True)
    )
    kind = "cold" if asked.cold else "hot"
    medians = ", ".join(f"{name} {statistics.median(own):.0f}/s" for name, own in rates.items())
    print(
        f"{asked.images} images, {asked.rounds} rounds, {kind} cache: {medians}; "
        f"tar against files {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"
    )


def print_memory(archive: Path, count: int, workers: str) -> None:
    print("| images | main, MB | a worker, MB |\n|---|---|---|")
    marks = [round(count * share) for share in SHARES]
    with subprocess.Popen(
        [*VIT, archive, *DEMO, "-j", workers], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        rows = 0
        for rows, _ in enumerate(process.stdout, start=1):
            if rows in marks:
                others = [memory(pid, "VmRSS") for pid in session_of(process.pid)]
                print(f"| {rows:,} | {memory(process.pid, 'VmRSS'):.0f} | {max(others):.0f} |")
        assert rows == count, f"{rows} rows of {count}"


if __name__ == "__main__":
    main()
