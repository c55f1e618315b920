"""Tables of labels as people write them; what is not understood is refused with its line."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest

from vitcli.errors import InputError
from vitcli.images.scan import Scan
from vitcli.training.data import read_examples

SCAN = Scan(frozenset({".png", ".jpg"}))
NAMES = ("cat0", "cat1", "dog0", "dog1")
PAIRS = [(f"{name}.png", name[:3]) for name in NAMES]


@pytest.fixture(autouse=True)
def _pictures(tmp_path: Path) -> None:
    for name, _ in PAIRS:
        (tmp_path / name).touch()


def rows(table: Path, **options: bool) -> list[tuple[str, str]]:
    found = read_examples(str(table), SCAN, **options)
    return [(os.path.relpath(e.path, table.parent), e.label) for e in found]


def table(folder: Path, header: str | None, row: str, name: str = "t.csv", **text: str) -> Path:
    lines = [row.format(p, c, p[:-4], int(c == "cat"), int(c == "dog")) for p, c in PAIRS]
    file = folder / name
    file.write_text("\n".join(filter(None, [header, *lines])), **text)
    return file


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (None, "{0},{1}"),
        (None, "./{0} , {1} "),
        ("image_id,label", "{0},{1}"),
        ("filepath,target", "{0},{1}"),
        ("filename,labels", "{0},{1}"),
        ("id,breed", "{2},{1}"),
        ("label,image", "{1},{0}"),
        ("Image ID,Class", "{2},{1}"),
        ("path, label", "{0}, {1}"),
        ("path;label", "{0};{1}"),
        ("path\tlabel", "{0}\t{1}"),
        ('"path","label"', '"{0}","{1}"'),
        ("sep=;\npath;label", "{0};{1}"),
        ("image,cat,dog", "{0},{3},{4}"),
        ("image,cat,dog", "{0},{3}.0,{4}.0"),
        ("image,cat,dog", "{0},{3}.000000,{4}."),
        ("id,cat,dog", "{2},{3},{4}"),
        ("filename,diagnosis", "{0},{1}"),
        ("my_picture,label", "{0},{1}"),
        ("label,path,class_name", "{3},{0},{1}"),
        ("class id,filepaths,labels,data set", "{3},{0},{1},train"),
        ("path,label", ".\\{0},{1}"),
        ("path,label,extra,more", "{0},{1},x,y"),
    ],
)
def test_headers_that_people_write(tmp_path: Path, header: str | None, row: str) -> None:
    assert rows(table(tmp_path, header, row)) == PAIRS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_tables_with_a_mark_of_their_encoding(tmp_path: Path, encoding: str) -> None:
    assert rows(table(tmp_path, "path,label", "{0},{1}", encoding=encoding)) == PAIRS


def test_columns_of_classes_leave_the_split_its_column(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("path,cat,dog,split\ncat0.png,1,0,train\ndog0.png,0,1,val\n")
    found = read_examples(str(file), SCAN)
    assert [(e.label, e.split) for e in found] == [("cat", "train"), ("dog", "val")]


def test_keys_of_json_are_those_of_headers(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    lines = [json.dumps({"Image_ID": p[:-4], "target": c, "more": [1]}) for p, c in PAIRS]
    file.write_text("\n".join(lines))
    assert rows(file) == PAIRS


def test_names_in_another_normal_form_mean_the_same_file(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "é.png")).touch()
    (tmp_path / unicodedata.normalize("NFC", "ü.png")).touch()
    text = f"{unicodedata.normalize('NFC', 'é')}.png,é\n{unicodedata.normalize('NFD', 'ü')}.png,x\n"
    (tmp_path / "t.csv").write_text(text + unicodedata.normalize("NFD", "cat0.png,é\n"))
    found = read_examples(str(tmp_path / "t.csv"), SCAN)
    assert all(Path(e.path).exists() for e in found)
    assert {e.label for e in found} == {unicodedata.normalize("NFC", "é"), "x"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("picture_no,animal\ncat0.png,cat\ndog0.png,dog\n", "line 1: the header is not understood"),
        ("id,breed_of_it,age\ncat0,cat,3\ndog0,dog,4\n", "line 1: the header is not understood"),
        ("path,label\ncat0.png,cat\ncat0.png,dog\n", "line 3: .*is dog, in line 2 it is cat"),
        ("path,label\ncat0.png,cat\n./cat0.png,dog\n", "line 3: .*is dog, in line 2 it is cat"),
        (
            "path,label,split\ncat0.png,cat,train\ncat0.png,dog,val\n",
            "line 3: .*is dog, in line 2 it is cat",
        ),
        ("path,label\ncat0.png,\n", "line 2 has no label"),
        ("path,label\ncat0.png\n", "line 2 has no label"),
        ("path,label\n,cat\n", "line 2 has no path"),
        ("image,cat,dog\ncat0.png,1,1\n", "line 2 sets 2 of the columns cat, dog"),
        ("image,cat,dog\ncat0.png,0,0\n", "line 2 sets 0 of the columns cat, dog"),
        ('cat0.png,cat\ncat1.png,"cat\ndog0.png,dog\n', "line 2: the label spans several"),
        ('cat0.png,cat\n"' + "dog0.png,dog\n" * 11_000, "line 2: a field of more than 131,072"),
        ("cat0.png,cat\ndog0.png,d\0g\n", "line 2 holds a NUL byte"),
        ("path,label,split\ncat0.png,cat,tomorrow\n", 'line 2: the split is "tomorrow"'),
        ("../secret.png,cat\ncat0.png,cat\n", "line 1: ../secret.png lies outside of the folder"),
        ("cat0.png,cat\n/etc/passwd,dog\n", "line 2: /etc/passwd lies outside of the folder"),
        ("cat0.png,cat\nhttps://host/a.png,dog\n", "line 2: https://host/a.png lies outside"),
        ("way.png,cat\ncat0.png,cat\n", "line 1: way.png lies outside of the folder"),
        ("path,label\ntwin,cat\n", "line 2: twin may be twin.jpg or twin.png"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(
    tmp_path: Path, text: str, told: str
) -> None:
    for name in ("twin.png", "twin.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "way.png").symlink_to("/etc/passwd")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=rf"t\.csv, {told}") as error:
        read_examples(str(tmp_path / "t.csv"), SCAN)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("[" * 100_000, "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ('{"path": "cat0.png", "label": "a", "split": ["train"]}', 'the split is \\["train"\\]'),
        ('{"path": "cat0.png", "label": "\\ud800"}', "is not UTF-8"),
        ('{"path": "\\ud800", "label": "a"}', "is not the name of a file"),
        ('{"path": "a\\u0000b", "label": "a"}', "the path"),
        ('{"path": "cat0.png", "label": null}', "has no label"),
        ('{"path": "cat0.png", "label": ["cat"]}', 'the label is \\["cat"\\]'),
        ('{"path": "cat0.png", "label": 1.5}', "the label is 1.5"),
        ('{"path": "cat0.png", "label": NaN}', "the label is NaN"),
        ('{"path": 7, "label": "a"}', "has no path"),
        ("1" * 5000, "is not a JSON object"),
    ],
)
def test_json_that_is_odd_is_refused_with_its_line(tmp_path: Path, row: str, told: str) -> None:
    good = '{"path": "dog0.png", "label": true}\n'
    (tmp_path / "t.jsonl").write_text(good + row + "\n")
    with pytest.raises(InputError, match=rf"t\.jsonl, line 2:? ?.*{told}"):
        read_examples(str(tmp_path / "t.jsonl"), SCAN)


def test_lines_that_repeat_and_a_part_too_many_are_told(tmp_path: Path) -> None:
    text = "path,label,split\ncat0.png,cat,Train\ndog0.png,dog,training\ncat1.png,cat,valid\n"
    (tmp_path / "t.csv").write_text(text + "dog1.png,dog,test\ncat0.png,cat,train\n")
    notes: list[str] = []
    found = read_examples(str(tmp_path / "t.csv"), SCAN, notes.append)
    assert [e.split for e in found] == ["train", "train", "val"]
    assert "1 lines repeat an earlier one" in notes[0] and "1 images of test" in notes[1]


def test_an_image_in_two_parts_is_told(tmp_path: Path) -> None:
    rows = ("path,label,split", "cat0.png,cat,train", "dog0.png,dog,train", "cat0.png,cat,val")
    (tmp_path / "t.csv").write_text("\n".join((*rows, "dog1.png,dog,val")))
    notes: list[str] = []
    assert len(read_examples(str(tmp_path / "t.csv"), SCAN, notes.append)) == 4
    assert "1 images are in several parts" in notes[0]


def test_a_file_by_its_whole_path_is_the_same_file(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"cat0.png,cat\ndog0.png,dog\n{tmp_path}/cat0.png,dog\n")
    with pytest.raises(InputError, match=r"line 3: .*is dog, in line 1 it is cat"):
        read_examples(os.path.relpath(table), SCAN)


def test_what_lies_outside_is_opened_where_it_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    text = f"../cat0.png,cat\n{tmp_path}/dog0.png,dog\n"
    (tmp_path / "in" / "t.csv").write_text(text)
    found = read_examples(str(tmp_path / "in" / "t.csv"), SCAN, allow_outside=True)
    assert [Path(e.path).exists() for e in found] == [True, True]


def test_what_is_no_table_is_not_waited_for(tmp_path: Path, monkeypatch: object) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(InputError, match="not a regular file"):
        read_examples(str(tmp_path / "t.csv"), SCAN)
    huge = tmp_path / "huge.jsonl"
    huge.write_bytes(b'{"path": "cat0.png"' + b" " * (17 << 20))
    with pytest.raises(InputError, match="line 1: a line of more than"):
        read_examples(str(huge), SCAN)
