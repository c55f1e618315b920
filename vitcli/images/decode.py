"""Decode an image ref into the pixels of each preprocessing, or into a Failure."""

from __future__ import annotations

import logging
import math
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import BinaryIO, TypeAlias

from PIL import Image, UnidentifiedImageError

from vitcli.errors import shortened
from vitcli.images import tiff
from vitcli.images.archives import max_file_bytes
from vitcli.images.depth import to_rgb
from vitcli.images.kinds import ImageError, allowed_formats, is_heif, reads_heif, unread
from vitcli.images.opening import open_ref
from vitcli.images.preprocess import ACROSS, preprocess, preprocess_fast, stored_target
from vitcli.records import (
    FAST_GAP,
    ErrorType,
    Failure,
    ImageRef,
    Limits,
    PixelArray,
    Preprocess,
    Sample,
    Size,
)

# Files that begin with these bytes are images, even if Pillow cannot read the rest.
_MAGIC = {
    b"\x89PNG\r\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    **dict.fromkeys(tiff.MAGIC, "TIFF"),
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
}

Picture: TypeAlias = Image.Image  # for modules that do not import Pillow
NOTE = "vit: note"  # key in the `info` of an image, for a note on how it was read
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


Finish: TypeAlias = Callable[[Image.Image, Preprocess], PixelArray]
"""Turns an upright RGB image into pixels (H, W, 3)."""


def decode(
    ref: ImageRef,
    plans: Sequence[Preprocess],
    limits: Limits,
    formats: str = "common",
    finish: Finish = preprocess,
) -> Sample | Failure:
    """Read, turn and convert one image, and preprocess it for each plan. Errors become a Failure.

    `finish` turns the upright RGB image into the model's pixels; in training, it augments the image
    first. Plans that decode *fast* do not use `finish`.
    """

    def preprocessed(image: Image.Image) -> Sample:
        full, scale = _load(image, plans)
        turn = turn_of(image)
        made = [_pixels(image, plan, turn, full, scale, finish) for plan in plans]
        pixels, notes = tuple(array for array, _ in made), [image.info.get(NOTE, "")]
        is_turned = turn in ACROSS and bool(plans) and plans[0].exif
        size = (full[1], full[0]) if is_turned else full
        note = next(filter(None, (*notes, *(text for _, text in made))), "")
        return Sample(ref, pixels, size, note=note)

    return attempt(ref, limits, formats, preprocessed)


