"""The parts of a job that the commands share. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from vitcli.engines import ENGINES, DtypeName, EngineName, MergeTokens, Quantize
from vitcli.errors import UsageError
from vitcli.jobs.tolerance import Tolerance
from vitcli.records import Decode, FoundImage, Limits, Progress, Size

DEFAULT_MODEL = "google/vit-base-patch16-224"
DEFAULT_MASKED_MODEL = "facebook/vit-mae-base"  # for vit reconstruct, which needs a decoder
DEFAULT_BATCH_SIZE = 16
BatchSize = int | Literal["auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The images of a run (paths, directories, globs, or `-`), how they may be read, and how many
    may fail. With `is_implied` the user named no input, and paths are read from standard input.
    `given` replaces the paths by a sequence that also has images in memory, and is read once."""

    paths: tuple[str, ...] = ()
    given: Iterable[str | FoundImage] | None = None
    is_implied: bool = False
    files_from: str | None = None
    null: bool = False
    formats: str = "common"
    extensions: tuple[str, ...] = ()
    limits: Limits = Limits()
    tolerance: Tolerance = Tolerance()
    allow_outside: bool = False

    @property
    def has_any(self) -> bool:
        """Whether any images are named, even if there turn out to be none."""
        return bool(self.paths) or self.files_from is not None or self.given is not None

    @property
    def has_stdin(self) -> bool:
        """Whether a list of paths is read from standard input."""
        return "-" in (*self.paths, self.files_from)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Options that override what the checkpoint says."""

    layout: str | None = None
    labels: Path | None = None
    image_size: Size | None = None
    patch_size: Size | None = None
    max_patches: int | None = None
    preprocess: str | None = None
    num_heads: int | None = None
    head: Path | None = None
    sha256: str | None = None
    drop: tuple[str, ...] = ()
    exif: bool = True
    decode: Decode = "exact"
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The device, the engine and the batch size of a run. `workers=None` starts a worker for each
    processor, without a GPU at most 8; `batch_size="auto"` doubles the batches as long as that
    makes the run faster. Each block merges `merge_tokens` pairs of similar patch tokens."""

    device: str = "auto"
    dtype: DtypeName = "fp32"
    batch_size: BatchSize = DEFAULT_BATCH_SIZE
    workers: int | None = None
    engine: EngineName = "torch"
    quantize: Quantize | None = None
    compile: bool = False
    merge_tokens: MergeTokens = 0

    def __post_init__(self) -> None:
        if self.batch_size != "auto" and self.batch_size < 1:
            raise UsageError(f"a batch of {self.batch_size} images", "use --batch-size 1 or more")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"{self.workers} workers", "use -j 0 or more")
        is_count = type(self.merge_tokens) is int and self.merge_tokens >= 0
        if self.merge_tokens != "auto" and not is_count:
            raise UsageError(
                f"--merge-tokens {self.merge_tokens} is not a number of pairs",
                "give a number, or auto",
            )
        dtypes = ENGINES[self.engine].dtypes
        if self.dtype not in dtypes:
            raise UsageError(
                f"--engine {self.engine} does not run {self.dtype}",
                f"it runs {' and '.join(dtypes[:-1])}",
            )
        if self.engine != "torch" and self.device not in ("auto", "cpu"):
            raise UsageError(f"--engine {self.engine} runs on the CPU", "leave out --device")
        if self.engine != "torch" and self.compile:
            raise UsageError("--compile is for PyTorch only", "leave out --engine")


class Reporter(Protocol):
    """Receives the notes and the progress of a run: the terminal, for example."""

    def note(self, text: str) -> None: ...

    def listing(self, count: Callable[[], int | None]) -> None:
        """Receive `count`, which counts the inputs and returns None where it cannot."""

    def progress(self, progress: Progress) -> None: ...

    def doing(self, what: str) -> None:
        """Receive what the run does now, and cannot count: reading the index."""

    def steps(self, what: str, done: int, total: int) -> None:
        """Receive the number of steps that are done, of all; `what` names them: texts."""


class NullReporter:
    """Ignores notes and progress."""

    def note(self, text: str) -> None: ...

    def listing(self, count: Callable[[], int | None]) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def doing(self, what: str) -> None: ...

    def steps(self, what: str, done: int, total: int) -> None: ...


SILENT: Reporter = NullReporter()


@dataclass(frozen=True, slots=True)
class Note:
    """A note for the user, sent by another process."""

    text: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The counts of a run. `unlisted` counts folders that could not be read; `skipped` pipes,
    sockets and devices that are named like images; `selected` the images that --select took;
    `earlier` those that an earlier run had done. `unit` is what a row belongs to."""

    done: int
    failed: int
    seconds: float
    unlisted: int = 0
    skipped: int = 0
    selected: int | None = None
    earlier: int = 0
    unit: Literal["image", "text", "query", "row"] = "image"

    @property
    def total(self) -> int:
        return self.done + self.failed

    @property
    def units(self) -> str:
        """The plural of the unit."""
        return {"query": "queries"}.get(self.unit, f"{self.unit}s")

    @property
    def counts(self) -> dict[str, object]:
        """The counts and the seconds, as files of results have them."""
        return {
            self.units: self.done,
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
        }
