"""Damaged files of an index are errors in one sentence, and never wrong results."""

from __future__ import annotations

import base64
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fixtures.extras import Lazy, needs
from vitcli.errors import InputError
from vitcli.indexes.blocks import iter_blocks
from vitcli.indexes.index import index_of, open_index

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) + 1
PARQUET = pytest.param("parquet", marks=needs("parquet"))
pa, pq = Lazy("pyarrow", "parquet"), Lazy("pyarrow.parquet", "parquet")
NAMES = ["a.png", "b.png", "é.png", "d.png"]
Edit = Callable[[bytes], bytes]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(names: list[str] = NAMES) -> str:
    return "".join(
        json.dumps({"row": row, "path": name}, separators=(",", ":")) + "\n"
        for row, name in enumerate(names)
    )


def table(**columns: Any) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 3)
    made = pa.table({"path": NAMES, "embedding": vectors} | columns)
    pq.write_table(made, "x.parquet", write_page_checksum=True, compression="none")


def made(kind: str) -> Path:
    """The same index in a format."""
    Path("x.index.jsonl").write_text(lines())
    if kind == "npy":
        np.save("x.npy", ROWS)
    elif kind in ("npz", "compressed"):
        Path("x.index.jsonl").unlink()
        save = np.savez if kind == "npz" else np.savez_compressed
        save("x.npz", embeddings=ROWS, paths=np.array(NAMES))
        return Path("x.npz")
    elif kind == "safetensors":
        write_safetensors({"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]})
    elif kind == "parquet":
        table()
    else:
        records = ({"path": n, "embedding": r} for n, r in zip(NAMES, ROWS.tolist(), strict=True))
        Path("x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return Path(f"x.{kind}")


def write_safetensors(entry: object, **others: object) -> None:
    head = json.dumps({"embeddings": entry, **others}).encode()
    Path("x.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + ROWS.tobytes())


def refused(file: Path) -> str:
    """The error of an index that is read as a whole, which is one sentence."""
    with warnings.catch_warnings(), pytest.raises(InputError) as caught:
        warnings.simplefilter("error", RuntimeWarning)
        index = open_index([str(file)])
        index.read(0, index.count)
        list(index.iter_names())
    assert file.stem in caught.value.message and "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "safetensors", PARQUET, "jsonl"])
def test_each_format_gives_the_rows_or_an_error_whatever_byte_is_damaged(kind: str) -> None:
    file = made(kind)
    assert list(open_index([str(file)]).iter_names()) == NAMES
    good = file.read_bytes()
    has_checksum = kind in ("npz", "compressed")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for place in range(0, len(good), 37):
            for edit in (good[:place], good[:place] + b"\x81{" + good[place:]):
                file.write_bytes(edit)
                check(file, is_same=has_checksum)
            file.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
            check(file, is_same=has_checksum)


def check(file: Path, *, is_same: bool) -> None:
    try:
        index = open_index([str(file)])
        rows, names = index.read(0, index.count), list(index.iter_names())
    except InputError:
        return
    if is_same:
        np.testing.assert_array_equal(rows, ROWS)
        assert names == NAMES


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data.replace(b"(4, 3)", b"(2, 3)"),
        lambda data: data.replace(b"(4, 3)", b"(-4,3)"),
        lambda data: data.replace(b"'<f4'", b"'<f2'"),
        lambda data: data.replace(b"'<f4'", b"'zzz'"),
        lambda data: data.replace(b"{'des", b"{('des"),
        lambda data: data.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09"),
        lambda data: data + b"more",
        lambda data: data[:-1],
        lambda data: b"",
    ],
)
def test_a_header_of_numpy_is_compared_with_the_file(edit: Edit) -> None:
    file = made("npy")
    file.write_bytes(edit(file.read_bytes()))
    refused(file)


def test_numbers_are_compared_with_the_checksum_of_an_archive() -> None:
    file = made("npz")
    for array in (ROWS.tobytes(), "é.png".encode("utf-32-le")):
        file.write_bytes(file.read_bytes().replace(array[:8], b"\1" + array[1:8]))
        assert "CRC" in refused(file)
        file = made("npz")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("embeddings.npy", b"no array", zipfile.ZIP_BZIP2)
    assert "not an array" in refused(file)


@pytest.mark.parametrize(
    ("entry", "others"),
    [
        ({"dtype": "F32", "shape": [4, 3], "data_offsets": [4, 52]}, {}),
        ({"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 96]}, {}),
        ({"dtype": "F32", "shape": [3, 3], "data_offsets": [0, 48]}, {}),
        ({"dtype": "F16", "shape": [4, 3], "data_offsets": [0, 48]}, {}),
        ({"dtype": "F32", "shape": [4, -3], "data_offsets": [0, 48]}, {}),
        ({"dtype": "F32", "shape": 4, "data_offsets": [0, 48]}, {}),
        ({"dtype": "F32", "shape": [4, 3], "data_offsets": ["0", 48]}, {}),
        ({"dtype": "BF16", "shape": [4, 3], "data_offsets": [0, 48]}, {}),
        ({"shape": [4, 3]}, {}),
        (None, {}),
        (
            {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]},
            {"y": {"dtype": "F32", "shape": [1], "data_offsets": [44, 48]}},
        ),
    ],
)
def test_offsets_of_safetensors_fit_the_file(entry: object, others: dict[str, object]) -> None:
    made("safetensors")
    write_safetensors(entry, **others)
    refused(Path("x.safetensors"))


def test_columns_of_a_table_are_checked() -> None:
    odd = [
        {"path": ["a", None, "c", "d"]},
        {"path": [1, 2, 3, 4]},
        {"path": ["a\0", "b", "c", "d"]},
        {"embedding": pa.array([[1.0]] * 4)},
        {"embedding": pa.array([[None] * 3] * 4, pa.list_(pa.float32(), 3))},
    ]
    for columns in odd:
        table(**columns)
        refused(Path("x.parquet"))
    table()
    data = Path("x.parquet").read_bytes()
    place = data.index(ROWS.tobytes()[:16])
    Path("x.parquet").write_bytes(data[:place] + b"\1" + data[place + 1 :])
    assert "CRC" in refused(Path("x.parquet"))


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "3",
        '["error"]',
        '{"path":"x"}',
        '{"path":"x","embedding":3}',
        '{"path":"x","embedding":[true,1,2]}',
        '{"path":"x","embedding":["1",1,2]}',
        '{"path":"x","embedding":[null,1,2]}',
        '{"path":"x","embedding":[1,2]}',
        '{"path":"x","embedding":[[1],[2],[3]]}',
        '{"path":"x","embedding":[]}',
        '{"path":"x","embedding":[1e999,1,2]}',
        '{"path":"x","embedding":[NaN,1,2]}',
        '{"path":"x","embedding":[1' + "0" * 400 + ",1,2]}",
        '{"path":3,"embedding":[1,2,3]}',
        '{"path":"\\u0000","embedding":[1,2,3]}',
        '{"path":"\\ud800","embedding":[1,2,3]}',
        '{"path_bytes":"a","embedding":[1,2,3]}',
        '{"text":"x","embedding":[1,2,3]}',
        '{"path":"x","embedding":' + "[" * 100_000,
    ],
)
def test_odd_lines_are_refused(line: str) -> None:
    file = made("jsonl")
    with file.open("a") as lines:
        lines.write(line + "\n")
    refused(file)


def test_a_row_that_failed_is_left_out() -> None:
    file = made("jsonl")
    with file.open("a") as lines:
        lines.write('{"path":"x","error":{"type":"T","message":"m"}}\n')
        lines.write('{"path":"y","embedding":null,"error":{"type":"T","message":"m"}}\n')
    assert list(open_index([str(file)]).iter_names()) == NAMES


@pytest.mark.parametrize(
    "text",
    [
        lines(NAMES[:3]),
        lines([*NAMES, "e"]),
        lines().replace('"row":2', '"row":3'),
        lines().replace('"b.png"', "3"),
        lines().replace('"path":"b', '"text":"b'),
        lines().replace("b.png", "b\\u0000"),
        lines().replace('{"row":1,"path":"b.png"}', "[" * 100_000),
        lines()[:-1],
        "",
    ],
)
def test_odd_lines_of_names_are_refused(text: str) -> None:
    file = made("npy")
    Path("x.index.jsonl").write_text(text)
    refused(file)


@pytest.mark.parametrize(
    "meta",
    [
        [],
        "[" * 100_000,
        {"layers": "x"},
        {"pool": 3},
        {"l2": "no"},
        {"model_options": []},
        {"shape": [5, 3]},
        {"row_shape": [4]},
        {"array_dtype": "zzz"},
        {"sha256": [[[]]]},
    ],
)
def test_an_odd_meta_is_refused(meta: object) -> None:
    file = made("npy")
    Path("x.meta.json").write_text(meta if isinstance(meta, str) else json.dumps(meta))
    refused(file)


def test_a_meta_counts_the_lines() -> None:
    file = made("jsonl")
    Path("x.meta.json").write_text('{"images": 5, "row_shape": [3]}')
    assert "counts 5" in refused(file)
    file.write_text("")
    Path("x.meta.json").write_text('{"images": 0, "row_shape": [3]}')
    index = open_index([str(file)])
    assert (index.count, index.width) == (0, 3)


def test_infinity_is_an_error_without_a_warning() -> None:
    rows = ROWS.astype(np.float64)
    rows[1, :2] = np.inf, -np.inf
    for odd in (rows, np.where(np.isfinite(rows), rows, 1e300)):
        np.save("x.npy", odd)
        Path("x.index.jsonl").write_text(lines())
        assert "row 1" in refused(Path("x.npy"))
        with warnings.catch_warnings(), pytest.raises(InputError, match="row 1"):
            warnings.simplefilter("error", RuntimeWarning)
            list(iter_blocks(index_of(odd)))


def test_odd_bytes_of_a_path_are_kept() -> None:
    raw = base64.b64encode(b"\xff.png").decode()
    made("npy")
    np.save("x.npy", ROWS[:1])
    Path("x.index.jsonl").write_text(f'{{"row":0,"path":"?.png","path_bytes":"{raw}"}}\n')
    assert open_index(["x.npy"]).name(0) == "\udcff.png"
