"""A path into an upright RGB image, or the reason why not."""

from __future__ import annotations

import io
import logging
import math
import os
import stat
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from typing import BinaryIO, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vitcli import stores
from vitcli.errors import in_bytes, shortened
from vitcli.images import tiff
from vitcli.images.archives import CHANGED, Archive, Pieces, largest_file, opened, version_of
from vitcli.images.depth import to_rgb
from vitcli.images.kinds import HEIF, ImageError, is_heif, reads_heif, unread
from vitcli.images.preprocess import ACROSS, preprocess, preprocess_fast, stored_target
from vitcli.images.remote import piece
from vitcli.records import (
    FAST_GAP,
    ErrorType,
    Failure,
    ImageRef,
    Limits,
    Member,
    Preprocess,
    Sample,
    Size,
    Version,
)
from vitcli.stores import is_remote

# Pillow's format names -> the suffixes that a directory scan looks for. MPO arrives through JPEG.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "DIB": (),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "ICO": (".ico",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
# Formats that run other programs, or only name an image: never opened, not even with "all".
NEVER = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "PDF", "PALM"})

# Files that begin so are images, even where Pillow cannot make sense of what follows.
_MAGIC = {
    b"\x89PNG\r\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    **dict.fromkeys(tiff.MAGIC, "TIFF"),
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
}

Opened = TypeVar("Opened")
Picture: TypeAlias = Image.Image
"""One that Pillow has opened."""
NOTE = "vit: note"  # in its info: what is to be told of how it is read
_PILLOW_TIFF = logging.getLogger("PIL.TiffImagePlugin")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Finish: TypeAlias = Callable[[Image.Image, Preprocess], NDArray[np.uint8]]
"""An upright RGB image into uint8 pixels (H, W, 3)."""


def decode(
    ref: ImageRef,
    plans: Sequence[Preprocess],
    limits: Limits,
    formats: str = "common",
    finish: Finish = preprocess,
) -> Sample | Failure:
    """Read, turn, convert and preprocess one image; whatever goes wrong is a Failure.

    `finish` makes the model's pixels of the upright RGB image: in training, of a random view.
    """

    def preprocessed(image: Image.Image) -> Sample:
        full, scale = _load(image, plans)
        turn = _turn(image)
        made = [_pixels(image, plan, turn, full, scale, finish) for plan in plans]
        pixels, notes = tuple(array for array, _ in made), [image.info.get(NOTE, "")]
        is_turned = turn in ACROSS and bool(plans) and plans[0].exif
        size = (full[1], full[0]) if is_turned else full
        note = next(filter(None, (*notes, *(said for _, said in made))), "")
        return Sample(ref, pixels, size, note=note)

    return attempt(ref, limits, formats, preprocessed)


def attempt(
    ref: ImageRef, limits: Limits, formats: str, make: Callable[[Image.Image], Sample]
) -> Sample | Failure:
    """What is made of one opened image; whatever goes wrong is a Failure.

    It catches `Exception`, as nothing else here: Pillow's decoders raise a dozen kinds for broken
    files (OSError, ValueError, SyntaxError, struct.error, ...), and one image must cost one row.
    """
    try:
        with _open(ref, limits, formats) as image:
            return make(image)
    except ImageError as error:
        return Failure(ref, error.type, shortened(error.message))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{limits.max_pixels / 1e6:g} MP (--max-pixels)"
        return Failure(ref, ErrorType.TOO_LARGE, f"more pixels than its header says, limit {limit}")
    except MemoryError:
        return Failure(ref, ErrorType.OUT_OF_MEMORY, "not enough memory to decode it")
    except Exception as error:  # see above
        return Failure(ref, ErrorType.DECODE_ERROR, shortened(_one_line(error)))


def upright(image: Image.Image, plan: Preprocess, at_least: Size | None = None) -> Image.Image:
    """The whole picture, RGB, turned as for the model. A JPEG is read at a fraction of its size as
    long as that has twice the height and width of `at_least`."""
    if at_least is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (2 * max(at_least), 2 * max(at_least)))
    image.load()
    (rgb, _), turn = to_rgb(image, plan), _turn(image) if plan.exif else None
    return rgb if turn is None else rgb.transpose(turn)


