"""Good files have Pillow's pixels; for each kind of bad file there is one type of error."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.fixtures import photos as make
from tests.fixtures.photos import BAD, EPS, GOOD, Corpus, bomb, photo
from vitcli.images.decode import decode
from vitcli.images.kinds import FORMATS, NEVER, allowed_formats, suffixes
from vitcli.records import ErrorType, Failure, ImageRef, Limits, Preprocess, Sample

ROOT = Path(__file__).parents[2]
DEEP = {"grey16.png", "grey16.tif"}
TURNED_BY_TAG = 0x0112


def whole(path: Path, **changes: Any) -> Preprocess:
    """A plan that leaves the upright picture as it is."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image) if changes.get("exif", True) else image
        return Preprocess((upright.height, upright.width), None, **changes)


def pixels(path: Path, plan: Preprocess | None = None, formats: str = "common") -> NDArray[Any]:
    result = decode(ImageRef(0, str(path)), (plan or whole(path),), Limits(), formats)
    assert isinstance(result, Sample), result
    return result.pixels[0]


def failure(path: Path | str, limits: Limits = Limits(), formats: str = "common") -> Failure:
    """The failure that a bad file must be, with one line of words."""
    result = decode(ImageRef(7, str(path)), (Preprocess((8, 8), (8, 8)),), limits, formats)
    assert isinstance(result, Failure)
    assert result.ref == ImageRef(7, str(path))
    assert result.message and len(result.message.splitlines()) == 1
    return result


def by_pillow(path: Path) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


def named(corpus: Corpus, name: str) -> Path:
    return next(p for p in (*corpus.good, *corpus.bad) if p.as_posix().endswith("/" + name))


# Good files


@pytest.mark.parametrize("name", sorted(GOOD.keys() - DEEP))
def test_a_good_file_has_the_pixels_of_pillow(name: str, photos: Corpus) -> None:
    path = named(photos, name)
    np.testing.assert_array_equal(pixels(path), by_pillow(path))


@pytest.mark.parametrize("name", sorted(DEEP))
def test_sixteen_bits_of_grey_are_scaled(name: str, photos: Corpus) -> None:
    path = named(photos, name)
    values = np.asarray(Image.open(path))
    assert values.max() > 60_000
    expected = np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(pixels(path), expected)


@pytest.mark.parametrize("name", sorted(DEEP))
def test_sixteen_bits_of_grey_are_clamped_where_asked(name: str, photos: Corpus) -> None:
    path = named(photos, name)
    np.testing.assert_array_equal(pixels(path, whole(path, grey16="clamp")), by_pillow(path))


def test_a_16_bit_pgm_is_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256], [40_000, 65_535, 1]])
    pgm = tmp_path / "deep.pgm"
    pgm.write_bytes(b"P5 3 2 65535\n" + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels(pgm)[:, :, 0], values >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_turn_ends_upright(orientation: int, photos: Corpus) -> None:
    upright = np.asarray(photo("turned"))
    np.testing.assert_array_equal(pixels(named(photos, f"turned-{orientation}.png")), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_without_exif_the_pixels_stay_as_they_are_stored(orientation: int, photos: Corpus) -> None:
    path = named(photos, f"turned-{orientation}.png")
    stored = np.asarray(make.stored_turned(photo("turned"), orientation))
    np.testing.assert_array_equal(pixels(path, whole(path, exif=False)), stored)


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "AVIF", "JPEG"])
def test_other_formats_turn_as_pillow_turns_them(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[TURNED_BY_TAG] = 6
    path = tmp_path / f"turned.{kind.lower()}"
    photo("turned").save(path, kind, exif=exif)
    assert by_pillow(path).shape == (96, 64, 3)
    np.testing.assert_array_equal(pixels(path), by_pillow(path))


def test_plans_of_one_run_may_differ(photos: Corpus) -> None:
    path = named(photos, "turned-6.png")
    plans = whole(path), whole(path, exif=False), Preprocess((8, 4), (8, 4))
    sample = decode(ImageRef(0, str(path)), plans, Limits())
    assert isinstance(sample, Sample)
    assert [array.shape for array in sample.pixels] == [(64, 96, 3), (96, 64, 3), (8, 4, 3)]


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"],
)
def test_damaged_metadata_leave_the_pixels_alone(exif: bytes, tmp_path: Path) -> None:
    plain, odd = tmp_path / "plain.jpg", tmp_path / "odd.jpg"
    photo("a").save(plain)
    photo("a").save(odd, exif=exif, icc_profile=b"no profile" * 9, comment=b"\xff" * 60_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(pixels(odd, whole(plain)), pixels(plain))


def test_animations_give_their_first_frame(photos: Corpus) -> None:
    for name in ("animated.gif", "animated.png", "animated.webp", "pages.tif"):
        assert pixels(named(photos, name)).max() < 70, name  # the later ones are bright


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "really-a-png.jpg"
    photo("a").save(path, "PNG")
    np.testing.assert_array_equal(pixels(path), np.asarray(photo("a")))


# Bad files


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_fails_with_its_type(name: str, photos: Corpus) -> None:
    path = named(photos, name)
    assert failure(path).type == photos.bad[path]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zero-byte.jpg", "empty file"),
        ("cut-half.jpg", "truncated"),
        ("cut-8-bytes.jpg", "truncated"),
        ("text.jpg", "not an image (starts with 'this is text"),
        ("html.jpg", "starts with '<!DOCTYPE"),
        ("lfs-pointer.jpg", "git lfs pull"),
    ],
)
def test_the_message_says_what_it_is(name: str, words: str, photos: Corpus) -> None:
    assert words in failure(named(photos, name)).message


