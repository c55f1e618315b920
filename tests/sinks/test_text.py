"""JSONL, CSV and TSV give back what was written, whatever the names and labels hold."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sinks.rows import (
    META,
    NAMES,
    NOT_UTF8,
    array_meta,
    classified,
    embedded,
    failed,
    lines_of,
)
from vitcli.errors import OutputError
from vitcli.records import Classified, Embedded, ImageRef, Prediction, Row
from vitcli.sinks.files import Target
from vitcli.sinks.text import CsvSink, JsonlSink, LineSink, TsvSink, VectorJsonlSink, path_fields


def written(sink: type[LineSink], out: Path, *rows: Row) -> Path:
    writer = sink(Target(out))
    writer.write(rows)
    writer.finish(META)
    return out


def table(out: Path, delimiter: str) -> list[dict[str, str]]:
    with out.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter, strict=True))


# JSONL of predictions


def test_a_row_is_a_line(tmp_path: Path) -> None:
    rows = [classified(0, "a.jpg", "cat", "dog"), failed(1, "b.jpg"), classified(2, "c.jpg")]
    out = written(JsonlSink, tmp_path / "out.jsonl", *rows)
    assert out.read_text() == (
        '{"path":"a.jpg","predictions":[{"label":"cat","index":0,"score":0.5},'
        '{"label":"dog","index":1,"score":0.25}]}\n'
        '{"path":"b.jpg","error":{"type":"DecodeError","message":"truncated image"}}\n'
        '{"path":"c.jpg","predictions":[]}\n'
    )


@pytest.mark.parametrize("name", NAMES)
def test_jsonl_keeps_every_name_and_label(name: str, tmp_path: Path) -> None:
    rows = [classified(0, name, name), failed(1, name, message=name)]
    good, bad = lines_of(written(JsonlSink, tmp_path / "out.jsonl", *rows))
    assert good["path"] == bad["path"] == name
    assert good["predictions"][0]["label"] == bad["error"]["message"] == name
    assert "path_bytes" not in good


def test_a_path_that_is_not_utf8_has_its_bytes_beside_it(tmp_path: Path) -> None:
    (line,) = lines_of(written(JsonlSink, tmp_path / "out.jsonl", classified(0, NOT_UTF8)))
    assert line["path"] == "caf\N{REPLACEMENT CHARACTER}.jpg"
    assert base64.b64decode(line["path_bytes"]) == b"caf\xe9.jpg"


def test_a_lone_surrogate_in_a_message_is_no_error(tmp_path: Path) -> None:
    (line,) = lines_of(written(JsonlSink, tmp_path / "out.jsonl", failed(0, "a", NOT_UTF8)))
    assert line["error"]["message"] == "caf?.jpg"


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_jsonl_refuses_what_is_no_json(score: float, tmp_path: Path) -> None:
    row = Classified(ImageRef(0, "a"), (Prediction("cat", 0, score),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        JsonlSink(Target(tmp_path / "out.jsonl")).write([row])


def test_scores_have_six_decimals(tmp_path: Path) -> None:
    row = Classified(ImageRef(0, "a"), (Prediction("cat", 0, 0.123456789),))
    (line,) = lines_of(written(JsonlSink, tmp_path / "out.jsonl", row))
    assert line["predictions"][0]["score"] == 0.123457
    (record,) = table(written(CsvSink, tmp_path / "out.csv", row), ",")
    assert record["score"] == "0.123457"


def test_lines_are_on_disk_after_each_batch(tmp_path: Path) -> None:
    sink = JsonlSink(Target(tmp_path / "out.jsonl"))
    sink.write([classified(0, "a", "cat")])
    assert len(lines_of(tmp_path / "out.jsonl.partial")) == 1
    sink.abort()


# CSV and TSV

TABLES = [(CsvSink, ","), (TsvSink, "\t")]


@pytest.mark.parametrize(("sink", "delimiter"), TABLES)
@pytest.mark.parametrize("name", [*NAMES, NOT_UTF8])
def test_tables_keep_every_name_and_label(
    sink: type[CsvSink], delimiter: str, name: str, tmp_path: Path
) -> None:
    rows = [classified(0, name, name, "dog"), failed(1, name, message=name)]
    first, second, bad = table(written(sink, tmp_path / "out", *rows), delimiter)
    assert first == {
        **{"path": name, "rank": "1", "label": name, "index": "0"},
        **{"score": "0.500000", "error": ""},
    }
    assert second["rank"] == "2" and second["label"] == "dog"
    assert bad["path"] == name and bad["error"] == f"DecodeError: {name}"
    assert bad["rank"] == bad["label"] == bad["index"] == bad["score"] == ""


@pytest.mark.parametrize(("sink", "delimiter"), TABLES)
def test_an_image_without_predictions_keeps_its_row(
    sink: type[CsvSink], delimiter: str, tmp_path: Path
) -> None:
    (record,) = table(written(sink, tmp_path / "out", classified(0, "a.jpg")), delimiter)
    assert record["path"] == "a.jpg" and not any(list(record.values())[1:])


@pytest.mark.parametrize(("sink", "delimiter"), TABLES)
def test_a_run_of_no_images_is_a_header(
    sink: type[CsvSink], delimiter: str, tmp_path: Path
) -> None:
    out = written(sink, tmp_path / "out")
    columns = ("path", "rank", "label", "index", "score", "error")
    assert out.read_text() == delimiter.join(columns) + "\n"


# JSONL of vectors


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_come_back_exactly(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    sink = VectorJsonlSink(Target(tmp_path / "out.jsonl"), array_meta(shape, dtype))
    row = embedded(0, "a.jpg", shape, dtype)
    sink.write([row, failed(1, NOT_UTF8)])
    sink.finish(META)
    good, bad = lines_of(tmp_path / "out.jsonl")
    np.testing.assert_array_equal(np.array(good["embedding"], dtype), row.embedding)
    assert bad["error"]["type"] == "DecodeError" and "path_bytes" in bad
    assert json.loads((tmp_path / "out.meta.json").read_text()) == {"schema": 1, **META}


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 3.4028235e38, 1e-7, 0.1, -1 / 3, 123456.79])
def test_every_float_comes_back_exactly(value: float, tmp_path: Path) -> None:
    sink = VectorJsonlSink(Target(tmp_path / "out.jsonl"), array_meta((1,)))
    array = np.array([value], np.float32)
    sink.write([Embedded(ImageRef(0, "a"), array)])
    sink.finish({})
    (line,) = lines_of(tmp_path / "out.jsonl")
    np.testing.assert_array_equal(np.array(line["embedding"], np.float32), array)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_refuse_what_is_no_json(value: float, tmp_path: Path) -> None:
    sink = VectorJsonlSink(Target(tmp_path / "out.jsonl"), array_meta((1,)))
    with pytest.raises(OutputError, match=r"a\.jpg holds NaN or infinity"):
        sink.write([Embedded(ImageRef(0, "a.jpg"), np.array([value], np.float32))])
    sink.abort()


def test_no_meta_stands_beside_a_device() -> None:
    sink = VectorJsonlSink(Target(Path("/dev/null")), array_meta((1,)))
    sink.write([embedded(0, "a", (1,))])
    sink.finish(META)
    assert not Path("/dev/null.meta.json").exists() and not Path("/dev/null.partial").exists()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("a/b.jpg", {"path": "a/b.jpg"}),
        ("鳥", {"path": "鳥"}),
        ("\udcff", {"path": "\ufffd", "path_bytes": "/w=="}),
    ],
)
def test_the_fields_of_a_path(path: str, fields: dict[str, Any]) -> None:
    assert path_fields(path) == fields
