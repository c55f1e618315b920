"""Parquet says what JSONL and NPY say, goes on where it was interrupted, and is then sealed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Vit
from tests.fixtures.extras import imported
from tests.fixtures.photos import many_photos
from vitcli import errors
from vitcli.sinks import parquet

pq = imported("pyarrow.parquet", "parquet")
COMMON = ("files", "-m", "demo", "-j", "0", "-b", "4")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 photographs, three of them broken; a row group holds seven."""
    monkeypatch.setattr(parquet, "GROUP_ROWS", 7)
    many_photos(tmp_path / "files", 29, broken=(3, 17))
    (tmp_path / "files").joinpath(b"z\xff.jpg".decode("utf-8", "surrogateescape")).touch()
    return tmp_path / "files"


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_predictions_are_those_of_jsonl(vit: Vit, tmp_path: Path) -> None:
    for name in ("o.jsonl", "o.parquet"):
        assert vit("classify", *COMMON, "-k", "2", "-o", name).code == 3
    file = pq.ParquetFile(tmp_path / "o.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(5)] == [7, 7, 7, 7, 2]
    assert file.schema_arrow.names == ["path", "path_bytes", "__key__", "predictions", "error"]
    found = file.read().to_pylist()
    assert found[-1]["path_bytes"] == b"files/z\xff.jpg"
    for row, line in zip(found, lines(tmp_path / "o.jsonl"), strict=True):
        line.pop("path_bytes", None)
        row.pop("path_bytes")
        assert {name: value for name, value in row.items() if value is not None} == line
    assert sorted(p.name for p in tmp_path.glob("*o.parquet*")) == [
        ".o.parquet.journal",
        "o.parquet",
    ]


@pytest.mark.parametrize("options", [(), ("--pool", "patches"), ("--store", "fp16")])
def test_embeddings_are_those_of_npy(vit: Vit, tmp_path: Path, options: tuple[str, ...]) -> None:
    for name in ("o.npy", "p.parquet"):
        assert vit("embed", *COMMON, *options, "-o", name).code == 3
    assert (tmp_path / "p.index.jsonl").read_bytes() == (tmp_path / "o.index.jsonl").read_bytes()
    array = np.load(tmp_path / "o.npy")
    table = pq.read_table(tmp_path / "p.parquet")
    rows = table.to_pylist()
    for row, line in zip(rows, lines(tmp_path / "p.index.jsonl"), strict=True):
        assert row["path"] == line["path"] and row["error"] == line.get("error")
        if line["row"] is None:
            assert row["embedding"] is None
        else:
            np.testing.assert_array_equal(
                np.array(row["embedding"], array.dtype), array[line["row"]]
            )


@pytest.mark.parametrize("command", ["classify", "embed"])
def test_it_goes_on_where_it_was_stopped_and_is_sealed_when_whole(
    vit: Vit, files: Path, tmp_path: Path, command: str
) -> None:
    assert vit(command, *COMMON, "-o", "clean.parquet").code == 3
    assert vit(command, *COMMON, "-o", "o.parquet", "--on-error", "stop").code == 1
    assert not (tmp_path / "o.parquet").exists()
    resumed = vit(command, *COMMON, "-o", "o.parquet", "--resume")
    assert resumed.code == 3 and "of them before" in resumed.err
    whole = (tmp_path / "o.parquet").read_bytes()
    assert whole == (tmp_path / "clean.parquet").read_bytes()

    assert "already complete" in vit(command, *COMMON, "-o", "o.parquet", "--resume").err
    many_photos(files, 1)
    (files / "new.jpg").write_bytes((files / "img-00000.jpg").read_bytes())
    refused = vit(command, *COMMON, "-o", "o.parquet", "--resume")
    assert refused.code == 1 and "write new images to a file of their own" in refused.err
    assert (tmp_path / "o.parquet").read_bytes() == whole


def test_what_parquet_cannot_do_is_told(vit: Vit, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in ("1/2", "2/2"):
        vit("classify", *COMMON, "-o", "o.parquet", "--shard", number)
    shards = ("o-00001-of-00002.parquet", "o-00002-of-00002.parquet")
    assert "a folder of them is one table" in vit("merge", *shards, "-o", "o.parquet").err
    for options, said in (
        (("--format", "parquet"), "cannot be written to a pipe"),
        (("-o", "p.parquet", "--html", "p.html"), "leave out --html"),
        (("-o", "p.parquet", "--devices", "cpu,cpu"), "use another format"),
    ):
        ended = vit("classify", *COMMON, *options)
        assert (ended.code, said in ended.err) == (2, True), ended.err
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    ended = vit("embed", *COMMON, "-o", "q.parquet")
    assert (ended.code, "pip install 'vitcli[parquet]'" in ended.err) == (1, True)
