"""Arrays of embeddings open in the libraries they are for; the index has a line for each input."""

from __future__ import annotations

import errno
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.sinks.rows import META, NOT_UTF8, array_meta, embedded, failed, lines_of
from vitcli.errors import OutputError
from vitcli.records import Embedded, Row
from vitcli.sinks import EMBEDDINGS
from vitcli.sinks.arrays import ArraySink, NpySink, NpzSink, SafetensorsSink
from vitcli.sinks.files import Target

SINKS = {"npy": NpySink, "npz": NpzSink, "safetensors": SafetensorsSink}
formats = pytest.mark.parametrize("format", SINKS)


def written(out: Path, shape: tuple[int, ...], rows: list[Row], dtype: str = "float32") -> None:
    sink = SINKS[out.suffix[1:]](Target(out), array_meta(shape, dtype))
    for start in range(0, len(rows), 3):
        sink.write(rows[start : start + 3])
    sink.finish(META)


def array_in(out: Path) -> NDArray[Any]:
    if out.suffix == ".safetensors":
        (array,) = load_file(out).values()
        return array
    loaded = np.load(out, allow_pickle=False)
    return loaded["embeddings"] if out.suffix == ".npz" else loaded


def mixed(shape: tuple[int, ...], dtype: str = "float32") -> list[Row]:
    """Eleven inputs, of which the first, two in the middle, and the last fail."""
    return [
        failed(i, f"{i}.jpg") if i in (0, 4, 5, 10) else embedded(i, f"{i}.jpg", shape, dtype)
        for i in range(11)
    ]


