"""Numbers that are not 8-bit, unsigned, black-is-zero and interleaved: right pixels, or words."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitcli.images import depth, tiff
from vitcli.images.decode import decode
from vitcli.records import ErrorType, Failure, ImageRef, Limits, Preprocess, Sample

GREY = np.arange(256, dtype=np.uint8).reshape(8, 32)
COLOR = np.stack([GREY, GREY[::-1], 255 - GREY])


def tif(
    pages: list[tuple[NDArray[Any], dict[int, list[int]]]], order: str = "<", bits: int = 0
) -> bytes:
    """Pages (H, W) or (planes, H, W), one strip a plane, with more tags or other values."""
    data = (b"II*\0" if order == "<" else b"MM\0*") + bytes(4)
    last = 4
    for values, changes in pages:
        (height, width), planes = values.shape[-2:], values[0].ndim and len(values)
        count = planes if values.ndim == 3 else 1
        size, start = height * width * values.dtype.itemsize, len(data)
        data += values.astype(values.dtype.newbyteorder(order)).tobytes()
        starts, sizes = [start + i * size for i in range(count)], [size] * count
        tags = {
            **{256: [width], 257: [height], 258: [bits or values.dtype.itemsize * 8] * count},
            **{259: [1], 262: [1], 273: starts, 277: [count], 278: [height], 279: sizes},
            **{284: [1 + (count > 1)], 339: [1] * count, **changes},
        }
        entries = b""
        for tag, found in sorted(tags.items()):
            kind = "I" if tag in (273, 279, 330) else "H"
            packed = struct.pack(f"{order}{len(found)}{kind}", *found)
            if len(packed) > 4:
                packed, data = struct.pack(order + "I", len(data)), data + packed
            entries += struct.pack(order + "HHI", tag, 4 if kind == "I" else 3, len(found))
            entries += packed.ljust(4, b"\0")
        here = struct.pack(order + "I", len(data))
        data = data[:last] + here + data[last + 4 :]
        last = len(data) + 2 + len(entries)
        data += struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return data


def decoded(folder: Path, data: bytes, **changes: Any) -> Sample | Failure:
    path = folder / "a.tif"
    path.write_bytes(data)
    plan = Preprocess((8, 32), None, **changes)
    return decode(ImageRef(0, str(path)), (plan,), Limits())


def pixels(found: Sample | Failure) -> NDArray[Any]:
    assert isinstance(found, Sample), found
    return found.pixels[0]


WHITE, FLOAT, SIGNED = {262: [0]}, {339: [3]}, {339: [2]}
GREYS = {
    "16 bits": (GREY.astype("u2") * 257, {}, depth.GREY16),
    "16 bits, white is 0": (65535 - GREY.astype("u2") * 257, WHITE, depth.GREY16),
    "8 bits, white is 0": (255 - GREY, WHITE, ""),
    "floats to 1": ((GREY / 255).astype("f4"), FLOAT, depth.UNIT_FLOATS),
    "floats to 255": (GREY.astype("f4"), FLOAT, depth.BYTE_FLOATS),
    "floats, white is 0": ((1 - GREY / 255).astype("f4"), WHITE | FLOAT, depth.UNIT_FLOATS),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", GREYS)
def test_grey_of_any_numbers_has_the_greys_it_means(name: str, order: str, tmp_path: Path) -> None:
    values, tags, note = GREYS[name]
    if order == ">" and name in ("floats, white is 0", "16 bits, white is 0"):
        pytest.skip("Pillow does not read it")
    found = decoded(tmp_path, tif([(values, tags)], order))
    np.testing.assert_array_equal(pixels(found)[:, :, 1], GREY)
    assert isinstance(found, Sample) and found.note == note


REFUSED = {
    "int8": (GREY.view("i1"), SIGNED, "8-bit signed integers"),
    "int16": (GREY.astype("i2"), SIGNED, "16-bit signed integers"),
    "int32": (GREY.astype("i4"), SIGNED, "32-bit signed integers"),
    "uint32": (GREY.astype("u4"), {}, "32-bit unsigned integers"),
    "float64": (GREY / 255, FLOAT, "64-bit floats"),
    "float16": (GREY.astype("f2"), FLOAT, "16-bit floats"),
    "float below 0": (GREY.astype("f4") - 9, FLOAT, "from -9 to 246"),
    "float between": (GREY.astype("f4") / 100, FLOAT, "from 0 to 2.55"),
    "nan": (np.full((8, 32), np.nan, "f4"), FLOAT, "not finite"),
    "13 bands": (np.stack([GREY] * 13), {284: [1]}, "13 bands of 8-bit"),
    "subsampled": (COLOR, {262: [6], 284: [1]}, "with subsampled colours"),
    "compression": (GREY, {259: [34713]}, "compression 34713"),
    "sensor": (GREY.astype("u2"), {262: [32803]}, "a raw photograph"),
    "thumbnail of a raw photograph": (GREY, {254: [1], 330: [8]}, "a raw photograph"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_numbers_without_black_and_white_are_refused_by_what_they_are(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values, tags, words = REFUSED[name]
    found = decoded(tmp_path, tif([(values, tags)]))
    assert isinstance(found, Failure) and found.type is ErrorType.UNREADABLE
    assert words in found.message and "damaged" not in found.message
    assert capfd.readouterr() == ("", "")


def test_12_bits_in_16_are_said_to_be_dark(tmp_path: Path) -> None:
    values = GREY.astype("u2") * 16
    found = decoded(tmp_path, tif([(values, {})]))
    np.testing.assert_array_equal(pixels(found)[:, :, 0], values >> 8)  # as 16-bit grey always is
    assert isinstance(found, Sample) and found.note == depth.DARK


def test_packed_12_bits_are_scaled_as_12_bits(tmp_path: Path) -> None:
    values = GREY.astype("u2") * 16 + 5
    first, second = values.reshape(-1, 2).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1)
    rows = packed.astype("u1").reshape(8, 48)
    found = decoded(tmp_path, tif([(rows, {256: [32]})], bits=12))
    np.testing.assert_array_equal(pixels(found)[:, :, 0], GREY)
    assert isinstance(found, Sample) and found.note == depth.GREY12


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_separate_planes_are_not_scrambled(bits: int, order: str, tmp_path: Path) -> None:
    values = COLOR if bits == 8 else COLOR.astype("u2") * 257
    found = decoded(tmp_path, tif([(values, {262: [2]})], order))
    np.testing.assert_array_equal(pixels(found), COLOR.transpose(1, 2, 0))


@pytest.mark.parametrize("scale", [1, 257])
def test_a_colour_map_of_8_bits_is_not_black(scale: int, tmp_path: Path) -> None:
    colors = [c * scale for c in (*range(256), *range(255, -1, -1), *([7] * 256))]
    found = decoded(tmp_path, tif([(GREY, {262: [3], 320: colors})]))
    expected = np.stack([GREY, 255 - GREY, np.full_like(GREY, 7)], 2)
    np.testing.assert_array_equal(pixels(found), expected)
    assert isinstance(found, Sample)
    assert found.note == (tiff.SHALLOW_PALETTE if scale == 1 else "")


def test_a_first_page_that_is_a_thumbnail_is_passed_over(tmp_path: Path) -> None:
    small = np.zeros((2, 8), np.uint8)
    found = decoded(tmp_path, tif([(small, {254: [1]}), (GREY, {254: [4]}), (GREY, {254: [0]})]))
    np.testing.assert_array_equal(pixels(found)[:, :, 0], GREY)
    assert isinstance(found, Sample) and found.size == (8, 32)
    alone = decoded(tmp_path, tif([(GREY, {254: [1]})]))
    np.testing.assert_array_equal(pixels(alone)[:, :, 0], GREY)


def test_the_page_that_is_read_is_within_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tif([(np.zeros((2, 8), np.uint8), {254: [1]}), (GREY, {})]))
    found = decode(ImageRef(0, str(path)), (Preprocess((8, 8), (8, 8)),), Limits(max_pixels=99))
    assert isinstance(found, Failure) and found.type is ErrorType.TOO_LARGE


def test_a_pfm_has_the_range_of_its_floats(tmp_path: Path) -> None:
    head = b"Pf\n32 8\n-1.0\n"
    found = decoded(tmp_path, head + (GREY[::-1] / 255).astype("<f4").tobytes())
    np.testing.assert_array_equal(pixels(found)[:, :, 0], GREY)
    wild = decoded(tmp_path, head + (GREY * 9.0 - 5).astype("<f4").tobytes())
    assert isinstance(wild, Failure) and "from -5 to 2290" in wild.message
    color = decoded(tmp_path, b"PF\n1 1\n-1.0\n" + bytes(12))
    assert isinstance(color, Failure) and "PFM in colour" in color.message


def test_a_jpeg_of_12_bits_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "b.jpg"
    Image.fromarray(GREY).save(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xc0") + 4] = 12
    found = decoded(tmp_path, bytes(data))
    assert isinstance(found, Failure) and found.message == "JPEG: cannot handle 12-bit layers"


def test_premultiplied_grey_is_read(tmp_path: Path) -> None:
    interleaved = np.stack([GREY, np.full_like(GREY, 255)], 2).reshape(1, 8, 64)[0]
    data = tif([(interleaved, {256: [32], 258: [8, 8], 277: [2], 338: [1], 339: [1, 1]})])
    np.testing.assert_array_equal(pixels(decoded(tmp_path, data))[:, :, 0], GREY)
