"""Turn what a caller calls images into the inputs of a job: paths, and images in memory as the
bytes of files, which every job reads as it reads a file on the disk."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitcli.errors import UsageError, shortened
from vitcli.images.archives import max_file_bytes, too_large
from vitcli.images.decode import Picture, one_line, turn_of
from vitcli.images.depth import SHORT_IN_I
from vitcli.images.kinds import ImageError
from vitcli.images.members import StreamedMember, UnreadableMember
from vitcli.jobs.job import Inputs
from vitcli.records import ErrorType, FoundImage, Limits

if TYPE_CHECKING:  # a caller who has tensors has imported torch
    import torch

ORIENTATION = 0x0112
HINT = "an image is a path, bytes, an open file, a PIL.Image, a NumPy array or a torch tensor"
MAX_BYTES = max_file_bytes(Limits().max_pixels)


class BinaryFile(Protocol):
    """A file that is open for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


Image: TypeAlias = (
    "str | os.PathLike[str] | bytes | BinaryFile | Picture | NDArray[Any] | torch.Tensor"
)
"""A path, directory, pattern or URL; the bytes of an image file, or the file, open for reading; a
PIL.Image; a uint8 array (H, W, 3) or (H, W); or a uint8 tensor (3, H, W), (1, H, W) or (H, W)."""
Images: TypeAlias = "Image | Iterable[Image]"
"""One of them or any number, mixed: a list, a generator, an array (N, H, W, 3), a tensor
(N, 3, H, W)."""


def inputs_of(images: Images, *, are_shared: bool = False) -> Inputs:
    """Return the inputs of a job. Images in memory become bytes one by one, as the job reads them.

    `are_shared` says that other processes read them, which need paths. Raises UsageError for what
    is neither an image nor several.
    """
    if isinstance(images, str | os.PathLike):
        return Inputs(paths=(_path(images),))
    several: Iterable[object]
    if _is_one(images):
        several = (images,)
    elif isinstance(images, Iterable) and not isinstance(images, Mapping):
        several = tuple(images) if are_shared else images
    else:
        raise UsageError(f"{type(images).__name__} is neither an image nor several", HINT)
    if not isinstance(several, list | tuple):
        return Inputs(given=map(_found, several))
    paths = tuple(_path(image) for image in several if isinstance(image, str | os.PathLike))
    if len(paths) == len(several):
        return Inputs(paths=paths)
    if are_shared:
        raise UsageError(
            "devices and ray share files, and some of these images are in memory",
            "leave out devices and ray, or give paths",
        )
    return Inputs(paths=paths, given=map(_found, several))


def _is_one(images: object) -> bool:
    """Whether this is a single image in memory. An array of four axes is several, and so is one of
    texts or of objects."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4 and images.dtype.kind not in "OSU"
    if _is_tensor(images):
        return len(images.shape) < 4  # type: ignore[attr-defined]
    return isinstance(images, bytes | bytearray | memoryview | Picture) or hasattr(images, "read")


def _is_tensor(value: object) -> bool:
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)


def _path(path: str | os.PathLike[str]) -> str:
    return str(os.fsdecode(path))


def _found(image: object) -> str | FoundImage:
    """Return a path; or an image in memory, with its name if it has one, and its bytes or the
    reason why it has none."""
    if isinstance(image, str | os.PathLike):
        return _path(image)
    name = getattr(image, "filename" if isinstance(image, Picture) else "name", None)
    path = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""
    try:
        data = _bytes_of(image)
    except ImageError as error:
        why = shortened(error.message)
        return FoundImage(path, UnreadableMember("", 0, "", None, error.type, why))
    return FoundImage(path, StreamedMember("", len(data), "", None, data))


def _bytes_of(image: Any) -> bytes:
    """Return an image in memory as a file. Raises ImageError."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, Picture):
        return _of_picture(image)
    if isinstance(image, np.ndarray):
        return _of_array(image)
    if _is_tensor(image):
        return _of_tensor(image)
    if hasattr(image, "read"):
        return _of_file(image)
    raise ImageError(ErrorType.NOT_AN_IMAGE, f"{type(image).__name__} is not an image: {HINT}")


