"""Measure search beside faiss, usearch and a plain numpy script, in one run.

    python benchmarks/search.py 1000000 768 --folder /tmp/vectors --peers /envs/peers/bin/python

Each contestant is a process of its own, and they take turns. A process first gets ready (it reads,
copies or builds what it keeps in memory), then searches for one query several times, then for
`--many` at once. Printed are medians over the rounds: seconds, the share of what bounds the search
(the time of a sum over the matrix for one query, the rate of matrix products for many), the share
of the true rows that are found, and the peak of the resident memory.

`sum` and `product` are no searches but these bounds. `vit` and `vit --like` run with the Python of
this script, the latter as a whole process of the command. `vit --approximate` needs usearch there;
its graph is built once and kept in `--folder`. `--peers` names the Python that has faiss-cpu and
usearch (the default is this one).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from vectors import peak_megabytes, write_index

Rows = NDArray[np.int64]
Search = Callable[[NDArray[np.float32], int], Any]  # (queries, k) -> the rows of each
REPEATS = 5


def queries_of(file: Path, number: int) -> NDArray[np.float32]:
    """Rows of the index with some noise.  -> (number, D)"""
    random = np.random.default_rng(1)
    with file.open("rb") as handle:  # read, not mapped: mapped pages count as memory
        count, width = header_of(handle)
        start, taken = handle.tell(), np.empty((number, width), np.float32)
        for out, row in zip(taken, np.sort(random.integers(0, count, number)), strict=True):
            handle.seek(start + 4 * width * int(row))
            handle.readinto(out.data)
    return taken + 0.5 * random.standard_normal(taken.shape, np.float32)


def header_of(handle: BinaryIO) -> tuple[int, int]:
    """The shape of an .npy file, whose numbers begin where the handle then is."""
    np.lib.format.read_magic(handle)
    shape, _, _ = np.lib.format.read_array_header_1_0(handle)
    return shape


def with_sum(file: Path) -> Search:
    """Add up the matrix, a part for each processor: what one reading from memory costs."""
    rows = np.load(file)
    parts = np.array_split(rows, len(os.sched_getaffinity(0)))
    pool = ThreadPoolExecutor(len(parts))
    return lambda queries, k: list(pool.map(np.sum, parts)) if len(queries) == 1 else None


def with_product(file: Path) -> Search:
    """Multiply blocks of the matrix with the queries, and keep nothing."""
    rows = np.load(file)

    def run(queries: NDArray[np.float32], k: int) -> None:
        out = np.empty((len(queries), 4096), np.float32)
        for start in range(0, len(rows), 4096):
            block = rows[start : start + 4096]
            np.matmul(queries, block.T, out=out[:, : len(block)])

    return run


def with_numpy(file: Path) -> Search:
    """The script that everybody writes."""
    rows = np.load(file)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    def run(queries: NDArray[np.float32], k: int) -> list[Rows]:
        found = []
        for start in range(0, len(queries), 32):  # 32 x N scores at a time
            for scores in queries[start : start + 32] @ rows.T:
                best = np.argpartition(-scores, k)[:k]
                found.append(best[np.argsort(-scores[best])])
        return found

    return run


def with_faiss(file: Path) -> Search:
    import faiss

    rows = np.load(file)
    faiss.normalize_L2(rows)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    del rows
    return lambda queries, k: index.search(queries, k)[1]


def with_usearch(file: Path) -> Search:
    from usearch.index import Index

    rows = np.load(file)
    index = Index(ndim=rows.shape[1], metric="cos", dtype="f16")
    index.add(np.arange(len(rows)), rows)
    del rows
    return lambda queries, k: np.reshape(index.search(queries, k).keys, (-1, k))


def with_vit(file: Path) -> Search:
    from vitcli.indexes.index import open_index
    from vitcli.indexes.search import nearest

    index = open_index([str(file)])
    return lambda queries, k: [found.rows for found in nearest(index, queries, k)]


def with_graph(file: Path) -> Search:
    from vitcli.indexes.approximate import propose
    from vitcli.indexes.index import open_index

    index = open_index([str(file)])
    propose(index, queries_of(file, 1), 1)  # builds the graph, if there is none
    return lambda queries, k: [found.rows for found in propose(index, queries, k)]


CONTESTANTS = {
    "sum": with_sum,
    "product": with_product,
    "numpy": with_numpy,
    "faiss": with_faiss,
    "usearch": with_usearch,
    "vit": with_vit,
    "vit --approximate": with_graph,
}
PEERS = ("faiss", "usearch")


def measure(name: str, file: Path, many: int, k: int) -> dict[str, Any]:
    """Run one contestant in this process."""
    queries = queries_of(file, many)
    started = time.perf_counter()
    search = CONTESTANTS[name](file)
    ready = time.perf_counter() - started
    times = []
    search(queries[:1], k)
    for number in range(REPEATS):
        started = time.perf_counter()
        search(queries[number % many :][:1], k)
        times.append(time.perf_counter() - started)
    started = time.perf_counter()
    found = search(queries, k)
    seconds = time.perf_counter() - started
    is_search = name not in ("sum", "product")
    return {
        "ready": ready,
        "one": statistics.median(times),
        "many": seconds if found is not None or name == "product" else None,
        "peak": peak_megabytes(),
        "rows": [np.asarray(row).tolist() for row in found] if is_search else None,
    }


def run(python: str, words: Sequence[str]) -> dict[str, Any] | None:
    """One contestant in a process of its own; None if its package is missing."""
    env = dict(os.environ)
    if words[-1].startswith("vit"):  # as the command does: a search has threads of its own
        env["OPENBLAS_NUM_THREADS"] = "1"
    ended = subprocess.run([python, __file__, *words], capture_output=True, text=True, env=env)
    if ended.returncode:
        last = (ended.stderr.splitlines() or ["no message"])[-1]
        print(f"{words[-1]} left out: {last}", file=sys.stderr)
        return None
    measured: dict[str, Any] = json.loads(ended.stdout)
    return measured


def like(file: Path) -> float:
    """Seconds of `vit search --like` as a process."""
    command = [sys.executable, "-m", "vitcli", "search", str(file), "--like", "0", "-q"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def share_found(rows: list[list[int]], true: list[list[int]]) -> float:
    """The share of the true rows that are among those found."""
    pairs = list(zip(rows, true, strict=True))
    return sum(len(set(a) & set(b)) for a, b in pairs) / sum(len(b) for _, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("count", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--folder", type=Path, required=True, help="for the index; it is kept")
    parser.add_argument("--peers", default=sys.executable, help="the Python of faiss and usearch")
    parser.add_argument("--many", type=int, default=256, help="queries at once")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--leave-out", nargs="*", default=[], choices=list(CONTESTANTS))
    parser.add_argument("--as", dest="name", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / f"{options.count}x{options.width}.npy"
    if options.name:
        print(json.dumps(measure(options.name, file, options.many, options.k)))
        return
    write_index(file, options.count, options.width)
    names = [name for name in CONTESTANTS if name not in options.leave_out]
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    whole = []
    for number in range(options.rounds):
        for name in names:
            words = [str(options.count), str(options.width), "--folder", str(options.folder)]
            words += ["--many", str(options.many), "-k", str(options.k), "--as", name]
            measured = run(options.peers if name in PEERS else sys.executable, words)
            if measured is not None:
                taken[name].append(measured)
                print(f"round {number + 1}: {name}", file=sys.stderr)
        whole.append(like(file))
    show(options, taken)
    print(f"vit search --like, whole process: {statistics.median(whole):.2f} s")


def show(options: argparse.Namespace, taken: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table."""

    def median(name: str, field: str) -> float:
        values = [one[field] for one in taken.get(name, ()) if one[field] is not None]
        return statistics.median(values) if values else float("nan")

    true = taken["vit"][0]["rows"] if taken.get("vit") else None
    print(f"{options.count:,} x {options.width}, k = {options.k}, {options.rounds} rounds, medians")
    print(
        f"| | ready, s | 1 query, ms | x sum | {options.many} queries, s | product rate | ", end=""
    )
    print("found | peak, MB |\n|---|---|---|---|---|---|---|---|")
    for name in (name for name, runs in taken.items() if runs):
        one = median(name, "one") if name != "product" else float("nan")
        many = median(name, "many")
        rows = taken[name][-1]["rows"]
        found = f"{share_found(rows, true):.1%}" if rows and true else "-"
        cells = [
            f"{median(name, 'ready'):.2f}",
            f"{one * 1e3:.1f}",
            f"{one / median('sum', 'one'):.2f}",
            f"{many:.3f}",
            f"{median('product', 'many') / many:.0%}",
            found,
            f"{median(name, 'peak'):.0f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |".replace("nan%", "-").replace("nan", "-"))


if __name__ == "__main__":
    main()
