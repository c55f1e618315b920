"""An index at random for the benchmarks of search and map, and the peak memory of a process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

GROUPS = 1000
SPREAD = 1.5  # the noise around the middle of a group
BLOCK = 10_000


def write_index(file: Path, count: int, width: int, groups: int = GROUPS) -> None:
    """Write rows in groups, as images have them, and their names, unless the file is there."""
    if file.exists():
        return
    random = np.random.default_rng(0)
    middles = random.standard_normal((groups, width), np.float32)
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
    names = file.with_name(f"{file.stem}.index.jsonl")
    with file.open("wb") as rows, names.open("w", encoding="utf-8") as lines:
        np.lib.format.write_array_header_1_0(rows, header)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            block = SPREAD * random.standard_normal((size, width), np.float32)
            block += middles[random.integers(0, groups, size)]
            block.tofile(rows)
            for row in range(start, start + size):
                record = {"row": row, "path": f"photos/{row:09}.jpg"}
                print(json.dumps(record, separators=(",", ":")), file=lines)


def peak_megabytes() -> float:
    """The largest resident memory of this process since its start. (`ru_maxrss` would begin with
    that of the process that started it.)"""
    status = Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6
