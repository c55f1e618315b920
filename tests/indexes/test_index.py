"""What `vit embed` writes, read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Vit
from tests.fixtures.extras import needs
from tests.fixtures.weights import photo
from vitcli.errors import InputError
from vitcli.indexes.index import index_of, mapped, open_index

PARQUET = pytest.param("parquet", marks=needs("parquet"))
FORMATS = ("npy", "npz", "safetensors", PARQUET, "jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images, one of them broken, one with an odd name."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, name in enumerate(("a.png", "b.png", 'q"uote.png', "é.png", "z z.png")):
        photo(40 + number, 30).save(photos / name)
    (photos / "broken.png").write_bytes(b"no image")
    return photos


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("store", ["fp32", "fp16"])
def test_each_format_gives_the_same_rows_and_names(
    vit: Vit, folder: Path, tmp_path: Path, format: str, store: str
) -> None:
    out = tmp_path / f"feats.{format}"
    assert vit("embed", "photos", "-m", "demo", "-o", out.name, "--store", store).code == 3
    assert vit("embed", "photos", "-m", "demo", "-o", "plain.npy", "--store", store).code == 3
    index = open_index([str(out)])
    lines = map(json.loads, (tmp_path / "plain.index.jsonl").read_text().splitlines())
    names = [line["path"] for line in lines if line["row"] is not None]
    assert list(index.iter_names()) == names
    assert [index.name(row) for row in range(index.count)] == names
    assert [index.row_of(name) for name in names] == list(range(5))
    assert index.row_of(f"./{names[1]}") == 1
    assert index.row_of("photos/broken.png") is None
    expected = np.load(tmp_path / "plain.npy").astype(np.float32)
    np.testing.assert_array_equal(index.read(0, 5), expected)
    np.testing.assert_array_equal(index.gather([4, 0]), expected[[4, 0]])
    with mapped(index) as again:
        np.testing.assert_array_equal(again.read(1, 3), expected[1:3])
    assert index.meta["model"] == "demo"


def test_shards_are_one_index(vit: Vit, folder: Path, tmp_path: Path) -> None:
    for shard in ("1/2", "2/2"):
        vit("embed", "photos", "-m", "demo", "-o", "s.npy", "--shard", shard)
    vit("embed", "photos", "-m", "demo", "-o", "whole.npy")
    index, whole = (
        open_index([str(tmp_path / "s-*.npy")]),
        open_index([str(tmp_path / "whole.npy")]),
    )
    names = list(index.iter_names())
    assert sorted(names) == sorted(whole.iter_names())
    assert [index.row_of(name) for name in names] == list(range(5))
    np.testing.assert_allclose(
        index.read(0, 5), whole.gather([whole.row_of(name) for name in names]), atol=1e-5
    )


def test_files_that_do_not_belong_together_are_refused(
    vit: Vit, folder: Path, tmp_path: Path
) -> None:
    vit("embed", "photos", "-m", "demo", "-o", "a.npy")
    vit("embed", "photos", "-m", "demo", "-o", "b.npy", "--layer", "1")
    vit("embed", "photos", "-m", "demo", "-o", "t.npy", "--pool", "patches")
    paths = {name: str(tmp_path / f"{name}.npy") for name in "abt"}
    with pytest.raises(InputError, match="differ in --layer"):
        open_index([paths["a"], paths["b"]])
    with pytest.raises(InputError, match="64 tokens for each image"):
        open_index([paths["t"]])
    (tmp_path / "b.index.jsonl").write_text('{"row":0,"path":"a"}\n')
    with pytest.raises(InputError, match="5 rows, and its index names 1"):
        open_index([paths["b"]])
    (tmp_path / "b.index.jsonl").unlink()
    with pytest.raises(InputError, match="names its rows"):
        open_index([paths["b"]])
    with (tmp_path / "a.npy").open("r+b") as file:
        file.truncate(300)
    with pytest.raises(InputError, match="cut off"):
        open_index([paths["a"]])
    with pytest.raises(InputError, match="no file matches"):
        open_index([str(tmp_path / "none-*.npy")])
    with pytest.raises(InputError, match="no such file"):
        open_index([str(tmp_path / "none.npy")])
    with pytest.raises(InputError, match="vit embed writes"):
        open_index([str(folder / "a.png")])


def test_lines_that_another_program_wrote_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(2, dtype=np.float32))
    lines = tmp_path / "a.index.jsonl"
    lines.write_text('{"row": 0, "path": "x"}\n{"path": "y", "row": null}\n{"path": "z", "row": 1}')
    index = open_index([str(tmp_path / "a.npy")])
    assert list(index.iter_names()) == ["x", "z"]
    assert index.row_of("z") == 1
    lines.write_text('{"row": 1, "path": "x"}\n{"row": 0, "path": "y"}\n')
    with pytest.raises(InputError, match="line 1, is not a line of an index"):
        open_index([str(tmp_path / "a.npy")])


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((2, 3), np.int32), "not floats"),
        (np.zeros((2, 3, 4), np.float32), "3 tokens"),
        (np.zeros(3, np.float32), "not a vector a row"),
        (np.asfortranarray(np.ones((2, 3), np.float32)), "Fortran"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, why: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=why):
        open_index([str(tmp_path / "a.npy")])


def test_an_array_of_python_is_an_index() -> None:
    index = index_of(np.eye(3), ["a", "b", "c"])
    assert index.row_of("c") == 2
    with pytest.raises(InputError, match="3 rows and 2 paths"):
        index_of(np.eye(3), ["a", "b"])


def test_a_name_that_another_program_escaped_is_found(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(2, dtype=np.float32))
    lines = ('{"row":0,"path":"x.jpg"}\n', '{"row":1,"path":"\\u9ce5.jpg"}\n')
    (tmp_path / "a.index.jsonl").write_text("".join(lines))
    assert open_index([str(tmp_path / "a.npy")]).row_of("鳥.jpg") == 1
