"""Turn measurements into table rows, and rows into advice."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitcli.jobs.job import ModelOptions
from vitcli.records import Decode, by
from vitcli.tasks.bench.protocol import Candidate, Outputs, Read, Timed

Purpose: TypeAlias = Literal["exact", "fastest", "close", "latency", "memory"]
PURPOSES: Mapping[Purpose, str] = {
    "exact": "exact numbers",
    "fastest": "fastest",
    "close": "fastest that agrees with fp32 on 99 %",
    "latency": "lowest latency of one image",
    "memory": "least memory",
}
MIN_AGREEMENT = 0.99  # of the top-1 labels
MIN_COSINE = 0.995  # of the embeddings, for models without labels
NOISE = 0.02  # rates that differ by less count as equal


@dataclass(slots=True)
class Measured:
    """The measurements of one candidate. `fast` holds its outputs for images decoded with
    `--decode fast`."""

    candidate: Candidate
    timed: list[Timed] = field(default_factory=list)
    outputs: Outputs | None = None
    reads: list[Read] = field(default_factory=list)
    read_batch: int = 0
    fast: Outputs | None = None

    @property
    def best(self) -> Timed:
        """The smallest batch that reaches the highest rate within the noise."""
        most = max(t.batch_size / t.seconds for t in self.timed)
        return next(t for t in self.timed if t.batch_size / t.seconds >= most * (1 - NOISE))

    @property
    def latency_ms(self) -> float | None:
        """The milliseconds for a batch of one."""
        return next((1e3 * t.seconds for t in self.timed if t.batch_size == 1), None)


@dataclass(frozen=True, slots=True)
class Likeness:
    """The agreement with fp32 on the same images: the mean cosine of the embeddings, the share of
    equal top-1 labels (None without labels), and the number of images."""

    cosine: float
    agreement: float | None
    images: int

    @property
    def is_close(self) -> bool:
        if self.agreement is None:
            return self.cosine >= MIN_COSINE
        return self.agreement >= MIN_AGREEMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One line of the table. Rows with `workers` and `decode` were measured on files, the others on
    ready images. Memory is in bytes; `limit_share` is the share of the machine's rate of matrix
    products that is reached; `command` runs the model in this way."""

    candidate: Candidate
    batch_size: int
    images_per_second: float
    workers: int | None = None
    decode: Decode | None = None
    latency_ms: float | None = None
    peak: int | None = None
    device_peak: int | None = None
    likeness: Likeness | None = None
    limit_share: float | None = None
    command: str = ""

    @property
    def is_exact(self) -> bool:
        return self.candidate.is_exact and self.decode != "fast"

    @property
    def is_close(self) -> bool:
        return self.likeness is not None and self.likeness.is_close


@dataclass(frozen=True, slots=True)
class Advice:
    """The best row for a purpose."""

    purpose: Purpose
    row: BenchRow

    @property
    def words(self) -> str:
        return PURPOSES[self.purpose]


