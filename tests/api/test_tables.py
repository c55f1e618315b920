"""The rows of a call as tables of pandas and of Arrow: those of the command's files."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitcli
from tests.conftest import Vit
from tests.fixtures.extras import Lazy, needs
from tests.fixtures.photos import Corpus, photo
from vitcli.errors import OutputError

Models = Callable[[str], Path]
pa, pq = Lazy("pyarrow", "parquet"), Lazy("pyarrow.parquet", "parquet")
pd = Lazy("pandas", "pandas")


@pytest.fixture
def inputs(photos: Corpus) -> list[str]:
    """Four images, the second of which fails."""
    return list(map(str, [photos.good[0], next(iter(photos.bad)), *photos.good[1:3]]))


def rounded(table: Any) -> list[dict[str, Any]]:
    """The rows of a table of Arrow with numbers as files have them, without the column __key__."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if key != "__key__"}
        if isinstance(value, list):
            return [plain(one) for one in value]
        return round(value, 6) if isinstance(value, float) else value

    return [plain(row) for row in table.to_pylist()]


def as_csv(frame: Any) -> str:
    """A table of pandas as vit writes it."""
    made = frame.copy()
    for name, column in frame.items():
        if column.dtype == "boolean":
            made[name] = column.map({True: "true", False: "false"})
    return str(made.to_csv(index=False, float_format="%.6f", lineterminator="\n"))


@needs("pandas", "parquet")
def test_labels_are_those_of_the_files(vit: Vit, tiny_model: Models, inputs: list[str]) -> None:
    spec = str(tiny_model("vit"))
    rows = vitcli.classify(inputs, model=spec, top_k=2, workers=0)
    for out in ("labels.parquet", "labels.csv"):
        assert vit("classify", *inputs, "-m", spec, "-k", 2, "-o", out).code == 3
    table = rows.to_arrow()
    assert rounded(table) == rounded(pq.read_table("labels.parquet"))
    assert table.schema.field("predictions").type == pa.list_(
        pa.struct([("label", pa.string()), ("index", pa.int64()), ("score", pa.float64())])
    )
    frame = rows.to_pandas()
    assert as_csv(frame) == Path("labels.csv").read_text("utf-8")
    assert list(map(str, frame.dtypes)) == ["str", "Int64", "str", "Int64", "float64", "str"]
    [first, *_] = rows
    assert isinstance(first, vitcli.Classified)
    assert frame["score"][0] == first.predictions[0].score  # not rounded


@needs("pandas", "parquet")
@pytest.mark.parametrize("pool", ["cls", "patches"])
def test_vectors_are_those_of_the_file(
    vit: Vit, tiny_model: Models, inputs: list[str], pool: str
) -> None:
    spec = str(tiny_model("vit"))
    found = vitcli.embed(inputs, model=spec, pool=pool, workers=0)
    args = ("-m", spec, "--pool", pool, "-o", "feats.parquet")
    assert vit("embed", *inputs, *args).code == 3
    table, expected = found.to_arrow(), pq.read_table("feats.parquet").drop_columns("__key__")
    assert table.schema.names == ["path", "path_bytes", "embedding", "error"]
    assert table.cast(expected.schema).equals(expected)
    frame = found.to_pandas()
    assert list(frame.columns) == ["path", "embedding", "error"]
    assert list(frame["path"]) == inputs
    assert [error is None or error != error for error in frame["error"]] == [
        True,
        False,
        True,
        True,
    ]
    good = frame[frame["error"].isna()]
    assert np.array_equal(np.stack(list(good["embedding"])), found.embeddings)
    assert frame["embedding"][1] is None


