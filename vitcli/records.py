"""The nouns: what travels from a path to a row. Nothing here computes.

inputs ─sources─▶ ImageRef ─decode─▶ Sample | Failure ─batch─▶ Batch ─model─▶ Row ─▶ sink
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:  # `vit --help` has no use for numpy
    import numpy as np
    import torch
    from numpy.typing import NDArray

Size: TypeAlias = tuple[int, int]  # always (height, width)
Version: TypeAlias = tuple[int, int, int, int]
"""An open file: its device, inode, size and mtime in ns."""
Stamp: TypeAlias = tuple[int, int]
"""(size, mtime in ns) of a file when it was listed. An object in a store has its ETag, as a number,
instead of the time; a member has its own size and the second number of its archive."""
Pixels: TypeAlias = "NDArray[np.uint8] | torch.Tensor"
"""Images, uint8 (B, H, W, 3): an array, or a tensor in page-locked memory or on a CUDA device."""
Box: TypeAlias = tuple[float, float, float, float]  # top, left, bottom, right


class ErrorType(StrEnum):
    """Why an image has no result: a closed set, so that users can group by it."""

    NOT_FOUND = "NotFound"
    UNREADABLE = "Unreadable"
    NOT_AN_IMAGE = "NotAnImage"
    DECODE_ERROR = "DecodeError"
    TOO_LARGE = "TooLarge"
    TIMEOUT = "Timeout"
    WORKER_CRASH = "WorkerCrash"
    OUT_OF_MEMORY = "OutOfMemory"
    NOT_FINITE = "NotFinite"  # the model returns NaN or infinity


class Pieces(Protocol):
    """An archive that is open: it returns any of its bytes."""

    def pread(self, size: int, offset: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Member(ABC):
    """An image in an archive or a table; `images/members.py` has one class for each kind.

    `key` is what the files of one sample share in WebDataset's layout. `version` is the archive's
    when it was listed: in another version something else may be at the same place.
    """

    archive: str
    size: int
    key: str
    version: Version | None

    @abstractmethod
    def open(self, archive: Callable[[], Pieces]) -> BinaryIO:
        """Return the image as a file; `archive` opens the archive, where its bytes are needed."""

    @property
    def held(self) -> int:
        """The bytes of the image that travel with it."""
        return 0

    def released(self) -> Member:
        """Return the member without the bytes that travel with it."""
        return self

    def __reduce__(self) -> tuple[type[Member], tuple[object, ...]]:
        """Pickle the fields in order, in half the time of a dataclass: every image is pickled."""
        return type(self), tuple([getattr(self, name) for name in self.__match_args__])


class FoundImage(NamedTuple):
    """An image that a source lists: the path of its row, its place in an archive, its stamp.

    A path that is not UTF-8 carries its odd bytes as surrogates, as os.fsdecode makes them.
    """

    path: str
    member: Member | None = None
    stamp: Stamp | None = None


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One input: its index in the run, and what FoundImage says of it."""

    index: int
    path: str
    stamp: Stamp | None = None
    member: Member | None = None

    @property
    def file(self) -> str:
        """The path to open: the archive's for a member."""
        return self.path if self.member is None else self.member.archive

    @property
    def key(self) -> str:
        """WebDataset's `__key__`, or an empty text."""
        return "" if self.member is None else self.member.key


@dataclass(frozen=True, slots=True)
class Sample:
    """A decoded image.

    `pixels` holds one uint8 array (H, W, 3) for each preprocessing of the run; `size` is the size
    of the upright image before that; `seconds` is how long it took to read; `note` is for the user.
    """

    ref: ImageRef
    pixels: tuple[NDArray[np.uint8], ...]
    size: Size = (0, 0)
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """An image without a result: a row like any other, in the place of its input."""

    ref: ImageRef
    type: ErrorType
    message: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive inputs: the refs that decoded, their pixels and sizes, the failures among them.

    `pixels` has one item (B, H, W, 3) for each preprocessing, B = len(refs); `seconds` is the time
    that each image took to read.
    """

    refs: tuple[ImageRef, ...]
    pixels: tuple[Pixels, ...]
    failures: tuple[Failure, ...] = ()
    sizes: tuple[Size, ...] = ()
    seconds: tuple[float, ...] = ()

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which CUDA copies in the background."""
        import torch

        return replace(self, pixels=tuple(torch.as_tensor(p).pin_memory() for p in self.pixels))

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device. A copy from page-locked memory may end later."""
        import torch

        moved = (torch.as_tensor(p).to(device, non_blocking=True) for p in self.pixels)
        return replace(self, pixels=tuple(moved))


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label of one image."""

    label: str
    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Classified:
    """The row of `classify`: the best labels first; and a small JPEG, for a page."""

    ref: ImageRef
    predictions: tuple[Prediction, ...]
    thumbnail: bytes = b""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The row of `embed`: a vector (D,), or tokens (N, D)."""

    ref: ImageRef
    embedding: NDArray[np.float32] | NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Maps:
    """Where a model looks, in one layer: (n, h, w), a map for each head or one for all heads.

    Layer 12 is named "12" and head 3 "3"; the attention pooling after the blocks is "pool", and
    "all" is a map that combines all layers. `box` is the part of the image that the maps cover, as
    shares of its height and width; it reaches beyond 0 to 1 where the image was padded.
    """

    layer: str
    heads: tuple[str, ...]
    values: NDArray[np.float32]
    box: Box


@dataclass(frozen=True, slots=True)
class Attended:
    """The row of `attention`: the maps of each layer, their method, and the files written.

    `query` is the row and column of the query patch; `target` is the class of the gradients.
    """

    ref: ImageRef
    maps: tuple[Maps, ...]
    method: str
    query: tuple[int, int] | None = None
    target: Prediction | None = None
    predictions: tuple[Prediction, ...] = ()
    files: tuple[str, ...] = ()
    thumbnail: bytes = b""


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of an earlier run: its text and, if it has one, its part of the array."""

    ref: ImageRef
    text: bytes
    array: bytes | None
    is_failed: bool


