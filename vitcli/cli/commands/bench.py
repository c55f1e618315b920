"""`vit bench`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options.declare import Group, Option
from vitcli.cli.screen.exit import is_terminal, show
from vitcli.cli.screen.screen import Screen
from vitcli.errors import Interrupted, printable
from vitcli.jobs.job import DEFAULT_MODEL, ModelOptions

if TYPE_CHECKING:
    from vitcli.tasks.bench.bench import Bench
    from vitcli.tasks.bench.verdict import BenchRow

On = Annotated[
    Path | None,
    Option(
        "--on",
        group=Group.INPUTS,
        brief="Also measure end to end on the images of DIR.",
        help="Also measure end to end on the images of DIR, with workers and --decode.",
        metavar="DIR",
    ),
]
Seconds = Annotated[
    float,
    Option(
        "--seconds",
        group=Group.SPEED,
        brief="Time limit for the whole benchmark.",
        help="Time limit for the whole benchmark; skipped candidates are reported.",
        min=1,
        metavar="N",
        env="VIT_BENCH_SECONDS",
    ),
]
COLUMNS: dict[str, Callable[[BenchRow], object]] = {
    "engine": lambda row: row.candidate.engine,
    "dtype": lambda row: row.candidate.dtype,
    "quantize": lambda row: row.candidate.quantize,
    "batch_size": lambda row: row.batch_size,
    "workers": lambda row: row.workers,
    "decode": lambda row: row.decode,
    "images_per_second": lambda row: _rounded(row.images_per_second, 2),
    "latency_ms": lambda row: _rounded(row.latency_ms, 2),
    "peak_mb": lambda row: _megabytes(row.peak),
    "device_peak_mb": lambda row: _megabytes(row.device_peak),
    "cosine": lambda row: row.likeness and _rounded(row.likeness.cosine, 6),
    "top1_agreement": lambda row: row.likeness and _rounded(row.likeness.agreement, 4),
    "compared": lambda row: row.likeness and row.likeness.images,
    "limit_share": lambda row: _rounded(row.limit_share, 3),
    "command": lambda row: row.command,
}


@g.with_model
def bench(
    options: ModelOptions,
    positional: o.ModelArgument = None,
    model: o.ModelSpec = DEFAULT_MODEL,
    on: On = None,
    device: o.Device = "auto",
    seconds: Seconds = 60.0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    no_progress: o.NoProgress = False,
) -> None:
    """Find the fastest way to run a model on this machine.

    Measures engines, dtypes, quantisation, batch sizes and workers, each in a separate process.
    Prints a table on a terminal, tab-separated lines in a pipe, and the best commands. Ctrl-C ends
    the search and prints the results so far.

    Example:  vit bench google/vit-base-patch16-224 --on ./photos --seconds 180
    """
    began = time.monotonic()
    with Screen(quiet=quiet, progress=False) as screen:
        from vitcli.cli.screen.bench_table import print_bench, status
        from vitcli.tasks.bench import bench as task

        job = task.BenchJob(
            model=positional or model,
            options=options,
            on=str(on) if on is not None else None,
            device=device,
            seconds=seconds,
        )
        with status(is_shown=not quiet and not no_progress) as on_step:
            result = task.bench(job, screen, on_step, began=began)
        for line in _notes(result):
            screen.note(line)
    if as_json:
        show(json.dumps(_report(result), ensure_ascii=False, allow_nan=False))
    elif is_terminal():
        print_bench(result)
    else:
        show("\n".join("\t".join(line) for line in _tsv(result)))
        for advice in result.advice if not quiet else ():
            print(f"{advice.words}: {printable(advice.row.command)}", file=sys.stderr)
    if result.interrupted is not None:
        interrupted = Interrupted(result.interrupted)
        interrupted.after = f"{len({row.candidate for row in result.rows})} candidates"
        raise interrupted


def _notes(result: Bench) -> Iterator[str]:
    """Yield notes on exports, and on candidates that are missing in the table."""
    for name, seconds in result.exports.items():
        yield f"{name}: the export took {seconds:.1f} s, not counted in the rate; it is kept"
    from vitcli.tasks.bench.bench import OUT_OF_TIME

    late = [name for name, why in result.left_out.items() if why == OUT_OF_TIME]
    if late:
        yield f"left out for lack of time: {'; '.join(late)} (give more --seconds)"


def _report(result: Bench) -> dict[str, object]:
    return {
        "model": result.model,
        "device": result.device,
        "threads": result.threads,
        "images": result.images,
        "gflops": round(result.gflops, 3),
        "limits_gflops": {name: round(rate / 1e9, 1) for name, rate in result.limits.items()},
        "rows": [_record(row) for row in result.rows],
        "best": {advice.purpose: _record(advice.row) for advice in result.advice},
        "exports": {name: round(seconds, 1) for name, seconds in result.exports.items()},
        "left_out": result.left_out,
        "seconds": round(result.seconds, 1),
        "interrupted": result.interrupted is not None,
    }


def _record(row: BenchRow) -> dict[str, object]:
    return {name: value_of(row) for name, value_of in COLUMNS.items()}


def _tsv(result: Bench) -> Iterator[list[str]]:
    yield list(COLUMNS)
    for row in result.rows:
        yield ["" if value is None else str(value) for value in _record(row).values()]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _megabytes(count: int | None) -> float | None:
    return None if count is None else round(count / 1e6, 1)
