"""Which files are twins: what looks the same is, what looks different is not."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

import vitcli
from vitcli.records import Failure, ImageRef, Limits
from vitcli.tasks.dedupe.colours import is_srgb
from vitcli.tasks.dedupe.files import LookJob
from vitcli.tasks.dedupe.twin import KINDS, Kind

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 255, (6, 9, 3), np.uint8)
GREY16 = RANDOM.integers(0, 65535, (6, 9), np.uint16)
DEEP = RANDOM.integers(0, 65535, (6, 9, 3), np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = SRGB.replace(b"rXYZ", b"tmp ").replace(b"gXYZ", b"rXYZ").replace(b"tmp ", b"gXYZ")
Save = Callable[[Path], object]


def image(pixels: NDArray[np.generic], **options: Any) -> Save:
    return lambda path: Image.fromarray(pixels).save(path, **options)


def converted(mode: str, **options: Any) -> Save:
    return lambda path: Image.fromarray(RGB).convert(mode).save(path, **options)


def frames(*numbers: int, **options: Any) -> Save:
    """An animation, or pages; each number is a colour."""
    made = [Image.new("RGB", (9, 6), (40 * number, 60, 90)) for number in numbers]
    return lambda path: made[0].save(path, save_all=True, append_images=made[1:], **options)


def clear(at: tuple[int, int], opacity: int, hidden: int = 0) -> NDArray[np.uint8]:
    """The pixels with one of another opacity."""
    pixels = np.dstack([RGB, np.full((6, 9), 255, np.uint8)])
    pixels[at] = (*(RGB[at] if opacity else [hidden] * 3), opacity)
    return pixels


def png16(pixels: NDArray[np.uint16]) -> Save:
    """A PNG of 16-bit colours, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    whole = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + whole)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


PALETTE = Image.fromarray(RGB).quantize(256)
TIMES = {"duration": [100, 200]}
SAME = {
    "formats": [
        *(("a.png", image(RGB)), ("a.bmp", image(RGB)), ("a.tif", image(RGB))),
        *(("a.webp", image(RGB, lossless=True)), ("opaque.png", converted("RGBA"))),
        *(("palette.png", PALETTE.save), ("palette.gif", PALETTE.save)),
        ("srgb.png", image(RGB, icc_profile=SRGB)),
        ("turned.png", image(RGB[::-1, ::-1].copy(), exif=turned(3))),
        ("one.gif", lambda path: PALETTE.save(path, save_all=True, duration=100)),
    ],
    "clear": [
        ("a.png", image(clear((0, 0), 128))),
        ("a.webp", image(clear((0, 0), 128), lossless=True)),
    ],
    "hidden": [("a.png", image(clear((0, 0), 0, 3))), ("b.png", image(clear((0, 0), 0, 200)))],
    "grey": [("a.png", image(GREY16)), ("a.tif", image(GREY16))],
    "cmyk": [("a.tif", converted("CMYK")), ("b.tif", converted("CMYK", compression="tiff_lzw"))],
    "animated": [
        *(("a.gif", frames(1, 2, **TIMES)), ("a.png", frames(1, 2, **TIMES))),
        ("a.webp", frames(1, 2, lossless=True, **TIMES)),
    ],
    "pages": [("a.tif", frames(1, 2)), ("b.tif", frames(1, 2, compression="tiff_lzw"))],
}
DIFFERENT = {
    "gif": [("a.gif", frames(1, 2)), ("b.gif", frames(1, 3)), ("c.gif", frames(1, 2, 3))],
    "apng": [("a.png", frames(1, 2)), ("b.png", frames(1, 3)), ("c.png", frames(1))],
    "webp": [("a.webp", frames(1, 2)), ("b.webp", frames(1, 3)), ("c.webp", frames(1, 2, 3))],
    "tiff": [("a.tif", frames(1, 2)), ("b.tif", frames(1, 3)), ("c.tif", frames(1))],
    "times": [("a.gif", frames(1, 2, **TIMES)), ("b.gif", frames(1, 2, duration=[100, 300]))],
    "alpha": [
        *(("a.png", image(RGB)), ("b.png", image(clear((0, 0), 128)))),
        ("c.png", image(clear((0, 0), 64))),
    ],
    "palette": [("a.gif", PALETTE.save), ("b.gif", lambda p: PALETTE.save(p, transparency=0))],
    "grey": [("a.png", image(GREY16)), ("b.png", image(GREY16 ^ np.uint16(1)))],
    "deep": [("a.png", png16(DEEP)), ("b.png", png16(DEEP ^ np.uint16(1)))],
    "cmyk": [("a.tif", converted("CMYK")), ("b.png", image(RGB))],
    "profile": [("a.png", image(RGB)), ("b.png", image(RGB, icc_profile=SWAPPED))],
    "mirror": [("a.png", image(RGB)), ("b.png", image(RGB[:, ::-1].copy()))],
    "turn": [("a.png", image(RGB)), ("b.png", image(RGB, exif=turned(3)))],
}