Row: TypeAlias = Classified | Embedded | Attended | Failure | Kept


class Sink(Protocol):
    """Where rows go. Rows come in input order; `finish` makes the output final."""

    def write(self, rows: Sequence[Row]) -> object: ...

    def finish(self, meta: Mapping[str, object]) -> None: ...

    def abort(self) -> None: ...


Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
Fit = Literal["squash", "shortest", "cover", "contain"]
Decode = Literal["exact", "fast"]

FAST_GAP = 2.5  # times larger than resized: nearer to 1 the scaled JPEG shows through


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an RGB image becomes the model's pixels, as the checkpoint's source library does it.

    `fit` says how `resize` (height, width) is met: *squash* exactly, *shortest* by the shorter
    edge (the longer is truncated and, with `longest`, capped), *cover* and *contain* by the ratio
    of the tighter and the wider edge. `None` leaves the image as it is. Then the middle `size` is
    cut out (padded with `fill` where the image is smaller) with the rounding of `crop`'s library,
    and (pixel * rescale - mean) / std makes the floats. *fast* decoding gives pixels that are
    close, not equal: a large picture is reduced by a whole number before it is resized.
    """

    size: Size
    resize: Size | None
    fit: Fit = "squash"
    longest: int | None = None
    resample: Resample = "bilinear"
    crop: Literal["hf", "timm"] = "hf"
    fill: tuple[int, int, int] = (0, 0, 0)
    rescale: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    exif: bool = True
    grey16: Literal["scale", "clamp"] = "scale"
    decode: Decode = "exact"
    source: str = "given"

    @property
    def reduces(self) -> bool:
        """Whether a large picture may be read at a fraction of its size."""
        return self.decode == "fast" and self.resize is not None and self.resample != "nearest"

    def steps(self) -> list[str]:
        """Return the steps in order; each begins with its name, before any bracket."""
        steps = [f"reduced_decode(>= {FAST_GAP:g}x)"] if self.reduces else []
        steps += ["exif_turn"] if self.exif else []
        steps += ["rgb"] if self.grey16 == "scale" else ["rgb(grey16 clamped)"]
        if self.resize is not None:
            height, width = self.resize
            edge = f"{height}" if self.fit == "shortest" else f"{height}x{width}"
            cap = f" <= {self.longest}" if self.longest else ""
            steps.append(f"resize({self.fit} {edge}{cap}, {self.resample})")
        if self.fit != "squash" or self.resize != self.size:
            steps.append(f"center_crop({self.size[0]}x{self.size[1]})")
        if abs(self.rescale * 255 - 1) > 1e-6:
            steps.append(f"rescale({self.rescale:g})")
        steps.append(f"normalize(mean={_numbers(self.mean)}, std={_numbers(self.std)})")
        return steps

    def describe(self) -> str:
        """The steps in one line."""
        return " | ".join(self.steps())


def _numbers(values: Sequence[float]) -> str:
    unique = values[:1] if len(set(values)) == 1 else values
    return "/".join(f"{v:g}" for v in unique)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one image may cost: pixels (width x height) and seconds of decoding."""

    max_pixels: int = 89_500_000
    timeout: float = 60.0


@dataclass(slots=True)
class Progress:
    """How far a run has come: images done and failed, how many of both an earlier run had made,
    how many are `selected`, where not all are, and the first failure of each kind."""

    done: int = 0
    failed: int = 0
    earlier: int = 0
    selected: int = 0
    kinds: dict[ErrorType, tuple[int, Failure]] = field(default_factory=dict)

    def add(self, done: int, failures: Sequence[Failure] = ()) -> None:
        self.done += done
        self.failed += len(failures)
        for failure in failures:
            self.count(failure)

    def count(self, failure: Failure, times: int = 1) -> None:
        """Under its kind, of which the first example stays."""
        before, first = self.kinds.get(failure.type, (0, failure))
        self.kinds[failure.type] = before + times, first

    def add_earlier(self, rows: int, failed: int) -> None:
        """Rows that are there already."""
        self.done += rows - failed
        self.failed += failed
        self.earlier += rows

    @property
    def seen(self) -> int:
        return self.done + self.failed
