"""The records that travel from a path to a row.

inputs ─sources─▶ ImageRef ─decode─▶ Sample | Failure ─batch─▶ Batch ─model─▶ Row ─▶ sink
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:  # for types only: `vit --help` need not import numpy
    import numpy as np
    import torch
    from numpy.typing import NDArray

Size: TypeAlias = tuple[int, int]  # always (height, width)
Version: TypeAlias = tuple[int, int, int, int]
"""(device, inode, size, mtime in ns) of an open file."""
Stamp: TypeAlias = tuple[int, int]
"""(size, mtime in ns) of a file when it was listed. For an object in a store, a hash of the ETag
replaces the mtime. For a member of an archive, the size is the member's, the mtime or hash the
archive's."""
PixelArray: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
Pixels: TypeAlias = "PixelArray | torch.Tensor"
"""Images (B, H, W, 3) of the range 0 to 255, with the dtype of their preprocessing: an array, or a
tensor in page-locked memory or on a CUDA device."""
Box: TypeAlias = tuple[float, float, float, float]  # top, left, bottom, right
MAX_NAMED = 5  # failures that a run names, each as it happens


def by(size: Size) -> str:
    """Write a size as `224x160`: height x width."""
    return f"{size[0]}x{size[1]}"


class ErrorType(StrEnum):
    """The reasons why an image has no result: a closed set, so that users can group by it."""

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
    """An open archive that can be read at any offset."""

    def pread(self, size: int, offset: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Member(ABC):
    """An image in an archive or a table; `images/members.py` has one class for each kind.

    `key` is the name that the files of one sample share in WebDataset's layout. `version` is the
    archive's version when it was listed: another may have other bytes at the same offset.
    """

    archive: str
    size: int
    key: str
    version: Version | None

    @abstractmethod
    def open(self, archive: Callable[[], Pieces]) -> BinaryIO:
        """Open the image as a file. `archive` opens the archive; it is called only if needed."""

    @property
    def held(self) -> int:
        """The number of bytes of the image that the member carries."""
        return 0

    def released(self) -> Member:
        """Return the member without the bytes that it carries."""
        return self

    def __reduce__(self) -> tuple[type[Member], tuple[object, ...]]:
        """Pickle the fields in order: twice as fast as by default, and every ref is pickled."""
        return type(self), tuple([getattr(self, name) for name in self.__match_args__])


class FoundImage(NamedTuple):
    """An image that a source lists: the path of its row, its place in an archive, its stamp.

    Bytes of a path that are not UTF-8 are surrogates, as os.fsdecode makes them.
    """

    path: str
    member: Member | None = None
    stamp: Stamp | None = None


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One input: its index in the run, and the fields of its FoundImage."""

    index: int
    path: str
    stamp: Stamp | None = field(default=None, repr=False)
    member: Member | None = field(default=None, repr=False)

    @property
    def file(self) -> str:
        """The path to open: the archive's for a member."""
        return self.path if self.member is None else self.member.archive

    @property
    def key(self) -> str:
        """WebDataset's `__key__`, or an empty string."""
        return "" if self.member is None else self.member.key

    @property
    def held(self) -> int:
        """The number of bytes of the image that the ref carries."""
        return 0 if self.member is None else self.member.held

    def __reduce__(self) -> tuple[type[ImageRef], tuple[object, ...]]:
        """Pickle the fields in order: every ref is sent to a worker."""
        return type(self), (self.index, self.path, self.stamp, self.member)

    def released(self) -> ImageRef:
        """Return the ref without the bytes that it carries."""
        if self.member is None or not self.member.held:
            return self
        return replace(self, member=self.member.released())


@dataclass(frozen=True, slots=True)
class Sample:
    """A decoded image.

    `pixels` has an array (H, W, 3) for each preprocessing of the run, of its dtype; `size` is the
    size of the upright image before preprocessing; `seconds` is the time to read it; `note` is a
    note for the user, or "".
    """

    ref: ImageRef
    pixels: tuple[NDArray[Any], ...]
    size: Size = (0, 0)
    seconds: float = 0.0
    note: str = ""


class OfImage:
    """A row of an image, which has a result unless it is a Failure."""

    __slots__ = ()
    ok: ClassVar[bool] = True

    @property
    def path(self) -> str:
        """The path of the image, or its name if it is in memory."""
        found: str = self.ref.path  # type: ignore[attr-defined]  # of the subclasses
        return found


@dataclass(frozen=True, slots=True)
class Failure(OfImage):
    """An image without a result. Its row is written in input order, like any other."""

    ok: ClassVar[bool] = False
    predictions: ClassVar[tuple[Prediction, ...]] = ()

    ref: ImageRef
    type: ErrorType
    message: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive inputs: the refs that decoded, their pixels and sizes, the failures among them.

    `pixels` has one item for each preprocessing: (B, H, W, 3), B = len(refs); or a tuple of B
    arrays (H, W, 3), if these differ in size. `seconds` is the time that each image took to read.
    """

    refs: tuple[ImageRef, ...]
    pixels: tuple[Pixels | tuple[Pixels, ...], ...]
    failures: tuple[Failure, ...] = ()
    sizes: tuple[Size, ...] = ()
    seconds: tuple[float, ...] = ()

    def pixels_for(self, plan: int = 0) -> Pixels:
        """The pixels of one preprocessing in a batch whose images have one size.  (B, H, W, 3)"""
        pixels = self.pixels[plan]
        assert not isinstance(pixels, tuple), "a batch of several sizes is run in parts"
        return pixels

    def arrays(self) -> Iterator[Pixels]:
        """Iterate over everything in `pixels`."""
        for item in self.pixels:
            yield from item if isinstance(item, tuple) else (item,)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which CUDA copies in the background."""
        import torch

        return self._changed(lambda pixels: torch.as_tensor(pixels).pin_memory())

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device. A copy from page-locked memory may still run."""
        import torch

        return self._changed(lambda pixels: torch.as_tensor(pixels).to(device, non_blocking=True))

    def _changed(self, change: Callable[[Pixels], Pixels]) -> Batch:
        changed = (
            tuple(map(change, item)) if isinstance(item, tuple) else change(item)
            for item in self.pixels
        )
        return replace(self, pixels=tuple(changed))


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label of one image."""

    label: str
    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Classified(OfImage):
    """The row of `classify`: the predictions, best first, and a small JPEG for the HTML page. With
    `are_shares`, the scores are between 0 and 1."""

    ref: ImageRef
    predictions: tuple[Prediction, ...]
    thumbnail: bytes = field(default=b"", repr=False)
    are_shares: bool = field(default=True, repr=False)


@dataclass(frozen=True, slots=True)
class TextRef:
    """One text: its index in the run, and the text itself."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Embedded(OfImage):
    """The row of `embed`: a vector (D,), or tokens (N, D). `grid` is that of the patches, if it
    differs from image to image."""

    ref: ImageRef | TextRef
    embedding: NDArray[np.float32] | NDArray[np.float16]
    grid: Size | None = None


@dataclass(frozen=True, slots=True)
class Maps:
    """The attention maps of one layer: `values` (n, h, w), a map for each head or one for all.

    Layer 12 is named "12" and head 3 "3"; the attention pooling after the blocks is "pool", and
    "all" is a map that combines all layers. `box` is the part of the image that the maps cover, as
    fractions of its height and width; below 0 and above 1 is padding.
    """

    layer: str
    heads: tuple[str, ...]
    values: NDArray[np.float32]
    box: Box


@dataclass(frozen=True, slots=True)
class Attended(OfImage):
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
    thumbnail: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of an earlier run: its text and, if the run also writes an array, its part of the
    array as bytes."""

    ref: ImageRef
    text: bytes
    array: bytes | None
    is_failed: bool


Row: TypeAlias = Classified | Embedded | Attended | Failure | Kept


def image_of(row: Row) -> ImageRef:
    """The image of a row that is not a text's."""
    assert isinstance(row.ref, ImageRef)
    return row.ref


class Sink(Protocol):
    """Where rows go. Rows come in input order; `finish` makes the output final."""

    def write(self, rows: Sequence[Row]) -> object: ...

    def finish(self, meta: Mapping[str, object]) -> None: ...

    def abort(self) -> None: ...


Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
Fit = Literal["squash", "shortest", "cover", "contain", "patches"]
Decode = Literal["exact", "fast"]
TextClean = Literal["canonical", "hf", "open_clip", "none"]
"""How a text is cleaned before its tokens, by the library that does so."""
Resizer = Literal["pillow", "torch", "floats"]
RESIZERS: dict[Resizer, str] = {
    "pillow": "bytes with Pillow",
    "torch": "bytes with torch",
    "floats": "floats with torch",
}

# *fast* decoding reduces a JPEG to no less than this many times the size to which it is resized:
# below that, the result differs visibly.
FAST_GAP = 2.5


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The steps from an RGB image to the model's pixels, as in the checkpoint's source library.

    The image is resized to `resize` (height, width); None means no resize. `fit` says how:
    *squash* to exactly this size; *shortest* by the shorter edge (the longer is rounded down, and
    at most `longest`); *cover* to the smallest size that covers it; *contain* to the largest that
    fits into it. Then the center of `size` is cropped with the rounding of `crop`'s library, padded
    with `fill` where the image is smaller. The floats are (pixel * rescale - mean) / std.

    The fit *patches* keeps the shape of each image, as SigLIP 2's NaFlex does: the image is resized
    to as many whole patches of `patch` pixels a side as give at most `max_patches`, and is not
    cropped. Its size then `varies`; `size` and `resize` are those of a square image.

    `resizer` says whose arithmetic resizes: *pillow*, as in timm and most of transformers; *torch*
    on bytes, as in transformers' fast processors, which differs by 1 of 255 in some pixels; or
    torch on *floats*, as transformers does for DINOv3, which leaves the pixels unrounded.
    *fast* decoding reduces a large image by a whole number before the resize: the pixels are close,
    not equal.
    """

    size: Size
    resize: Size | None
    fit: Fit = "squash"
    longest: int | None = None
    resample: Resample = "bilinear"
    resizer: Resizer = "pillow"
    crop: Literal["hf", "timm", "hf-fast"] = "hf"
    fill: tuple[int, int, int] = (0, 0, 0)
    patch: int = 0
    max_patches: int = 0
    rescale: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    exif: bool = True
    grey16: Literal["scale", "clamp"] = "scale"
    decode: Decode = "exact"
    source: str = "given"

    @property
    def dtype(self) -> Literal["uint8", "float32"]:
        """The dtype of the pixels, before they are normalised."""
        return "float32" if self.resizer == "floats" else "uint8"

    @property
    def varies(self) -> bool:
        """Whether the size of the pixels depends on the image."""
        return self.fit == "patches"

    @property
    def reduces(self) -> bool:
        """Whether a large image may be read at a fraction of its size."""
        return self.decode == "fast" and self.resize is not None and self.resample != "nearest"

    @property
    def resizes_with_torch(self) -> bool:
        """Whether the values of the resize are torch's, which torch computes fastest."""
        return self.resizer == "torch" and self.resize is not None and not self.reduces

    def steps(self) -> list[str]:
        """Return the steps in order, each as `name` or `name(details)`."""
        steps = [f"reduced_decode(>= {FAST_GAP:g}x)"] if self.reduces else []
        steps += ["exif_turn"] if self.exif else []
        steps += ["rgb"] if self.grey16 == "scale" else ["rgb(grey16 clamped)"]
        if self.resize is not None:
            height, width = self.resize
            edge = f"{height}" if self.fit == "shortest" else f"{height}x{width}"
            cap = f" <= {self.longest}" if self.longest else ""
            how = "" if self.resizer == "pillow" else f", {RESIZERS[self.resizer]}"
            to = f"{self.fit} {edge}{cap}"
            if self.varies:
                to = f"at most {self.max_patches} patches of {self.patch}x{self.patch}, shape kept"
            steps.append(f"resize({to}, {self.resample}{how})")
        if not self.varies and (self.fit != "squash" or self.resize != self.size):
            steps.append(f"center_crop({by(self.size)})")
        if abs(self.rescale * 255 - 1) > 1e-6:
            steps.append(f"rescale({self.rescale:g})")
        steps.append(f"normalize(mean={_numbers(self.mean)}, std={_numbers(self.std)})")
        return steps

    def describe(self) -> str:
        """Return the steps in one line."""
        return " | ".join(self.steps())


def _numbers(values: Sequence[float]) -> str:
    unique = values[:1] if len(set(values)) == 1 else values
    return "/".join(f"{v:g}" for v in unique)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one image: pixels (width x height) and seconds to decode."""

    max_pixels: int = 89_500_000
    timeout: float = 60.0


@dataclass(slots=True)
class Progress:
    """The progress of a run.

    `done` and `failed` count images, `earlier` those of both that an earlier run wrote, `selected`
    those that --select chose. `kinds` has the count and the first example of each type of failure,
    `first` the first failures of any type.
    """

    done: int = 0
    failed: int = 0
    earlier: int = 0
    selected: int = 0
    kinds: dict[ErrorType, tuple[int, Failure]] = field(default_factory=dict)
    first: list[Failure] = field(default_factory=list)

    def add(self, done: int, failures: Sequence[Failure] = ()) -> None:
        self.done += done
        self.failed += len(failures)
        self.first += failures[: max(0, MAX_NAMED - len(self.first))]
        for failure in failures:
            self.count(failure)

    def count(self, failure: Failure, times: int = 1) -> None:
        """Count a failure under its type, which keeps its first failure as the example."""
        before, first = self.kinds.get(failure.type, (0, failure))
        self.kinds[failure.type] = before + times, first

    def add_earlier(self, rows: int, failed: int) -> None:
        """Add the rows of an earlier run."""
        self.done += rows - failed
        self.failed += failed
        self.earlier += rows

    @property
    def seen(self) -> int:
        return self.done + self.failed
