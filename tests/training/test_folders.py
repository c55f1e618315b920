"""What the folders of a data set mean: classes, parts, or neither, which is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from vitcli.errors import InputError
from vitcli.images.scan import Scan
from vitcli.training.data import read_examples
from vitcli.training.parts import part_named

SCAN = Scan(frozenset({".png", ".jpg"}), members=frozenset({".png", ".jpg"}))
CLASSES = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")


def make(folder: Path, *parts: str) -> None:
    """`train` is a folder with the two classes, `test/1.png` a picture."""
    for part in parts:
        for name in [part] if part.endswith(".png") else [f"{part}/{n}" for n in CLASSES]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()


def packed(folder: Path) -> Path:
    file = folder.with_suffix(".zip")
    with zipfile.ZipFile(file, "w") as out:
        for path in sorted(folder.rglob("*.png")):
            out.write(path, path.relative_to(folder))
    return file


@pytest.mark.parametrize(
    ("parts", "splits"),
    [
        (["."], {None}),
        (["train"], {None}),
        (["val"], {None}),
        (["Training", "Testing"], {"train", "val"}),
        (["Train", "Val"], {"train", "val"}),
        (["TRAIN", "Validation"], {"train", "val"}),
        (["train", "dev"], {"train", "val"}),
        (["train", "testing"], {"train", "val"}),
        (["train", "eval"], {"train", "val"}),
        (["train", "hold-out"], {"train", "val"}),
        (["train_images", "val_images"], {"train", "val"}),
        (["train2017", "val2017"], {"train", "val"}),
        (["trainset", "testset"], {"train", "val"}),
        (["train", "test/1.png"], {None}),
        (["train", "valid/1.png"], {None}),
        (["train", "test/unknown/1.png"], {None}),
        (["train", "val", "test"], {"train", "val"}),
        (["train", "valid", "Test", "unlabeled/1.png"], {"train", "val"}),
        (["flowers/train", "flowers/test"], {"train", "val"}),
        (["a/flowers/Training", "a/flowers/Testing"], {"train", "val"}),
        (["train", "@eaDir/1.png", "cache/"], {None}),
    ],
)
def test_parts_are_no_classes(tmp_path: Path, parts: list[str], splits: set[str | None]) -> None:
    make(tmp_path / "data", *(part for part in parts if not part.endswith("/")))
    for part in parts:
        (tmp_path / "data" / part).parent.mkdir(exist_ok=True)
        if part.endswith("/"):
            (tmp_path / "data" / part).mkdir()
    for data in (tmp_path / "data", packed(tmp_path / "data")):
        notes: list[str] = []
        found = read_examples(str(data), SCAN, notes.append)
        assert {e.label for e in found} == {"cat", "dog"}, data
        assert {e.split for e in found} == splits
        assert len(found) == 4 * len(splits)
        for left in ("test/1.png", "valid/1.png", "unlabeled/1.png"):
            if left in parts:
                assert any(f"/{left.split('/')[0]} is left out" in note for note in notes)


def test_seg_train_in_seg_train(tmp_path: Path) -> None:
    make(tmp_path, "seg_train/seg_train", "seg_test/seg_test", "seg_pred/seg_pred/1.png")
    for data in (tmp_path, packed(tmp_path)):
        found = read_examples(str(data), SCAN)
        assert {(e.split, e.label) for e in found} == {
            (split, label) for split in ("train", "val") for label in ("cat", "dog")
        }


def test_shards_called_after_the_parts(tmp_path: Path) -> None:
    make(tmp_path / "data", ".")
    file = packed(tmp_path / "data")
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("set-train-000", "set-train-001", "set-val-000", "set-test-000"):
        (shards / f"{name}.zip").write_bytes(file.read_bytes())
    notes: list[str] = []
    found = read_examples(str(shards), SCAN, notes.append)
    assert [e.split for e in found] == ["train"] * 8 + ["val"] * 4
    assert {e.label for e in found} == {"cat", "dog"}
    assert "2 archives of train, 1 of val to hold out; the 1 of test are left out" in notes[0]


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([".", "test/1.png"], "test looks like a part of the data, cat, dog like classes"),
        ([".", "Val/1.png"], "Val looks like a part of the data, cat, dog like classes"),
        (["test/1.png", "control/1.png"], "test looks like a part of the data, control like a"),
        (["train/1.png", "test/1.png"], "look like parts of the data, but without folders"),
        (["train", "masks/1.png"], "train looks like a part of the data, masks like a class"),
        (["A", "B"], "A, B all hold the same folders, cat, dog: are these the classes?"),
        (["fold1", "fold2", "fold3"], "fold1, fold2, fold3 all hold the same folders, cat, dog"),
        (
            ["cat/train/1.png", "cat/val/1.png", "dog/train/2.png", "dog/val/2.png"],
            "the parts of the data lie within the classes",
        ),
        (
            ["训练", "测试/1.png"],
            "训练 holds folders, cat, dog, and 测试 only images: which are",
        ),
        (
            ["data/train", "data/val", "more/1.png", "other/1.png"],
            "data holds folders, train, val, and more, other only images",
        ),
        (["train", "train/val/1.png", "val"], "val looks like a part of the data"),
    ],
)
def test_what_is_neither_is_refused_with_what_was_understood(
    tmp_path: Path, parts: list[str], told: str
) -> None:
    make(tmp_path / "data", *parts)
    for data in (tmp_path / "data", packed(tmp_path / "data")):
        if "train/val/1.png" in parts and data.suffix:
            continue  # a picture of class val, in a zip
        with pytest.raises(InputError, match=told.replace("?", r"\?")) as error:
            read_examples(str(data), SCAN)
        assert "DATA/train/<class>" in str(error.value.hint)


def test_classes_stay_classes(tmp_path: Path) -> None:
    for names in (("valid", "invalid"), ("trains", "planes"), ("1", "2"), ("validated", "tested")):
        data = tmp_path / names[0]
        make(data, *(f"{name}/{n}.png" for name in names for n in (1, 2)))
        assert {e.label for e in read_examples(str(data), SCAN)} == set(names)
    make(tmp_path / "one", "cat/persian/1.png", "cat/siamese/1.png", "dog/1.png", "owl/1.png")
    assert {e.label for e in read_examples(str(tmp_path / "one"), SCAN)} == {"cat", "dog", "owl"}
    make(tmp_path / "deep", "cat/2023/1.png", "cat/2024/2.png", "dog/2024/3.png", "dog/4.png")
    assert {e.label for e in read_examples(str(tmp_path / "deep"), SCAN)} == {"cat", "dog"}


def test_words_for_parts() -> None:
    assert [part_named(n) for n in ("Trn", "train-set", "images_train", "Training Images")] == [
        "train"
    ] * 4
    assert [part_named(n) for n in ("VALID", "Dev", "holdout", "hold out")] == ["val"] * 4
    assert [part_named(n) for n in ("test1", "seg_test", "TestData")] == ["test"] * 3
    assert not any(
        map(part_named, ("cat", "1", "images", "trainer", "contest", "protest", "", "set"))
    )