def likeness(reference: Outputs, other: Outputs, dim: int) -> Likeness | None:
    """Compare the outputs for common images, (n, D + K) with D = dim; None if there are none. The
    labels are compared if there are several; a single output has no best one."""
    common, first, second = np.intersect1d(reference.images, other.images, return_indices=True)
    if not len(common):
        return None
    a, b = reference.values[first].astype(np.float64), other.values[second].astype(np.float64)
    has_labels = a.shape[1] > dim + 1
    same = a[:, dim:].argmax(axis=1) == b[:, dim:].argmax(axis=1) if has_labels else None
    with np.errstate(invalid="ignore", over="ignore"):
        cosine = np.nan_to_num(_cosines(a[:, :dim], b[:, :dim]), nan=0.0).mean()
    return Likeness(float(cosine), None if same is None else float(same.mean()), len(common))


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, D) twice -> (n,)"""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = (a * b).sum(axis=1) / np.where(norms > 0, norms, 1)
    return cosines


def table(
    measured: Iterable[Measured],
    reference: Outputs | None,
    dim: int,
    shares: Mapping[Candidate, float],
) -> Iterator[BenchRow]:
    """Yield the rows of all candidates. `shares` is the share of the limit per image a second."""

    def compared(outputs: Outputs | None) -> Likeness | None:
        return likeness(reference, outputs, dim) if reference and outputs else None

    for result in measured:
        exact, fast = compared(result.outputs), compared(result.fast)
        share = shares.get(result.candidate)
        for timed in result.timed:
            rate = timed.batch_size / timed.seconds
            yield BenchRow(
                candidate=result.candidate,
                latency_ms=result.latency_ms,
                batch_size=timed.batch_size,
                images_per_second=rate,
                peak=timed.peak,
                device_peak=timed.device_peak,
                likeness=exact,
                limit_share=None if share is None else rate * share,
            )
        for read in result.reads:
            yield BenchRow(
                candidate=result.candidate,
                latency_ms=result.latency_ms,
                batch_size=result.read_batch,
                workers=read.reading.workers,
                decode=read.reading.decode,
                images_per_second=read.images_per_second,
                peak=read.peak,
                likeness=fast if read.reading.decode == "fast" else exact,
                limit_share=None if share is None else read.images_per_second * share,
            )


def advise(rows: Sequence[BenchRow]) -> Iterator[Advice]:
    """Yield the best row for each purpose. If files were read, their rows decide the speed."""
    ready = [row for row in rows if row.workers is None]
    speed = [row for row in rows if row.workers is not None] or ready
    singles = [row for row in ready if row.batch_size == 1]
    chosen: dict[Purpose, BenchRow | None] = {
        "exact": _fastest([row for row in speed if row.is_exact]),
        "fastest": _fastest(speed),
        "close": _fastest([row for row in speed if row.is_close]),
        "latency": min(singles, key=lambda row: row.latency_ms or 0.0, default=None),
        "memory": min(ready, key=lambda row: row.device_peak or row.peak or 0, default=None),
    }
    for purpose, row in chosen.items():
        if row is not None:
            yield Advice(purpose, row)


def _fastest(rows: Sequence[BenchRow]) -> BenchRow | None:
    """The row of the fastest candidate with the smallest batch and the fewest workers, within
    the noise."""
    if not rows:
        return None
    best = max(rows, key=lambda row: row.images_per_second)
    as_good = [
        row
        for row in rows
        if (row.candidate, row.decode) == (best.candidate, best.decode)
        and row.images_per_second >= best.images_per_second * (1 - NOISE)
    ]
    return min(as_good, key=lambda row: (row.batch_size, row.workers or 0))


def command_of(
    row: BenchRow, model: str, options: ModelOptions, device: str, inputs: str, has_labels: bool
) -> str:
    """The shell command that runs `model` in the way of this row; `vit embed` for a backbone."""
    candidate = row.candidate
    words = ["vit", "classify" if has_labels else "embed", inputs, "-m", model]
    words += _model_words(options)
    words += [] if device == "auto" else ["--device", device]
    words += ["--engine", candidate.engine, "--dtype", candidate.dtype]
    words += ["--quantize", candidate.quantize] if candidate.quantize else []
    words += ["-b", str(row.batch_size)]
    words += [] if row.workers is None else ["-j", str(row.workers)]
    words += [] if row.decode is None else ["--decode", row.decode]
    words += [] if has_labels else ["-o", "features.npy"]
    return shlex.join(words)


def _model_words(options: ModelOptions) -> Iterator[str]:
    """Yield the model's options that differ from the defaults, except `--decode`."""
    values = {
        "--layout": options.layout,
        "--labels": options.labels,
        "--image-size": options.image_size and by(options.image_size),
        "--patch-size": options.patch_size and by(options.patch_size),
        "--max-patches": options.max_patches,
        "--preprocess": options.preprocess,
        "--num-heads": options.num_heads,
        "--head": options.head,
        "--sha256": options.sha256,
    }
    for name, value in values.items():
        yield from () if value is None else (name, str(value))
    yield from () if options.exif else ("--no-exif",)
    yield from ("--offline",) if options.offline else ()
