"""Files of class names as people have them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vitcli.checkpoints.label_files import names_from
from vitcli.checkpoints.labels import read_labels
from vitcli.errors import CheckpointError

NAMES = ["tench, Tinca tinca", "goldfish", "2012 Audi"]
INDEX = {str(i): [f"n0144{i}", name] for i, name in enumerate(NAMES)}
NUMBERS = {name: i for i, name in enumerate(NAMES)}
READ = {
    "imagenet_class_index.json": json.dumps(INDEX),
    "class_to_idx.json": json.dumps(dict(sorted(NUMBERS.items()))),
    "inside.json": json.dumps({"epoch": 3, "class_to_idx": NUMBERS}),
    "coco.json": json.dumps({"categories": [{"id": 1, "name": name} for name in NAMES]}),
    "clsidx.txt": "{" + ",\n ".join(f"{i}: {name!r}" for i, name in enumerate(NAMES)) + "}",
    "source.py": f"LABELS = {NAMES!r}",
    "spaces.txt": "\n".join(f"{i} {name}" for i, name in enumerate(NAMES)),
    "colons.txt": "\n".join(f"{i}: {name}" for i, name in enumerate(NAMES)),
    "commas.txt": "\n".join(f"{i},{name}" for i, name in enumerate(NAMES)),
    "tabs.txt": "\n".join(f"{i}\t{name}" for i, name in enumerate(NAMES)),
    "from_one.txt": "\n".join(f"{i}. {name}" for i, name in enumerate(NAMES, 1)),
    "quoted.txt": "\n".join(f"{i}: '{name}'," for i, name in enumerate(NAMES)),
    "turned.txt": "\n".join(f"{i}: {name}" for i, name in reversed(list(enumerate(NAMES)))),
    "name_first.txt": "\n".join(f"{name}\t{i}" for i, name in enumerate(NAMES)),
    "LOC_synset_mapping.txt": "\n".join(f"n0144076{i} {name}" for i, name in enumerate(NAMES)),
    "t.csv": "index,label\n" + "\n".join(f'{i},"{name}"' for i, name in enumerate(NAMES)),
    "t.tsv": "class_id\tname\n" + "\n".join(f"{i}\t{name}" for i, name in enumerate(NAMES)),
    "list.yaml": "\n".join(f"- {name}" for name in NAMES),
    "data.yaml": "nc: 3\nnames:\n"
    + "\n".join(f"  {i}: {name}" for i, name in enumerate(NAMES))
    + "\ntrain: a",
    "inline.yaml": f"train: a\nnames: {NAMES!r}\nnc: 3",
    "plain.txt": "\n".join(NAMES),
    "ids.json": json.dumps([{"id": i, "name": NAMES[i]} for i in (2, 0, 1)]),
    "ids_from_one.json": json.dumps(
        {"categories": [{"id": i + 1, "name": NAMES[i]} for i in (2, 0, 1)]}
    ),
    "ids_with_gaps.json": json.dumps([{"id": 3 * i, "name": n} for i, n in enumerate(NAMES)]),
    "turned_from_one.txt": "\n".join(f"{i + 1} {NAMES[i]}" for i in (2, 0, 1)),
    "turned_from_one.csv": "id,name\n" + "\n".join(f'{i + 1},"{NAMES[i]}"' for i in (2, 0, 1)),
    "pipes.txt": "\n".join(f"{i}|{NAMES[i]}" for i in (2, 0, 1)),
    "arrows.txt": "\n".join(f"{i} -> {NAMES[i]}" for i in (2, 0, 1)),
    "dashes.txt": "\n".join(f"{i} - {NAMES[i]}" for i in (2, 0, 1)),
    "name_space_number.txt": "\n".join(f"{NAMES[i]} {i}" for i in (2, 0, 1)),
    "synsets_behind.txt": "\n".join(f"{i} n0144076{i} {NAMES[i]}" for i in (2, 0, 1)),
    "comments.yaml": "names:\n  # birds\n"
    + "\n".join(f"  {i}: {NAMES[i]}  # x" for i in (2, 0, 1)),
    "tuple.py": f"LABELS = {tuple(NAMES)!r}",
}


@pytest.mark.parametrize("name", READ)
def test_a_file_of_labels_is_read_in_the_formats_that_people_have(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(READ[name])
    assert list(read_labels({}, 3, tmp_path / name).names) == NAMES
    (tmp_path / name).write_text(READ[name], "utf-16")
    assert list(read_labels({}, 3, tmp_path / name).names) == NAMES


def test_names_that_begin_with_numbers_stay_whole(tmp_path: Path) -> None:
    for names in (
        ["2012 Audi A5", "1994 Audi 100", "3 Series 2011", "0 A.D."],
        ["class 1", "class 0"],
        ["9" * 5000 + " bottles", "static cling", "let it be"],
    ):
        (tmp_path / "cars.txt").write_text("\n".join(names))
        assert list(names_from(tmp_path / "cars.txt").values()) == names


REFUSED = {
    "a.html": "<!DOCTYPE html><html>",
    "map.pbtxt": "item {\n  id: 1\n  name: 'cat'\n}",
    "synsets.json": json.dumps({"n01440764": "tench"}),
    "gap.txt": "0: tench\n2: goldfish\n",
    "dict.txt": "{0: 'tench',\n 1: open('x')}",
    "twice.json": json.dumps({"a": 0, "b": 0}),
    "deep.json": json.dumps({"0": {"a": ["b"]}}),
    "map_clsloc.txt": "n02119789 1 kit_fox\nn02100735 2 English_setter",
    "columns.csv": "file,size\na.jpg,3\nb.jpg,4",
    "other.yaml": "train: a\nval: b",
    "ids.json": json.dumps([{"id": 7, "name": "b"}, {"id": 2, "name": "a"}]),
    "long.json": '{"' + "9" * 5000 + '": "a"}',
    "long.csv": f"id,name\n{'9' * 5000},a",
    "labels.js": "module.exports = {\n  0: 'tench',\n};",
    "labels.ts": "export const LABELS: {[id: number]: string} = {\n  0: 'tench',\n};",
    "labels.h": 'static const char* labels[] = {\n  "tench",\n};',
    "list.html": "<ul>\n<li>tench</li>\n</ul>",
    "table.md": "| id | name |\n|----|------|\n| 0 | tench |",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_file_of_labels_is_refused_by_what_it_looks_like(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(REFUSED[name])
    with pytest.raises(CheckpointError, match="--labels") as caught:
        names_from(tmp_path / name)
    assert len(str(caught.value)) < 500


def test_a_device_a_pipe_and_a_folder_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (Path("/dev/zero"), tmp_path / "fifo", tmp_path):
        with pytest.raises(CheckpointError, match="is not a regular file"):
            names_from(path)
    with (tmp_path / "large.txt").open("wb") as stream:
        stream.truncate(3_000_000_000)
    with pytest.raises(CheckpointError, match="is too large"):
        names_from(tmp_path / "large.txt")


def test_half_a_surrogate_pair_is_replaced_where_labels_are_read() -> None:
    config = {"id2label": json.loads('{"0": "\\ud800", "1": "\\ud83d\\ude00"}')}
    assert read_labels(config, 2, None).names == ("\ufffd", "\U0001f600")
