"""Search an index on a Ray cluster: each task searches some of the rows, and the best are merged.

All nodes share one file system, as for a run over images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import DeviceError, UsageError, VitError, check_installed
from vitcli.fleet.cluster import connected
from vitcli.indexes.index import Index, open_files
from vitcli.indexes.search import Finder, Found, Metric, merged, nearest
from vitcli.stores import is_remote

WAIT = 0.5  # seconds between two looks at an interruption


def finder(address: str | None) -> Finder:
    """Return the function that searches: `nearest`, or its like on the cluster at an address, which
    raises DeviceError if there is none."""
    if address is None:
        return nearest
    check_installed("--ray", "ray", extra="ray")
    return _Shared(address)


@dataclass(frozen=True, slots=True)
class _Shared:
    """Shares the rows of an index among the processors of a cluster. It is connected only while it
    searches: in that time nothing can be written to standard output."""

    address: str

    def __call__(
        self,
        index: Index,
        queries: NDArray[np.floating],
        k: int,
        *,
        metric: Metric = "cosine",
        threshold: float | None = None,
        step: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Found]:
        """Return what `nearest` returns, for an index of files."""
        if any(not is_remote(file) and not Path(file).exists() for file in index.files):
            raise UsageError("--ray searches files, and this index is an array", "leave out ray")
        files = [file if is_remote(file) else str(Path(file).absolute()) for file in index.files]
        with connected(self.address) as ray:
            processors = int(ray.cluster_resources().get("CPU", 0))
            if processors < 1:
                raise DeviceError("the Ray cluster has no processors", "see `ray status`")
            edges = np.linspace(0, index.count, min(processors, max(index.count, 1)) + 1)
            rows = [(int(low), int(high)) for low, high in pairwise(edges)]
            task, asked = ray.remote(_search).options(num_cpus=1), ray.put(queries)
            todo = [task.remote(files, asked, k, metric, threshold, some) for some in rows]
            results = _awaited(ray, todo, step)
        return [merged(of_one, k) for of_one in zip(*results, strict=True)]


def _awaited(ray: Any, todo: list[Any], step: Callable[[int, int], None]) -> list[list[Found]]:
    """Wait for the results of tasks; cancel them if one fails."""
    waiting, results = list(todo), []
    try:
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=WAIT)
            results += [ray.get(one) for one in ready]
            step(len(todo) - len(waiting), len(todo))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, VitError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise DeviceError(
            f"the Ray cluster has lost a part of the search: {type(error).__name__}",
            "repeat the command",
        ) from None
    finally:
        for one in waiting:
            ray.cancel(one, force=True)
    return results


def _search(
    files: list[str],
    queries: NDArray[np.floating],
    k: int,
    metric: Metric,
    threshold: float | None,
    rows: tuple[int, int],
) -> list[Found]:
    """Search some rows, in a process of the cluster."""
    index = open_files(files)
    return nearest(index, queries, k, metric=metric, threshold=threshold, within=rows, threads=1)