def _load(image: Image.Image, plans: Sequence[Preprocess]) -> tuple[Size, int]:
    """Decode the pixels: (height, width) of the whole picture, and to which fraction it was read.

    A JPEG holds its lower frequencies apart, so where all plans are *fast* it is read to a half,
    a quarter or an eighth each way, as long as that stays FAST_GAP times larger than resized.
    """
    full, scale = (image.height, image.width), 1
    if image.format in ("JPEG", "MPO") and all(plan.reduces for plan in plans):
        turn = _turn(image)
        targets = [stored_target(full, plan, turn if plan.exif else None) for plan in plans]
        height, width = (
            max(1, math.ceil(FAST_GAP * max(side))) for side in zip(*targets, strict=True)
        )
        if drafted := image.draft(None, (width, height)):
            scale = round(full[1] / drafted[1][2])
    image.load()
    if scale == 1:  # an icon and a turned TIFF say their size only now
        full = image.height, image.width
    return full, scale


def _pixels(
    image: Image.Image,
    plan: Preprocess,
    turn: Image.Transpose | None,
    full: Size,
    scale: int,
    finish: Finish,
) -> tuple[NDArray[np.uint8], str]:
    rgb, note = to_rgb(image, plan)
    turn = turn if plan.exif else None
    if plan.reduces:
        return preprocess_fast(rgb, plan, turn, full, scale), note
    return finish(rgb if turn is None else rgb.transpose(turn), plan), note


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What the EXIF orientation asks for; metadata too damaged to read ask for nothing."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return None


@contextmanager
def _open(ref: ImageRef, limits: Limits, formats: str) -> Iterator[Image.Image]:
    """The first frame of an image, its header read."""
    with _open_ref(ref, limits) as file, _quiet_pillow():
        head = file.read(512)
        file.seek(0)
        _refuse_impostors(head)
        with _identified(file, head, formats) as image:
            if tiff.is_tiff(image) and (note := tiff.settle(image)):
                image.info[NOTE] = note
            _check_pixels(image, limits)
            Image.MAX_IMAGE_PIXELS = limits.max_pixels  # an icon may hold a picture of another size
            with _quiet_libtiff() if image.format == "TIFF" else nullcontext():
                yield image


def _identified(file: BinaryIO, head: bytes, formats: str) -> Image.Image:
    """What Pillow finds in a file. Raises ImageError where it finds nothing."""
    allowed = allowed_formats(formats)
    kind = next((k for magic, k in _MAGIC.items() if head.startswith(magic)), None)
    if is_heif(head) and reads_heif():
        import pillow_heif

        pillow_heif.register_heif_opener()
        kind = "HEIF"
        allowed = [kind]
    try:
        return Image.open(file, formats=allowed)
    except UnidentifiedImageError:
        pass
    if kind is not None and (words := _unread(file, kind)):
        raise ImageError(ErrorType.UNREADABLE, words)
    if kind is not None:
        raise ImageError(ErrorType.DECODE_ERROR, f"damaged {kind} header")
    words = unread(head) or f"not an image (starts with {_preview(head)})"
    raise ImageError(ErrorType.NOT_AN_IMAGE, words)


def _unread(file: BinaryIO, kind: str) -> str | None:
    """What is sound, but has a form that Pillow does not read; None where it is damaged."""
    if kind == "TIFF":
        return tiff.unread(file)
    try:
        file.seek(0)
        Image.OPEN[kind][0](file, b"")
    except Exception as error:  # whatever it is, it says so again
        words = _one_line(error)
        is_sound = words.startswith(("cannot handle", "unable to determine J2K"))
        return f"{kind}: {words}" if is_sound else None
    return None


@contextmanager
def _open_ref(ref: ImageRef, limits: Limits) -> Iterator[BinaryIO]:
    """The bytes of an image, wherever they are."""
    member = ref.member
    if member is not None and member.fault is not None:
        raise ImageError(*member.fault)
    if member is not None and member.data is not None:
        yield io.BytesIO(member.data)
        return
    if member is not None:
        yield opened(_opening(ref.file, partial(_archive, member=member)), member)
        return
    with _opening(ref.file, partial(_file, largest=largest_file(limits.max_pixels))) as file:
        yield file


