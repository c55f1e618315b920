"""Photographs of phones are read with the extra `heif`; what is read by nobody here has a name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Vit
from tests.fixtures.extras import Lazy
from tests.fixtures.photos import photo
from vitcli.images import decode as decoding
from vitcli.images import kinds
from vitcli.images.decode import decode
from vitcli.records import Failure, ImageRef, Limits, Preprocess, Sample

pillow_heif = Lazy("pillow_heif", "heif")
SIZE = Preprocess((64, 96), (64, 96))


def ftyp(*brands: bytes) -> bytes:
    body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return (len(body) + 4).to_bytes(4, "big") + body + bytes(99)


def heic(path: Path, *images: Image.Image, primary: int = 0, **options: object) -> Path:
    file = pillow_heif.HeifFile()
    for image in images:
        file.add_frombytes(image.mode, image.size, image.tobytes())
    file.primary_index = primary
    file.save(path, quality=-1, primary_index=primary, **options)
    return path


def test_heic_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    """The primary image, turned once, and refused by its size before it is decoded."""
    first, second = photo("first"), photo("second")
    path = heic(tmp_path / "a.heic", first, second, primary=1)
    got = decode(ImageRef(0, str(path)), (SIZE,), Limits())
    assert isinstance(got, Sample), got
    np.testing.assert_array_equal(got.pixels[0], np.asarray(pillow_heif.open_heif(path)[1]))
    assert abs(got.pixels[0].astype(int) - np.asarray(second)).mean() < 10
    small = decode(ImageRef(0, str(path)), (SIZE,), Limits(max_pixels=100))
    assert isinstance(small, Failure) and small.type == "TooLarge"


def test_a_turned_heic_is_turned_once(tmp_path: Path) -> None:
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo("turned").save(tmp_path / "a.heic", "HEIF", exif=exif.tobytes(), quality=-1)
    got = decode(ImageRef(0, str(tmp_path / "a.heic")), (Preprocess((96, 64), (96, 64)),), Limits())
    assert isinstance(got, Sample) and got.size == (96, 64)
    upright = np.asarray(photo("turned").transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert abs(got.pixels[0] - upright).mean() < 10


NAMED = {
    "HEIC needs pillow-heif: pip install 'vitcli[heif]'": ftyp(b"heic", b"mif1", b"heic"),
    "HEIF needs pillow-heif: pip install 'vitcli[heif]'": ftyp(b"mif1", b"mif1", b"unci"),
    "CR3, a raw photograph": ftyp(b"crx ", b"crx ", b"isom"),
    "a video": ftyp(b"qt  ", b"qt  "),
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99),
    "PSD": b"8BPS" + bytes(99),
    "RAF, a raw photograph": b"FUJIFILMCCD-RAW" + bytes(99),
    "RW2": b"IIU\0" + bytes(99),
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="x"/>',
}


@pytest.mark.parametrize("words", NAMED)
def test_a_file_that_nobody_reads_says_what_it_is(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "reads_heif", lambda: False)
    (tmp_path / "a.jpg").write_bytes(NAMED[words])
    got = decode(ImageRef(0, str(tmp_path / "a.jpg")), (SIZE,), Limits())
    assert isinstance(got, Failure) and got.type == "NotAnImage"
    assert got.message.startswith(words)


def test_a_damaged_heic_is_called_damaged_where_it_would_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(NAMED["HEIC needs pillow-heif: pip install 'vitcli[heif]'"])
    got = decode(ImageRef(0, str(tmp_path / "a.heic")), (SIZE,), Limits())
    assert isinstance(got, Failure) and got.message == "damaged HEIF header"


def test_an_avif_is_no_heif() -> None:
    assert not kinds.is_heif(ftyp(b"avif", b"mif1", b"miaf"))
    assert not kinds.is_heif(ftyp(b"mif1", b"avif", b"miaf"))
    assert kinds.is_heif(ftyp(b"mif1", b"heic", b"mif1"))


def test_what_a_scan_passes_over_is_told_in_a_line(
    vit: Vit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    for name in ("1.HEIC", "2.heic", "c.CR3", "d.NEF", "e.psd", "f.txt", ".g.nef"):
        (folder / name).write_bytes(b"x")
    monkeypatch.setattr(kinds, "reads_heif", lambda: False)
    alone = vit("classify", "p", "-m", "demo", "-j", "0")
    assert (
        alone.code == 1
        and "2 .heic (pillow-heif reads them: pip install 'vitcli[heif]', or" in alone.err
    )
    photo("a").save(folder / "a.jpg")
    ended = vit("classify", "p", "-m", "demo", "-j", "0")
    assert ended.code == 0 and len(ended.out.splitlines()) == 1
    assert "5 image files were not looked at: 1 .cr3, 1 .nef (a raw converter reads" in ended.err
    assert "; 1 .psd (an image editor reads them)" in ended.err
    assert ended.err.count("not looked at") == 1


def test_heic_is_looked_for_where_it_is_read(vit: Vit, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    heic(tmp_path / "p" / "IMG_1.HEIC", photo("one"))
    ended = vit("classify", "p", "-m", "demo", "-j", "0")
    assert ended.code == 0 and json.loads(ended.out)["path"] == "p/IMG_1.HEIC"


def test_a_url_that_nobody_reads_is_a_row_among_its_neighbours(vit: Vit, tmp_path: Path) -> None:
    photo("a").save(tmp_path / "a.png")
    odd = ("reference://x", "zip://a.png", "nothing://x/a.tar", "file:///dev/zero")
    paths = "\n".join(("a.png", *odd, "a.png"))
    ended = vit("classify", "-", "-m", "demo", "-j", "0", input=paths.encode())
    rows = list(map(json.loads, ended.out.splitlines()))
    assert ended.code == 3 and ["error" in row for row in rows] == [0, 1, 1, 1, 1, 0]
    assert [row["path"] for row in rows[1:5]] == list(odd)
    named = vit("classify", "reference://x", "-m", "demo")
    assert named.code == 1 and "reference://x" in named.err
