"""Labelled images in tars and zips: the examples that folders give, whatever says the label."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.fixtures.photos import many_photos
from vitcli.errors import InputError
from vitcli.images.decode import decode
from vitcli.images.kinds import suffixes
from vitcli.images.scan import Omissions, Scan
from vitcli.records import ImageRef, Limits, Preprocess, Sample
from vitcli.training import packed
from vitcli.training.data import read_examples
from vitcli.training.example import Example, write_split

IMAGES = suffixes("common")


def pack(archive: Path, files: dict[str, bytes]) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, data in files.items():
                zipped.writestr(name, data)
        return archive
    with tarfile.open(archive, "w:gz" if archive.suffix == ".tgz" else "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive


def examples(data: Path | str, **more: bool) -> tuple[list[Example], list[str]]:
    told: list[str] = []
    scan = Scan(IMAGES, Omissions(told.append), members=IMAGES)
    return read_examples(str(data), scan, told.append, **more), told


def labels(data: Path | str) -> list[tuple[str, str, str | None]]:
    """The end of each path, its label and its split."""
    return [(e.path.rpartition("/")[2], e.label, e.split) for e in examples(data)[0]]


@pytest.mark.parametrize("suffix", ["tar", "zip"])
@pytest.mark.parametrize("root", ["", "./", "flowers/", "./flowers/data/"])
def test_folders_are_classes(suffix: str, root: str, tmp_path: Path) -> None:
    names = ["rose/1.jpg", "rose/deep/2.jpg", "tulip/3.png", "tulip/notes.md"]
    archive = pack(tmp_path / f"x.{suffix}", {root + name: b"" for name in names})
    assert labels(archive) == [
        ("1.jpg", "rose", None),
        ("2.jpg", "rose", None),
        ("3.png", "tulip", None),
    ]


def test_folders_of_parts_and_of_one_part(tmp_path: Path) -> None:
    both = {"d/train/a/1.jpg": b"", "d/train/b/2.jpg": b"", "d/valid/a/3.jpg": b""}
    expected = [("1.jpg", "a", "train"), ("2.jpg", "b", "train"), ("3.jpg", "a", "val")]
    assert labels(pack(tmp_path / "both.tar", both)) == expected
    one = {"d/train/a/1.jpg": b"", "d/train/b/2.jpg": b""}
    assert labels(pack(tmp_path / "one.tar", one)) == [("1.jpg", "a", None), ("2.jpg", "b", None)]
    odd = {"test/1.jpg": b"", "train/2.jpg": b""}
    with pytest.raises(InputError, match="test, train look like parts of the data"):
        labels(pack(tmp_path / "odd.zip", odd))


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_labels_beside_the_images(suffix: str, tmp_path: Path) -> None:
    """Before or behind the image, in the order cls, json, txt; folders are for the others."""
    files = {
        "000.cls": b"7\n",
        "000.jpg": b"",
        "001.left.jpg": b"",
        "001.right.jpg": b"",
        "001.json": b'{"width": 5, "label": 3}',
        "001.txt": b"a caption",
        "002.png": b"",
        "002.txt": b"\xef\xbb\xbfrose \n",
        "003.jpg": b"",
        "003.json": b'{"caption": "no label"}',
        "a/004.jpg": b"",
        "a/004.cls": b"\xff",
        "005.jpg": b"",
        "005.txt": b"x" * 70_000,
    }
    archive = pack(tmp_path / f"x.{suffix}", files)
    assert labels(archive) == [
        ("000.jpg", "7", None),
        ("001.left.jpg", "3", None),
        ("001.right.jpg", "3", None),
        ("002.png", "rose", None),
        ("004.jpg", "a", None),
    ]
    assert examples(archive)[1] == [f"{archive}: 2 images without a folder or a label are left out"]


def test_shards_from_folders_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        for number in (0, 1):
            name = f"{part}{number}"
            pack(Path(f"d/{part}/s-{number}.tar"), {f"{name}.jpg": b"", f"{name}.cls": b"1"})
    found = examples("d")[0]
    assert [(e.path, e.label, e.split) for e in found] == [
        (f"d/{part}/s-{number}.tar/{part}{number}.jpg", "1", part)
        for part in ("train", "val")
        for number in (0, 1)
    ]
    whole = [("train0.jpg", "1", None), ("train1.jpg", "1", None)]
    for data in ("d/train", "d/train/s-{0..1}.tar", "d/train/*.tar"):
        assert labels(data) == whole
    assert [e.path for e in examples("d/train", labelled=False)[0]] == [
        "d/train/s-0.tar/train0.jpg",
        "d/train/s-1.tar/train1.jpg",
    ]
    assert [e.path for e in examples("d/train/*.tar", labelled=False)[0]] == [
        "d/train/s-0.tar/train0.jpg",
        "d/train/s-1.tar/train1.jpg",
    ]
    Path("d/val/a").mkdir()
    Path("d/val/a/loose.jpg").touch()
    assert [e.path for e in examples("d/val", labelled=False)[0]] == [
        "d/val/a/loose.jpg",
        "d/val/s-0.tar/val0.jpg",
        "d/val/s-1.tar/val1.jpg",
    ]
    with pytest.raises(InputError, match=r"no such tar or zip: d/train/s-2\.tar"):
        examples("d/train/s-{0..2}.tar")


def test_a_split_that_was_written_is_read_again(tmp_path: Path) -> None:
    """The very members, also of names that a path would not keep; and so is any table."""
    many_photos(tmp_path / "files", 2)
    one, two = (path.read_bytes() for path in sorted((tmp_path / "files").iterdir()))
    for name in ("x.tar", "y.zip"):
        pack(tmp_path / name, {"./a/1.jpg": one, "b/../2.jpg": two, "b/3.jpg": one})
    found = [e for name in ("x.tar", "y.zip") for e in examples(tmp_path / name)[0]]
    assert len(found) == 6
    write_split(tmp_path / "split.jsonl", found)
    assert examples(tmp_path / "split.jsonl")[0] == found
    plan = Preprocess(size=(32, 48), resize=(32, 48))
    for place, example in enumerate(found):
        ref = ImageRef(place, example.path, member=example.member)
        assert isinstance(decode(ref, (plan,), Limits()), Sample)
    table = tmp_path / "t.csv"
    table.write_text("path,label\nx.tar/b/3.jpg,q\nx.tar/none.jpg,q\n")
    (kept, missing), _ = examples(table)
    assert (kept.label, kept.member) == ("q", found[2].member)
    assert missing.member is None  # not found, when it is read


def test_what_cannot_be_trained_on_is_named(tmp_path: Path) -> None:
    for name, files, why in (
        ("none.tar", {"a.md": b""}, "no images in"),
        ("bare.tar", {"1.jpg": b"", "2.jpg": b""}, "none of the 2 images in .* has a label"),
        ("packed.tgz", {"a/1.jpg": b""}, "is compressed"),
    ):
        with pytest.raises(InputError, match=why):
            examples(pack(tmp_path / name, files))
    (tmp_path / "page.tar").write_text("<html>" * 200)
    with pytest.raises(InputError, match="neither a tar nor a zip"):
        examples(tmp_path / "page.tar")


def test_the_end_of_a_tar_that_is_lost_is_told(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.tar", {"a/1.jpg": bytes(600), "b/2.jpg": bytes(600)})
    archive.write_bytes(archive.read_bytes()[: 512 + 1024])
    found, told = examples(archive)
    assert [e.label for e in found] == ["a"]
    assert told == [f"cannot list {archive}: truncated tar: everything after a/1.jpg is lost"]


def test_a_zip_whose_members_begin_before_it_is_damaged(tmp_path: Path) -> None:
    """The label beside an image cannot be read, and nobody trips over it."""
    files = {"a/1.jpg": b"", "a/1.txt": b"rose", "b/2.jpg": b"", "b/2.txt": b"tulip"}
    archive = pack(tmp_path / "x.zip", files)
    data = bytearray(archive.read_bytes())
    at = data.index(b"PK\5\6") + 16
    [offset] = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at, offset + 1000)
    archive.write_bytes(data)
    assert labels(archive) == [("1.jpg", "a", None), ("2.jpg", "b", None)]


def test_a_path_without_end_is_looked_through_at_once() -> None:
    scan = Scan(IMAGES, members=IMAGES)
    assert packed.member_of("x/" * 1_000_000, scan, {}) is None
