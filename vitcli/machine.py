"""Read what this machine is: its processors and its memory, and how much this process may use."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CORES = Path("/sys/devices/system/cpu")
CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
NO_LIMIT = 1 << 60  # bytes: the first version of control groups says 2**63 less a page

# The instruction sets that decide which precision is fast, as Linux calls them.
INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "sve", "i8mm", "bf16"),
)


def available_cpus() -> int:
    """Count the processors that this process may use, by its affinity and its CPU quota."""
    return max(1, math.ceil(min(affinity(), cpu_quota())))


def affinity() -> int:
    """Count the processors that the system may run this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compute_threads(cores: Path = CORES) -> int:
    """Return on how many threads torch computes, or would if it were imported: on as many as
    MKL_NUM_THREADS or OMP_NUM_THREADS says, at most one for each core that this process may use."""
    if (torch := sys.modules.get("torch")) is not None:
        return int(torch.get_num_threads())
    most = len(_cores(cores))
    for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        number = os.environ.get(name, "").partition(",")[0].strip()
        if number.isdecimal() and int(number):
            return min(int(number), most)
    return most


def _cores(folder: Path) -> set[str]:
    """The cores that this process may use (Linux, sysfs), each by the list of its processors: two
    of them may share a core."""
    if not hasattr(os, "sched_getaffinity"):
        return {str(number) for number in range(affinity())}
    cores = set()
    for number in os.sched_getaffinity(0):
        core = str(number)
        with suppress(OSError):
            siblings = folder / f"cpu{number}" / "topology" / "thread_siblings_list"
            core = siblings.read_text("ascii").strip()
        cores.add(core)
    return cores


@cache
def cpu_quota(root: Path = GROUPS, own: Path = OWN_GROUPS) -> float:
    """Return the CPU quota of this process in processors, from its control groups (Linux,
    cgroups(7)); infinity without a quota."""
    least = math.inf
    for folder in _groups(root, own, ""):
        # `max 100000` means no quota, and int() raises ValueError.
        with suppress(OSError, ValueError, ZeroDivisionError):
            limit, period = (folder / "cpu.max").read_text("ascii").split()
            least = min(least, int(limit) / int(period))
    for folder in _groups(root, own, "cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            limit, period = (
                (folder / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period")
            )
            least = min(least, int(limit) / int(period) if int(limit) > 0 else math.inf)
    return least


def memory_limit(root: Path = GROUPS, own: Path = OWN_GROUPS) -> int | None:
    """Return the memory that the control groups of this process allow, in bytes; None without a
    limit."""
    files = (
        *(folder / "memory.max" for folder in _groups(root, own, "")),
        *(folder / "memory.limit_in_bytes" for folder in _groups(root, own, "memory")),
    )
    least = NO_LIMIT
    for file in files:
        with suppress(OSError, ValueError):  # `max` means no limit
            least = min(least, int(file.read_text("ascii")))
    return None if least == NO_LIMIT else least


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of this process's control group and of its parents, up to the root. The
    controller "" is the second version's, for everything. In a container the group's own folder may
    be missing, and only the root can be read."""
    with suppress(OSError, ValueError):
        lines = [line.split(":", 2) for line in own.read_text("utf-8").splitlines()]
        places = {name: place for _, names, place in lines for name in names.split(",")}
        top = root / controller
        folder = top / places.get(controller, "/").strip("/")
        yield folder
        yield from (above for above in folder.parents if above.is_relative_to(top))


def memory(file: Path = MEMINFO) -> tuple[int | None, int | None]:
    """Return the memory of this machine and how much of it is free, in bytes; None for what the
    system does not say."""
    total = free = None
    with suppress(OSError, ValueError, AttributeError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, IndexError):
        lines = file.read_text("ascii").splitlines()
        [line] = [line for line in lines if line.startswith("MemAvailable:")]
        free = int(line.split()[1]) * 1024
    return total, free


def first_processor(file: Path = CPUINFO) -> Mapping[str, str]:
    """Return what Linux says of the first processor, such as its "model name" and its "flags"; of
    another system, what it calls the processor."""
    try:
        first = file.read_text("utf-8").partition("\n\n")[0]
    except OSError:
        return {"model name": platform.processor() or platform.machine()}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def instruction_sets(processor: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the INSTRUCTIONS that a processor has; None if the system does not say."""
    flags = processor.get("flags", processor.get("Features"))
    if flags is None:
        return None
    return tuple(name for name in INSTRUCTIONS if name in flags.split())