def attempt(
    ref: ImageRef, limits: Limits, formats: str, make: Callable[[Image.Image], Sample]
) -> Sample | Failure:
    """Open an image and call `make`. Errors become a Failure.

    `Exception` is caught because Pillow's decoders raise a dozen kinds for broken files (OSError,
    ValueError, SyntaxError, struct.error, ...), and a broken image must not end the run.
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
        return Failure(ref, ErrorType.DECODE_ERROR, shortened(one_line(error)))


def upright(image: Image.Image, plan: Preprocess, at_least: Size | None = None) -> Image.Image:
    """Return the whole image in RGB, turned by its EXIF orientation if the plan does that.

    With `at_least`, a large JPEG may be decoded at a fraction of its size, but each side stays at
    least twice as long as the longer side of `at_least`.
    """
    if at_least is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (2 * max(at_least), 2 * max(at_least)))
    image.load()
    (rgb, _), turn = to_rgb(image, plan), turn_of(image) if plan.exif else None
    return rgb if turn is None else rgb.transpose(turn)


def _load(image: Image.Image, plans: Sequence[Preprocess]) -> tuple[Size, int]:
    """Decode the pixels. Return the full (height, width), and the divisor of the decoded size.

    If all plans decode *fast*, a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, but at no
    less than FAST_GAP times the size to which it is resized. The divisor is 1 otherwise.
    """
    full, scale = (image.height, image.width), 1
    if image.format in ("JPEG", "MPO") and all(plan.reduces for plan in plans):
        turn = turn_of(image)
        targets = [stored_target(full, plan, turn if plan.exif else None) for plan in plans]
        height, width = (
            max(1, math.ceil(FAST_GAP * max(side))) for side in zip(*targets, strict=True)
        )
        if drafted := image.draft(None, (width, height)):
            scale = round(full[1] / drafted[1][2])
    image.load()
    if scale == 1:  # an icon or a turned TIFF has its true size only now
        full = image.height, image.width
    return full, scale


def _pixels(
    image: Image.Image,
    plan: Preprocess,
    turn: Image.Transpose | None,
    full: Size,
    scale: int,
    finish: Finish,
) -> tuple[PixelArray, str]:
    rgb, note = to_rgb(image, plan)
    turn = turn if plan.exif else None
    if plan.reduces:
        return preprocess_fast(rgb, plan, turn, full, scale), note
    return finish(rgb if turn is None else rgb.transpose(turn), plan), note


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return the turn of the EXIF orientation; None for no turn or damaged metadata."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return None


@contextmanager
def _open(ref: ImageRef, limits: Limits, formats: str) -> Iterator[Image.Image]:
    """Open the first frame of an image and read its header."""
    with open_ref(ref, max_file_bytes(limits.max_pixels)) as file, _quiet_pillow():
        head = file.read(512)
        file.seek(0)
        _refuse_non_images(head)
        with _identified(file, head, formats) as image:
            if tiff.is_tiff(image) and (note := tiff.settle(image)):
                image.info[NOTE] = note
            check_pixels(image, limits)
            Image.MAX_IMAGE_PIXELS = limits.max_pixels  # an icon may be larger than its header says
            with _quiet_libtiff() if image.format == "TIFF" else nullcontext():
                yield image


def _identified(file: BinaryIO, head: bytes, formats: str) -> Image.Image:
    """Open a file with Pillow. Raises ImageError, which describes the file, if Pillow cannot."""
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
    """Describe an intact file of a variant that Pillow does not read; None for a damaged file."""
    if kind == "TIFF":
        return tiff.unread(file)
    try:
        file.seek(0)
        Image.OPEN[kind][0](file, b"")
    except Exception as error:  # Image.open hides this error
        words = one_line(error)
        is_sound = words.startswith(("cannot handle", "unable to determine J2K"))
        return f"{kind}: {words}" if is_sound else None
    return None


@contextmanager
def _quiet_libtiff() -> Iterator[None]:
    """Discard what libtiff writes to descriptor 2: outside a worker, that is the user's stderr."""
    try:
        saved = os.dup(2)
    except OSError:  # descriptor 2 is closed
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
    """Turn off Pillow's warnings and log about odd metadata, and its pixel limit, which
    `check_pixels` replaces."""
    saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    was_disabled, _PILLOW_TIFF.disabled = _PILLOW_TIFF.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, _PILLOW_TIFF.disabled = saved, was_disabled


def check_pixels(image: Image.Image, limits: Limits) -> None:
    """Raise ImageError for an image, or the current frame of one, with too many pixels."""
    pixels = image.width * image.height
    if pixels > limits.max_pixels:
        raise ImageError(
            ErrorType.TOO_LARGE,
            f"{pixels / 1e6:.1f} MP, limit {limits.max_pixels / 1e6:g} MP (--max-pixels)",
        )


def _refuse_non_images(head: bytes) -> None:
    if not head:
        raise ImageError(ErrorType.NOT_AN_IMAGE, "empty file")
    if head.startswith(b"version https://git-lfs"):
        message = "a git-LFS pointer, not the image: git lfs pull"
        raise ImageError(ErrorType.NOT_AN_IMAGE, message)


def _preview(head: bytes) -> str:
    text = "".join(chr(b) if 32 <= b < 127 else "." for b in head[:24])
    return repr(text.strip())


def one_line(error: Exception) -> str:
    """The message of an error of Pillow's for a row."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.replace("image file is truncated", "truncated image")