@formats
@pytest.mark.parametrize("shape", [(4,), (1,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_array_holds_the_rows(
    format: str, shape: tuple[int, ...], dtype: str, tmp_path: Path
) -> None:
    rows = mixed(shape, dtype)
    written(tmp_path / f"feats.{format}", shape, rows, dtype)
    found = array_in(tmp_path / f"feats.{format}")
    assert found.dtype == dtype and found.shape == (7, *shape)
    expected = np.stack([row.embedding for row in rows if isinstance(row, Embedded)])
    np.testing.assert_array_equal(found, expected)


@formats
def test_the_index_has_a_line_for_every_input_and_rows_without_gaps(
    format: str, tmp_path: Path
) -> None:
    written(tmp_path / f"feats.{format}", (4,), mixed((4,)))
    lines = lines_of(tmp_path / "feats.index.jsonl")
    assert [line["path"] for line in lines] == [f"{i}.jpg" for i in range(11)]
    assert [line["row"] for line in lines] == [None, 0, 1, 2, None, None, 3, 4, 5, 6, None]
    assert [i for i, line in enumerate(lines) if "error" in line] == [0, 4, 5, 10]
    assert lines[0]["error"] == {"type": "DecodeError", "message": "truncated image"}


@formats
def test_the_meta_says_the_shape_beside_what_the_run_says(format: str, tmp_path: Path) -> None:
    written(tmp_path / f"feats.{format}", (4,), mixed((4,)), "float16")
    meta = json.loads((tmp_path / "feats.meta.json").read_text(encoding="utf-8"))
    assert meta == {"schema": 1, **META, "shape": [7, 4], "array_dtype": "float16"}


@formats
@pytest.mark.parametrize("rows", [[], [failed(0, "a.jpg")]])
def test_no_rows_are_an_array_of_no_rows(format: str, rows: list[Row], tmp_path: Path) -> None:
    written(tmp_path / f"feats.{format}", (3, 4), rows)
    assert array_in(tmp_path / f"feats.{format}").shape == (0, 3, 4)
    assert len(lines_of(tmp_path / "feats.index.jsonl")) == len(rows)


@pytest.mark.parametrize("sink", [NpySink, SafetensorsSink])
def test_the_header_keeps_its_length_while_it_grows(sink: type[ArraySink], tmp_path: Path) -> None:
    writer = sink(Target(tmp_path / "feats"), array_meta((197, 1024)))
    lengths = set()
    for count in (0, 1, 10**6, 10**15):
        writer._count = count
        lengths.add(len(writer.header()))
    assert len(lengths) == 1
    writer.abort()


def test_an_npy_grows_on_disk_and_can_be_mapped(tmp_path: Path) -> None:
    sink = NpySink(Target(tmp_path / "feats.npy"), array_meta((8,)))
    sizes = []
    for index in range(100):
        sink.write([embedded(index, "a.jpg", (8,))])
        sizes.append((tmp_path / "feats.npy.partial").stat().st_size)
    sink.finish(META)
    assert set(np.diff(sizes)) == {8 * 4}
    mapped = np.load(tmp_path / "feats.npy", mmap_mode="r")
    np.testing.assert_array_equal(mapped[99], embedded(99, "", (8,)).embedding)


def test_an_npz_has_the_paths_of_its_rows(tmp_path: Path) -> None:
    rows = [*mixed((4,)), embedded(11, NOT_UTF8, (4,)), embedded(12, "鳥/a\nb.jpg", (4,))]
    written(tmp_path / "feats.npz", (4,), rows)
    with np.load(tmp_path / "feats.npz", allow_pickle=False) as archive:
        assert sorted(archive) == ["embeddings", "paths"]
        paths = archive["paths"].tolist()
        assert len(paths) == len(archive["embeddings"])
    assert paths[:3] == ["1.jpg", "2.jpg", "3.jpg"]
    assert paths[-2:] == ["caf\N{REPLACEMENT CHARACTER}.jpg", "鳥/a\nb.jpg"]
    with zipfile.ZipFile(tmp_path / "feats.npz") as archive:
        assert archive.testzip() is None


@formats
def test_the_same_rows_are_the_same_bytes(format: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(tmp_path / f"{name}.{format}", (4,), mixed((4,)))
    assert (tmp_path / f"one.{format}").read_bytes() == (tmp_path / f"two.{format}").read_bytes()


@formats
def test_nothing_but_the_three_files_is_left(format: str, tmp_path: Path) -> None:
    written(tmp_path / f"feats.{format}", (4,), mixed((4,)))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([f"feats.{format}", "feats.index.jsonl", "feats.meta.json"])


@formats
def test_until_it_is_finished_there_are_only_partials(format: str, tmp_path: Path) -> None:
    sink = SINKS[format](Target(tmp_path / f"feats.{format}"), array_meta((4,)))
    sink.write(mixed((4,)))
    sink.abort()
    assert all(path.name.endswith(".partial") for path in tmp_path.iterdir())
    assert len(lines_of(tmp_path / "feats.index.jsonl.partial")) == 11


def test_a_row_of_another_shape_is_refused(tmp_path: Path) -> None:
    sink = NpySink(Target(tmp_path / "feats.npy"), array_meta((4,)))
    with pytest.raises(OutputError, match=r"a row of \(5,\), not \(4,\)"):
        sink.write([embedded(0, "a.jpg", (5,))])
    sink.abort()


@formats
def test_words_that_are_not_utf8_do_not_spoil_the_meta(format: str, tmp_path: Path) -> None:
    sink = EMBEDDINGS[format](Target(tmp_path / f"feats.{format}"), array_meta((4,)))
    sink.finish({"model": f"models/{NOT_UTF8}"})
    assert json.loads((tmp_path / "feats.meta.json").read_bytes())["model"] == "models/caf?.jpg"


def test_a_disk_that_fills_up_at_the_end_is_an_error_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sink = NpzSink(Target(tmp_path / "feats.npz"), array_meta((4,)))
    sink.write(mixed((4,)))
    monkeypatch.setattr("shutil.copyfileobj", no_space)
    with pytest.raises(OutputError, match=r"feats\.npz\.partial: No space left on device"):
        sink.finish(META)
    sink.abort()
    assert not (tmp_path / "feats.npz").exists()