def digest(path: Path) -> bytes:
    seen = LookJob("pixels", Limits(), "common")(ImageRef(0, str(path)))
    assert not isinstance(seen, Failure), seen
    return seen.pixels[0].tobytes()


def digests(folder: Path, files: list[tuple[str, Save]]) -> list[bytes]:
    for name, save in files:
        save(folder / name)
    return [digest(folder / name) for name, _ in files]


@pytest.mark.parametrize("files", SAME.values(), ids=SAME)
def test_what_looks_the_same_is_the_same(tmp_path: Path, files: list[tuple[str, Save]]) -> None:
    assert len(set(digests(tmp_path, files))) == 1


@pytest.mark.parametrize("files", DIFFERENT.values(), ids=DIFFERENT)
def test_what_looks_different_is_not(tmp_path: Path, files: list[tuple[str, Save]]) -> None:
    assert len(set(digests(tmp_path, files))) == len(files)


def test_profiles_are_told_by_their_numbers() -> None:
    assert is_srgb(SRGB)
    assert not is_srgb(SWAPPED)
    assert not any(is_srgb(SRGB[:size]) for size in range(0, len(SRGB) - 200, 37))


def test_a_page_with_too_many_pixels_is_a_failure(tmp_path: Path) -> None:
    large = Image.new("RGB", (90, 60))
    Image.new("RGB", (9, 6)).save(tmp_path / "a.tif", save_all=True, append_images=[large])
    found = LookJob("pixels", Limits(max_pixels=1000), "common")(ImageRef(0, f"{tmp_path}/a.tif"))
    assert isinstance(found, Failure) and "--max-pixels" in found.message


SUBSETS = [kinds for n in (1, 2, 3) for kinds in combinations(KINDS, n)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images; of the first a copy, of the second the same pixels, of the third a near one; of
    a file that cannot be decoded a copy."""
    folder = tmp_path_factory.mktemp("twins")
    for number in range(4):
        image(RANDOM.integers(0, 255, (6, 9, 3), np.uint8))(folder / f"{number}.png")
    shutil.copy(folder / "0.png", folder / "0-copy.png")
    Image.open(folder / "1.png").save(folder / "1-same.bmp")
    Image.open(folder / "2.png").save(folder / "2-near.jpg")
    for name in ("9.png", "9-copy.png"):
        (folder / name).write_bytes((folder / "3.png").read_bytes()[:60])
    return folder


@pytest.mark.filterwarnings("ignore:.*could not be read")
@pytest.mark.parametrize("linkage", ["star", "complete", "single"])
@pytest.mark.parametrize("kinds", SUBSETS, ids=",".join)
def test_a_kind_is_found_if_it_is_asked_for(
    planted: Path, kinds: tuple[Kind, ...], linkage: str
) -> None:
    paths = sorted(planted.iterdir())
    rows = np.eye(10, dtype=np.float32)[[int(path.name[0]) for path in paths]]
    found = vitcli.dedupe(rows, paths=paths, kind=kinds, linkage=linkage, workers=0)  # type: ignore[arg-type]
    twins = {Path(twin.path).name[0]: twin.kind for twin in found if not twin.keep}
    best: dict[str, list[Kind]] = {
        **{"0": ["bytes", "pixels", "near"], "1": ["pixels", "near"], "2": ["near"]},
        "9": ["bytes", "near"],
    }
    wanted = {name: [kind for kind in may if kind in kinds] for name, may in best.items()}
    assert twins == {name: may[0] for name, may in wanted.items() if may}
    assert {twin.kind for twin in found} <= set(kinds)