def test_a_damaged_header_is_damage_and_not_another_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert failure(path).type is ErrorType.DECODE_ERROR


def test_libtiff_says_nothing_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Fax compression of 8 bits a pixel: its decoder complains on descriptor 2."""
    Image.new("1", (40, 40)).save(tmp_path / "a.tif", compression="group3")
    data = (tmp_path / "a.tif").read_bytes()
    tag = struct.pack("<HHI", 258, 3, 1)  # BitsPerSample
    assert data.count(tag) == 1
    (tmp_path / "a.tif").write_bytes(data.replace(tag + b"\1", tag + b"\x08"))
    assert failure(tmp_path / "a.tif").type in (ErrorType.DECODE_ERROR, ErrorType.UNREADABLE)
    assert capfd.readouterr() == ("", "")


def test_too_many_pixels_are_refused_unread(tmp_path: Path) -> None:
    found = failure(bomb(tmp_path / "bomb.png"))
    assert found.type is ErrorType.TOO_LARGE
    assert found.message == "179.6 MP, limit 89.5 MP (--max-pixels)"


def test_the_limit_is_the_last_size_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    photo("a", 30, 20).save(path)
    assert failure(path, Limits(max_pixels=599)).type is ErrorType.TOO_LARGE
    assert isinstance(
        decode(ImageRef(0, str(path)), (whole(path),), Limits(max_pixels=600)), Sample
    )


def test_a_picture_larger_than_its_header_says_is_too_large(tmp_path: Path) -> None:
    """An Apple icon of "128x128" that holds a PNG of 4 megapixels."""
    png = io.BytesIO()
    Image.new("RGBA", (2000, 2000)).save(png, "PNG")
    entry = b"ic07" + struct.pack(">I", 8 + png.tell()) + png.getvalue()
    path = tmp_path / "bomb.icns"
    path.write_bytes(b"icns" + struct.pack(">I", 8 + len(entry)) + entry)
    assert failure(path, Limits(max_pixels=1_000_000), "all").type is ErrorType.TOO_LARGE


def test_pillows_own_limit_is_put_back(photos: Corpus) -> None:
    before = Image.MAX_IMAGE_PIXELS
    pixels(photos.good[0])
    failure(next(iter(photos.bad)))
    failure(photos.good[0], Limits(max_pixels=1))
    assert before == Image.MAX_IMAGE_PIXELS


def test_out_of_memory_is_a_row(photos: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    assert failure(named(photos, "rgba.png")).type is ErrorType.OUT_OF_MEMORY


@pytest.mark.parametrize("error", [SyntaxError("a\n b"), ValueError(""), KeyError("x"), EOFError()])
def test_whatever_a_decoder_raises_is_a_decode_error(
    error: Exception, photos: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: Image.Image) -> None:
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    assert failure(named(photos, "rgba.png")).type is ErrorType.DECODE_ERROR


# Paths that are no files


def make_fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo.jpg")
    return folder / "fifo.jpg"


def make_link_to(target: str) -> Callable[[Path], Path]:
    def link(folder: Path) -> Path:
        (folder / "link.jpg").symlink_to(target)
        return folder / "link.jpg"

    return link


@pytest.mark.parametrize(
    ("prepare", "type", "words"),
    [
        (make_fifo, "Unreadable", "not a regular file"),
        (lambda folder: folder, "Unreadable", "not a regular file"),
        (lambda folder: "/dev/zero", "Unreadable", "not a regular file"),
        (make_link_to("/dev/zero"), "Unreadable", "not a regular file"),
        (make_link_to("nowhere.jpg"), "NotFound", "no such file"),
        (make_link_to("link.jpg"), "Unreadable", "Too many levels of symbolic links"),
        (lambda folder: folder / "missing.jpg", "NotFound", "no such file"),
        (lambda folder: f"{__file__}/x.jpg", "NotFound", "no such file"),
        (lambda folder: "", "NotFound", "no such file"),
        (lambda folder: folder / ("x" * 300), "Unreadable", "File name too long"),
        (lambda folder: "a\0b.jpg", "Unreadable", "embedded null byte"),
    ],
)
def test_a_path_that_is_no_file_fails_without_blocking(
    prepare: Callable[[Path], Path | str], type: str, words: str, tmp_path: Path
) -> None:
    path = prepare(tmp_path)
    found: list[Failure] = []
    thread = threading.Thread(target=lambda: found.append(failure(path)), daemon=True)
    thread.start()
    thread.join(5)
    assert found, "it blocked"
    assert found[0].type == type
    assert words in found[0].message


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_file_without_permission_is_unreadable() -> None:
    # The modules are loaded before the user changes: they may lie where only root can read.
    script = (
        "import os, sys\n"
        "from vitcli.images.decode import *\n"
        "allowed_formats('common')\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(decode(ImageRef(0, sys.argv[1]), (Preprocess((8, 8), (8, 8)),), Limits()))\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        Path(folder).chmod(0o755)
        path = Path(folder) / "private.jpg"
        photo("a").save(path)
        path.chmod(0o600)
        ended = subprocess.run(
            [sys.executable, "-c", script, path], capture_output=True, text=True, cwd=ROOT
        )
    assert "UNREADABLE" in ended.stdout and "Permission denied" in ended.stdout, ended


# Formats


@pytest.mark.parametrize("name", ["drawing.eps", "drawing.png", "drawing.ps"])
@pytest.mark.parametrize("formats", ["common", "all"])
def test_postscript_is_never_run(
    name: str, formats: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    for program in ("gs", "gswin64c"):
        (tmp_path / program).write_text(f"#!/bin/sh\ntouch {canary}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / name).write_bytes(EPS)
    assert failure(tmp_path / name, formats=formats).type is ErrorType.NOT_AN_IMAGE
    assert not canary.exists()


def test_no_dangerous_format_is_allowed() -> None:
    assert not NEVER & set(allowed_formats("all"))
    assert set(allowed_formats("common")) <= set(FORMATS)
    assert set(allowed_formats("common")) < set(allowed_formats("all"))


def test_the_suffixes_of_a_scan() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tga", ".ico"} <= suffixes("common")
    assert ".psd" not in suffixes("common")
    assert {".psd", ".jpg"} <= suffixes("all")
    assert not {".eps", ".ps", ".wmf", ".pdf"} & suffixes("all")


def test_a_format_that_is_not_common_is_read_when_widened(tmp_path: Path) -> None:
    path = tmp_path / "picture.sgi"
    photo("a").save(path)
    assert failure(path).type is ErrorType.NOT_AN_IMAGE
    np.testing.assert_array_equal(pixels(path, formats="all"), np.asarray(photo("a")))


@pytest.mark.parametrize("name", ["rgba.png", "cmyk.jpg", "pages.tif"])
def test_reading_leaves_no_descriptor_open(name: str, photos: Corpus) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        pixels(named(photos, name))
        failure(named(photos, "cut-half.jpg"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