@needs("pandas", "parquet", "text")
def test_search_twins_and_maps_are_those_of_the_files(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    spec, paths = str(tiny_model("vit")), list(map(str, photos.good[:5]))
    assert vit("embed", *paths, paths[0], "-m", spec, "-o", "feats.npy").code == 0
    found = vitcli.search("feats.npy", [*paths[:2], "none.jpg"], like=[2], k=2, workers=0)
    args = ("search", "feats.npy", *paths[:2], "none.jpg", "--like", "2", "-k", "2")
    twins = vitcli.dedupe("feats.npy", kind="near", threshold=0.9)
    near = ("dedupe", "feats.npy", "--kind", "near", "--threshold", "0.9")
    (tmp_path / "labels.csv").write_text(
        "path,label\n" + "".join(f"{path},a\n" for path in paths[:3])
    )
    dots = vitcli.map("feats.npy", clusters=2, color="labels.csv")
    places = ("map", "feats.npy", "--clusters", "2", "--color", "labels.csv")
    for rows, command in ((found, args), (twins, near), (dots, places)):
        for suffix in ("parquet", "csv"):
            assert vit(*command, "-o", f"out.{suffix}", "--overwrite").code in (0, 3)
        table, expected = rows.to_arrow(), pq.read_table("out.parquet")
        assert table.schema == expected.schema
        assert rounded(table) == rounded(expected)
        assert as_csv(rows.to_pandas()) == Path("out.csv").read_text("utf-8")
    assert [row.ok for row in found] == [True, True, False, True]


def test_the_result_of_embed_is_an_index(
    tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    model, copy = vitcli.load(str(tiny_model("vit"))), str(tmp_path / "copy.jpg")
    paths = [*map(str, photos.good[:4]), shutil.copy(photos.good[0], copy)]
    index = vitcli.embed(paths, model=model, pool="mean", workers=0)
    [found] = vitcli.search(index, photos.good[1].read_bytes(), model=model, k=2, workers=0)
    assert (found.hits[0].path, round(found.hits[0].score, 5)) == (paths[1], 1.0)
    [like] = vitcli.search(index, like=paths[3], k=1)
    assert like.hits[0].row == 3
    twins = vitcli.dedupe(index, kind="bytes")
    assert [(twin.path, twin.keep) for twin in twins] == [(paths[0], True), (copy, False)]
    dots = vitcli.map(index, clusters=2)
    assert dots.paths == index.paths == tuple(paths)
    with pytest.raises(vitcli.UsageError, match="with paths of its own"):
        vitcli.map(index, paths)


@needs("pandas", "parquet")
def test_parts_and_empty_lists_are_tables(tiny_model: Models, inputs: list[str]) -> None:
    spec = str(tiny_model("vit"))
    rows = vitcli.classify(inputs, model=spec, top_k=1, workers=0)
    assert list(rows[2:].to_pandas()["path"]) == inputs[2:]
    assert rows[1:2].to_arrow()["path"].to_pylist() == inputs[1:2]
    assert [rows[0], *rows[1:]] == rows == list(rows)
    assert pickle.loads(pickle.dumps(rows)).to_pandas().equals(rows.to_pandas())
    none = vitcli.classify([], model=spec, workers=0)
    assert (len(none), len(none.to_pandas()), none.to_arrow().num_rows) == (0, 0, 0)
    assert list(none.to_pandas().columns) == list(rows.to_pandas().columns)
    assert none.to_arrow().schema == rows.to_arrow().schema
    empty = vitcli.embed([], model=spec, workers=0)
    assert (len(empty.to_pandas()), empty.to_arrow().num_rows) == (0, 0)
    failed = vitcli.embed(inputs[1], model=spec, workers=0)
    assert failed.to_arrow()["embedding"].to_pylist() == [None]


@needs("pandas", "parquet")
def test_odd_names_stay(tiny_model: Models, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    photo("x").save(os.fsencode(name))
    rows = vitcli.classify(name, model=str(tiny_model("vit")), top_k=1, workers=0)
    assert list(rows.to_pandas()["path"]) == [name]
    assert rows.to_arrow()["path_bytes"].to_pylist() == [os.fsencode(name)]


def test_a_missing_library_is_named(
    tiny_model: Models, inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = str(tiny_model("vit"))
    several = [
        vitcli.classify(inputs, model=spec, workers=0),
        vitcli.embed(inputs, model=spec, workers=0),
        vitcli.map(np.eye(3, dtype=np.float32), clusters=1),
    ]
    monkeypatch.setattr("vitcli.sinks.frames.find_spec", lambda name: None)
    monkeypatch.setattr("vitcli.errors.find_spec", lambda name: None)
    for rows in several:
        with pytest.raises(OutputError) as raised:
            rows.to_pandas()
        assert str(raised.value) == "a table of pandas needs pandas: pip install pandas"
        with pytest.raises(OutputError) as raised:
            rows.to_arrow()
        assert str(raised.value).startswith(
            "a table of Arrow needs pyarrow: pip install 'vitcli[par"
        )


def test_rows_say_whether_they_have_a_result(tiny_model: Models, inputs: list[str]) -> None:
    spec = str(tiny_model("vit"))
    rows = vitcli.classify(inputs, model=spec, workers=0)
    assert [row.ok for row in rows] == [True, False, True, True]
    assert [len(row.predictions) for row in rows] == [5, 0, 5, 5]
    assert [row.path for row in rows] == inputs
    others = [*vitcli.attention(inputs, model=spec, workers=0)]
    others += vitcli.embed_iter(inputs, model=spec, workers=0)
    assert [row.ok for row in others] == [True, False, True, True] * 2
    assert [row.path for row in others] == inputs * 2


@needs("pandas", "parquet")
def test_maps_are_a_table_of_layers_and_heads(tiny_model: Models, inputs: list[str]) -> None:
    spec = str(tiny_model("vit"))
    how = {"layers": [1, -1], "heads": "all"}
    rows = vitcli.attention(inputs[:2], model=spec, workers=0, **how)  # type: ignore[arg-type]
    frame = rows.to_pandas()
    last = rows[0].maps[-1]
    heads = last.values.shape[0]
    names = ["path", "method", "rank", "layer", "head", "height", "width", "error"]
    assert list(frame.columns) == names
    assert len(frame) == 2 * heads + 1
    known = [inputs[0], "raw", 2 * heads, last.layer, last.heads[-1], *last.values.shape[1:]]
    assert frame.iloc[2 * heads - 1].tolist()[:-1] == known
    assert frame["error"].iloc[-1].startswith(rows[1].type.value)
    table = rows.to_arrow()
    assert table["path"].to_pylist() == inputs[:2]
    assert [len(maps or ()) for maps in table["maps"].to_pylist()] == [2 * heads, 0]
    assert rows[1:].notes == rows.notes == ()


def test_notes_stay_with_the_result(tmp_path: Path, tiny_model: Models) -> None:
    photo("x").save(tmp_path / "a.png")
    (tmp_path / "b.svg").touch()
    spec = str(tiny_model("vit"))
    notes = vitcli.classify(tmp_path, model=spec, workers=0).notes
    assert [note for note in notes if ".svg" in note]
    assert vitcli.embed(tmp_path, model=spec, workers=0).notes == notes