def _file(path: str, largest: int) -> BinaryIO:
    """An object is read whole."""
    if is_remote(path):
        data = stores.read_at_most(path, largest)
        if len(data) > largest:
            limit = f"limit {in_bytes(largest)} (--max-pixels)"
            raise ImageError(ErrorType.TOO_LARGE, f"a larger object, {limit}")
        return io.BytesIO(data)
    _stat(path)
    return open(_descriptor(path), "rb")


def _archive(path: str, member: Member) -> Pieces:
    """It stays open for the images that follow, until another archive takes its place; of an
    object there is the piece alone."""
    if is_remote(path):
        return piece(path, member)
    version = version_of(_stat(path))
    if member.version not in (None, version):
        raise ImageError(ErrorType.UNREADABLE, CHANGED)
    return _kept(path, version)


@lru_cache(maxsize=1)
def _kept(path: str, version: Version) -> Archive:
    archive = Archive(_descriptor(path))
    if archive.version() != version:
        raise ImageError(ErrorType.UNREADABLE, CHANGED)
    return archive


def _stat(path: str) -> os.stat_result:
    """The status of a regular file. Refuse others: a FIFO or a device would block for ever."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(ErrorType.UNREADABLE, "not a regular file")
    return found


def _descriptor(path: str) -> int:
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags | getattr(os, "O_BINARY", 0))


def _opening(path: str, opener: Callable[[str], Opened]) -> Opened:
    """Or the reason why it cannot be opened."""
    try:
        return opener(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        message = str(error) if is_remote(path) else "no such file"
        raise ImageError(ErrorType.NOT_FOUND, message) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(ErrorType.UNREADABLE, reason) from None


@contextmanager
def _quiet_libtiff() -> Iterator[None]:
    """libtiff writes its complaints to descriptor 2 itself, also where no worker has closed it."""
    try:
        saved = os.dup(2)
    except OSError:  # nobody hears it
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Our own pixel limit instead of Pillow's, and no warnings about odd metadata, nor its log."""
    saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    was_disabled, _PILLOW_TIFF.disabled = _PILLOW_TIFF.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, _PILLOW_TIFF.disabled = saved, was_disabled


def _check_pixels(image: Image.Image, limits: Limits) -> None:
    pixels = image.width * image.height
    if pixels > limits.max_pixels:
        raise ImageError(
            ErrorType.TOO_LARGE,
            f"{pixels / 1e6:.1f} MP, limit {limits.max_pixels / 1e6:g} MP (--max-pixels)",
        )


def _refuse_impostors(head: bytes) -> None:
    if not head:
        raise ImageError(ErrorType.NOT_AN_IMAGE, "empty file")
    if head.startswith(b"version https://git-lfs"):
        message = "a git-LFS pointer, not the image: git lfs pull"
        raise ImageError(ErrorType.NOT_AN_IMAGE, message)


def allowed_formats(formats: str) -> list[str]:
    """Pillow's names of the formats that may be opened: the common ones, or all but NEVER."""
    Image.init()
    names = [*Image.OPEN] if formats == "all" else [*FORMATS]
    return [name for name in names if name in Image.OPEN and name not in NEVER]


def suffixes(formats: str) -> frozenset[str]:
    """The lower-case suffixes that a directory scan takes for images."""
    if formats == "all":
        names = set(allowed_formats("all"))
        more = HEIF if reads_heif() else ()
        known = Image.registered_extensions().items()
        return frozenset(more).union(s for s, name in known if name in names)
    more = HEIF if reads_heif() else ()
    return frozenset(suffix for group in (*FORMATS.values(), more) for suffix in group)


def _preview(head: bytes) -> str:
    text = "".join(chr(b) if 32 <= b < 127 else "." for b in head[:24])
    return repr(text.strip())


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.replace("image file is truncated", "truncated image")
