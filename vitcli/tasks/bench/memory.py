"""The peak memory of processes."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path


def peak_memory() -> int:
    """The peak memory of this process in bytes. (Without /proc it is `ru_maxrss`, which on Linux
    starts at the parent's memory.)"""
    try:
        return _high_water("self")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def family_peak() -> int | None:
    """The sum of the peak memory of this process and its descendants; pages that they share count
    for each. None without /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    family = {os.getpid()}
    while new := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= new
    total = 0
    for pid in family if parents else ():
        with suppress(OSError):
            total += _high_water(str(pid))
    return total or None


def _high_water(pid: str) -> int:
    """VmHWM of a process in bytes. Raises OSError without /proc or without such a process."""
    for line in Path("/proc", pid, "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0  # a zombie
