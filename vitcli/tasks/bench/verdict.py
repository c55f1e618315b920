"""What was measured into a table, and the table into advice."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitcli.jobs.job import ModelOptions
from vitcli.records import Decode
from vitcli.tasks.bench.protocol import Candidate, Outputs, Read, Timed

Purpose: TypeAlias = Literal["exact", "fastest", "close", "latency", "memory"]
PURPOSES: Mapping[Purpose, str] = {
    "exact": "exact numbers",
    "fastest": "fastest",
    "close": "fastest that agrees with fp32 on 99 %",
    "latency": "soonest with one image",
    "memory": "least memory",
}
AGREES = 0.99  # top-1
RESEMBLES = 0.995  # cosine, where there are no labels
NOISE = 0.02  # a smaller batch that is not slower by more is as good


@dataclass(slots=True)
class Tried:
    """What is known of one candidate. `fast` came out for the pictures as `--decode fast` reads
    them."""

    candidate: Candidate
    timed: list[Timed] = field(default_factory=list)
    outputs: Outputs | None = None
    reads: list[Read] = field(default_factory=list)
    read_batch: int = 0
    fast: Outputs | None = None

    @property
    def best(self) -> Timed:
        """The batch with the most images a second; a smaller one where it makes no difference."""
        most = max(t.batch_size / t.seconds for t in self.timed)
        return next(t for t in self.timed if t.batch_size / t.seconds >= most * (1 - NOISE))

    @property
    def latency(self) -> float | None:
        """Seconds for a batch of one."""
        return next((t.seconds for t in self.timed if t.batch_size == 1), None)


@dataclass(frozen=True, slots=True)
class Likeness:
    """How near something is to fp32 on the same pictures: the mean cosine of their embeddings,
    the part of them with the same first label (None without labels), and how many there were."""

    cosine: float
    agreement: float | None
    pictures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. Without `workers` and `decode` the pictures were ready; with them
    they were files. Memory is in bytes, `limit_share` of the largest rate of matrix products;
    `command` runs the model like this."""

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


@dataclass(frozen=True, slots=True)
class Advice:
    """The best row for a purpose."""

    purpose: Purpose
    row: Row

    @property
    def words(self) -> str:
        return PURPOSES[self.purpose]


def likeness(reference: Outputs, found: Outputs, dim: int) -> Likeness | None:
    """Compare the images that both have; None where there are none.  (n, D + K) each, D = dim"""
    _, ours, theirs = np.intersect1d(reference.pictures, found.pictures, return_indices=True)
    if not len(ours):
        return None
    a, b = reference.values[ours].astype(np.float64), found.values[theirs].astype(np.float64)
    has_labels = a.shape[1] > dim
    same = a[:, dim:].argmax(axis=1) == b[:, dim:].argmax(axis=1) if has_labels else None
    with np.errstate(invalid="ignore", over="ignore"):
        cosine = np.nan_to_num(_cosines(a[:, :dim], b[:, :dim]), nan=0.0).mean()
    return Likeness(float(cosine), None if same is None else float(same.mean()), len(ours))


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, D) twice -> (n,)"""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = (a * b).sum(axis=1) / np.where(norms > 0, norms, 1)
    return cosines


def table(
    tried: Iterable[Tried], reference: Outputs | None, dim: int, shares: Mapping[Candidate, float]
) -> Iterator[Row]:
    """The rows of all candidates. `shares` is what part of the limit one image a second is."""
    for one in tried:
        like = _like(reference, one.outputs, dim)
        share = shares.get(one.candidate)
        for timed in one.timed:
            rate = timed.batch_size / timed.seconds
            yield Row(
                candidate=one.candidate,
                batch_size=timed.batch_size,
                images_per_second=rate,
                latency_ms=None if one.latency is None else 1e3 * one.latency,
                peak=timed.peak,
                device_peak=timed.device_peak,
                likeness=like,
                limit_share=None if share is None else rate * share,
            )
        for read in one.reads:
            is_fast = read.reading.decode == "fast"
            yield Row(
                candidate=one.candidate,
                batch_size=one.read_batch,
                workers=read.reading.workers,
                decode=read.reading.decode,
                images_per_second=read.images_per_second,
                latency_ms=None if one.latency is None else 1e3 * one.latency,
                peak=read.peak,
                likeness=_like(reference, one.fast, dim) if is_fast else like,
                limit_share=None if share is None else read.images_per_second * share,
            )


def _like(reference: Outputs | None, found: Outputs | None, dim: int) -> Likeness | None:
    return likeness(reference, found, dim) if reference is not None and found is not None else None


def advise(rows: Sequence[Row]) -> Iterator[Advice]:
    """The best row for each purpose that has one. Where files were read, speed is that of files."""
    end_to_end = [row for row in rows if row.workers is not None]
    ready = [row for row in rows if row.workers is None]
    speed = end_to_end or ready
    singles = [row for row in ready if row.batch_size == 1]
    chosen: dict[Purpose, Row | None] = {
        "exact": _fastest([row for row in speed if row.is_exact]),
        "fastest": _fastest(speed),
        "close": _fastest([row for row in speed if _agrees(row)]),
        "latency": min(singles, key=lambda row: row.latency_ms or 0.0, default=None),
        "memory": min(ready, key=lambda row: row.device_peak or row.peak or 0, default=None),
    }
    for purpose, row in chosen.items():
        if row is not None:
            yield Advice(purpose, row)


def _fastest(rows: Sequence[Row]) -> Row | None:
    """A smaller batch and fewer workers where they make no difference."""
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


def _agrees(row: Row) -> bool:
    like = row.likeness
    if like is None:
        return False
    return like.cosine >= RESEMBLES if like.agreement is None else like.agreement >= AGREES


def command_of(
    row: Row, model: str, options: ModelOptions, device: str, inputs: str, has_labels: bool
) -> str:
    """What runs `model` as this row was measured, as a shell reads it. A backbone is for embed."""
    return shlex.join(_words(row, model, options, device, inputs, has_labels))


def _words(
    row: Row, model: str, options: ModelOptions, device: str, inputs: str, has_labels: bool
) -> Iterator[str]:
    way = row.candidate
    yield from ("vit", "classify" if has_labels else "embed", inputs, "-m", model)
    yield from _model_words(options)
    yield from () if device == "auto" else ("--device", device)
    yield from ("--engine", way.engine, "--dtype", way.dtype)
    yield from ("--quantize", way.quantize) if way.quantize else ()
    yield from ("-b", str(row.batch_size))
    yield from () if row.workers is None else ("-j", str(row.workers))
    yield from () if row.decode is None else ("--decode", row.decode)
    yield from () if has_labels else ("-o", "features.npy")


def _model_words(options: ModelOptions) -> Iterator[str]:
    """The options of the model that are not the defaults, but for `--decode`."""
    size = options.image_size
    values = {
        "--layout": options.layout,
        "--labels": options.labels,
        "--image-size": size and f"{size[0]}x{size[1]}",
        "--preprocess": options.preprocess,
        "--num-heads": options.num_heads,
        "--head": options.head,
        "--sha256": options.sha256,
    }
    for name, value in values.items():
        yield from () if value is None else (name, str(value))
    yield from () if options.exif else ("--no-exif",)
    yield from ("--offline",) if options.offline else ()