def _of_file(file: BinaryFile) -> bytes:
    """Read an open file from where it stands."""
    try:
        data = file.read(MAX_BYTES + 1)
        is_at_end = not data and hasattr(file, "tell") and file.tell() > 0
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise ImageError(ErrorType.UNREADABLE, str(error)) from None
    if isinstance(data, str):
        raise ImageError(ErrorType.NOT_AN_IMAGE, "a file of text: open it with the mode 'rb'")
    if is_at_end:
        raise ImageError(ErrorType.NOT_AN_IMAGE, "an open file that is at its end: call seek(0)")
    if len(data) > MAX_BYTES:
        raise ImageError(*too_large(len(data), MAX_BYTES))
    return data


def _of_picture(image: Picture) -> bytes:
    """Write a PIL.Image as a file whose pixels become those of the same image on the disk.

    `Exception` is caught for the same reason as in `images/decode.py`: the image may not have been
    decoded yet.
    """
    try:
        image.load()
        turn = int(image.getexif()[ORIENTATION]) if turn_of(image) is not None else 1
        if image.mode == "F":
            return _saved(image, "TIFF", turn)
        if image.mode.startswith("I"):
            return _saved(_short(image), "PNG", turn)
        if image.mode == "La":  # Pillow does not convert it to RGB directly
            image = image.convert("LA")
        if image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
        if turn != 1:
            return _saved(image, "PNG", turn, compress_level=0)
        return _ppm(image.tobytes(), image.width, image.height, image.mode)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(ErrorType.OUT_OF_MEMORY, "not enough memory to decode it") from None
    except Exception as error:  # see above
        raise ImageError(ErrorType.DECODE_ERROR, one_line(error)) from None


def _short(image: Picture) -> Picture:
    """Return an image of 16-bit grey in the mode that Pillow writes. Raises ImageError for integers
    of 32 bits."""
    if image.mode == "I" and image.format not in SHORT_IN_I:
        message = "integers of 32 bits without a known black and white: convert it to 8 bits"
        raise ImageError(ErrorType.UNREADABLE, message)
    return image if image.mode == "I;16" else image.convert("I").convert("I;16")


def _saved(image: Picture, format: str, turn: int, **options: int) -> bytes:
    """Write an image with its EXIF orientation, and without other metadata."""
    file, exif = io.BytesIO(), type(image.getexif())()
    if turn != 1:
        exif[ORIENTATION] = turn
    image = image.copy()
    image.info = {}
    image.save(file, format, exif=exif.tobytes() if turn != 1 else b"", **options)
    return file.getvalue()


def _of_array(array: NDArray[Any]) -> bytes:
    if array.dtype != np.uint8:
        raise _unfit("array", array.dtype, array.shape, "values are uint8, from 0 to 255")
    is_colour = array.ndim == 3 and array.shape[2] == 3
    if not (is_colour or array.ndim == 2) or not array.size:
        raise _unfit("array", array.dtype, array.shape, "an image is (H, W, 3), or (H, W) if grey")
    height, width = array.shape[:2]
    return _ppm(array.tobytes(), width, height, "RGB" if is_colour else "L")


def _of_tensor(tensor: torch.Tensor) -> bytes:
    kind, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    if kind != "uint8":
        raise _unfit("tensor", kind, shape, "values are uint8, from 0 to 255")
    is_grey = len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)
    if not (is_grey or (len(shape) == 3 and shape[0] == 3)) or not tensor.numel():
        rule = "an image is (3, H, W), or (1, H, W) or (H, W) if grey"
        raise _unfit("tensor", kind, shape, rule)
    array = tensor.detach().cpu().numpy()
    return _of_array(array.reshape(shape[-2:]) if is_grey else array.transpose(1, 2, 0))


def _unfit(what: str, dtype: object, shape: tuple[int, ...], rule: str) -> ImageError:
    return ImageError(ErrorType.NOT_AN_IMAGE, f"{what} of {dtype}, {shape}: {rule}")


def _ppm(pixels: bytes, width: int, height: int, mode: str) -> bytes:
    """Write pixels as PPM, or as PGM for the mode L: a line of text, and the pixels."""
    kind = "P5" if mode == "L" else "P6"
    return f"{kind} {width} {height} 255\n".encode() + pixels
