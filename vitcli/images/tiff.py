"""Use the tags of a TIFF to choose the page with the image, to correct Pillow where it misreads
them, and to describe a TIFF that is not read.

The tags are those of TIFF 6.0 (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf).
"""

from __future__ import annotations

from typing import BinaryIO, TypeGuard

from PIL import Image, ImageFile, ImagePalette, TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from vitcli.images.kinds import EXPORT, ImageError
from vitcli.records import ErrorType

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SHALLOW_PALETTE = "a TIFF has a colour map of 8-bit values, which are taken unchanged"

_PART = 254  # NewSubfileType, bits: 1 a smaller version of another page, 4 a mask
_BITS, _COMPRESSION, _PHOTOMETRIC = 258, 259, 262
_SAMPLES, _PLANES, _COLOR_MAP, _SUB_IFDS, _FORMAT = 277, 284, 320, 330, 339
_SUBSAMPLING, _DNG = 530, 50706
_RGB, _YCBCR = 2, 6
_MAX_PAGES = 100  # searched for one that is not a thumbnail
_KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floats", 5: "complex", 6: "complex"}
_COLORS = {0: "white is 0", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
_MOSAIC = (32803, 34892)  # a raw photograph: CFA, LinearRaw


def is_tiff(image: Image.Image) -> TypeGuard[TiffImageFile]:
    return isinstance(image, TiffImageFile) and image.format == "TIFF"


def is_white_zero(image: Image.Image) -> bool:
    """Whether 0 is white and Pillow has not inverted it, as it does up to 8 bits."""
    return is_tiff(image) and image.tag_v2.get(_PHOTOMETRIC) == 0 and image.mode[0] in "IF"


def bits_of(image: Image.Image) -> int:
    """Return the bits of a sample of a TIFF; 0 for other images."""
    return _numbers(image.tag_v2, _BITS, 1)[0] if is_tiff(image) else 0


def settle(image: TiffImageFile) -> str:
    """Go to the page with the image, and correct how Pillow reads it. Return a note for the user.

    Raises ImageError for numbers without a known black and white.
    """
    _to_main_page(image)
    return correct(image)


def correct(image: TiffImageFile) -> str:
    """Correct how Pillow reads the current page. Return a note for the user. Raises ImageError for
    numbers without a known black and white."""
    tags = image.tag_v2
    if _DNG in tags:
        raise ImageError(ErrorType.UNREADABLE, f"DNG, a raw photograph: {EXPORT}")
    bits, kinds = _numbers(tags, _BITS, 1), _numbers(tags, _FORMAT, 1)
    if any(kind not in (1, 3) for kind in kinds) or (bits[0] > 16 and kinds[0] != 3):
        raise _refused(tags)
    if (
        image.mode == "YCbCr"
        and not image.use_load_libtiff
        and _numbers(tags, _SUBSAMPLING, 2)[:2] != (1, 1)
    ):
        raise _refused(tags, "with subsampled colours, not compressed")
    if _numbers(tags, _PLANES, 1)[0] == 2 and not image.use_load_libtiff:
        _read_planes(image, bits[0])
    if image.mode in ("P", "PA"):
        return _read_palette(image)
    return ""


def unread(file: BinaryIO) -> str | None:
    """Describe a TIFF that Pillow does not read; return None where it is damaged."""
    reason: Exception | None = None
    try:
        file.seek(0)
        TiffImageFile(file)
    except (SyntaxError, OSError) as error:
        reason = error
    try:
        tags = _tags(file)
        if _DNG in tags or _numbers(tags, _PHOTOMETRIC, 0)[0] in _MOSAIC:
            return f"a raw photograph: {EXPORT}"
        is_sound = (
            str(reason).startswith(("unknown pixel mode", "Invalid value for samples"))
            or "not yet supported" in str(reason)
            or _numbers(tags, _COMPRESSION, 1)[0] not in TiffImagePlugin.COMPRESSION_INFO
        ) and all(1 <= bits <= 64 for bits in _numbers(tags, _BITS, 1))
        return _described(tags) if is_sound else None
    except Exception:  # Pillow raises a dozen kinds for damaged tags
        return None


def _to_main_page(image: TiffImageFile) -> None:
    """Go to the first page that is neither a smaller version of another nor a mask."""
    if not _is_part(image.tag_v2):
        return
    has_sub_ifds = _SUB_IFDS in image.tag_v2
    try:
        for page in range(1, _MAX_PAGES):
            image.seek(page)
            if not _is_part(image.tag_v2):
                return
    except EOFError:
        pass
    if has_sub_ifds:
        message = f"TIFF whose first page is a thumbnail; a raw photograph? {EXPORT}"
        raise ImageError(ErrorType.UNREADABLE, message)
    image.seek(0)


def _is_part(tags: ImageFileDirectory_v2) -> bool:
    return bool(_numbers(tags, _PART, 0)[0] & 5) or _numbers(tags, 255, 1)[0] == 2


def _read_planes(image: TiffImageFile, bits: int) -> None:
    """Make Pillow read separate planes of 16 bits as such; it would read them as bytes."""
    if image.mode not in ("RGB", "RGBA", "CMYK", "LAB") or (bits == 16 and image.mode[:3] != "RGB"):
        raise _refused(image.tag_v2, "in separate planes")
    if bits == 16:
        order = ";16L" if image.tag_v2.prefix == b"II" else ";16B"
        image.tile = [
            ImageFile._Tile(tile.codec_name, tile.extents, tile.offset, _deep(tile.args, order))
            for tile in image.tile
        ]


def _deep(args: object, order: str) -> tuple[object, ...]:
    assert isinstance(args, tuple)
    band, *rest = args
    return (band + order, *rest)


def _read_palette(image: TiffImageFile) -> str:
    """Read a colour map without a value above 255 as 8 bits, as libtiff does, not as 16."""
    colors = _numbers(image.tag_v2, _COLOR_MAP, 0)
    if not 0 < max(colors) < 256:
        return ""
    image.palette = ImagePalette.raw("RGB;L", bytes(colors))
    return SHALLOW_PALETTE


def _refused(tags: ImageFileDirectory_v2, more: str = "") -> ImageError:
    described = " ".join(filter(None, (_described(tags), more)))
    return ImageError(ErrorType.UNREADABLE, f"{described}: convert it to 8 bits")


def _described(tags: ImageFileDirectory_v2) -> str:
    """Return, for example, "TIFF of 13 bands of 8-bit unsigned integers (grey)"."""
    bits, kinds = _numbers(tags, _BITS, 1), _numbers(tags, _FORMAT, 1)
    bands = _numbers(tags, _SAMPLES, 1)[0]
    color = _numbers(tags, _PHOTOMETRIC, 0)[0]
    kind = _KINDS.get(kinds[0], "numbers")
    compression = _numbers(tags, _COMPRESSION, 1)[0]
    notes = [_COLORS.get(color, f"photometric {color}")]
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        notes.append(f"compression {compression}")
    amount = f"{bands} bands of " if bands > 1 else ""
    return f"TIFF of {amount}{bits[0]}-bit {kind} ({', '.join(notes)})"


def _tags(file: BinaryIO) -> ImageFileDirectory_v2:
    file.seek(0)
    header = file.read(8)
    if header[2:4] in (b"+\0", b"\0+"):
        header += file.read(8)
    tags = ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _numbers(tags: ImageFileDirectory_v2, tag: int, default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    values = value if isinstance(value, tuple) else (value,)
    return tuple(n for n in values if isinstance(n, int)) or (default,)
