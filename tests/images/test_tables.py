"""Parquet as a list of images: bytes as data sets on the hub have them, or paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Vit
from tests.fixtures.photos import many_photos
from vitcli.errors import InputError
from vitcli.images import tables
from vitcli.images.scan import Scan
from vitcli.images.sources import count, open_sources

COMMON = ("-m", "demo", "-j", "2", "-b", "4")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return many_photos(tmp_path / "files", 20, broken=(3, 10))


def write(path: Path, /, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=6)
    return path


def test_the_rows_are_those_of_files(vit: Vit, files: list[Path], tmp_path: Path) -> None:
    """Struct, plain bytes and paths; resumed, and in shards of the table."""
    data = [path.read_bytes() for path in files]
    structs = [{"bytes": d, "path": p.name} for d, p in zip(data, files, strict=True)]
    structs[5] = {"bytes": None, "path": str(files[5])}
    write(tmp_path / "hub.parquet", label=list(range(20)), image=structs)
    write(tmp_path / "raw.parquet", jpg=data, path=["?"] * 20)
    write(tmp_path / "list.parquet", path=[f"files/{path.name}" for path in files])
    assert vit("embed", "files", *COMMON, "-o", "files.npy").code == 3
    expected = (tmp_path / "files.npy").read_bytes()
    paths = {
        "hub": [f"hub.parquet/{p.name}" if n != 5 else str(p) for n, p in enumerate(files)],
        "raw": [f"raw.parquet/{number}" for number in range(20)],
        "list": [f"files/{path.name}" for path in files],
    }
    for name, wanted in paths.items():
        words = ("embed", f"{name}.parquet", *COMMON, "-o", f"{name}.npy")
        assert vit(*words, "--on-error", "stop").code == 1
        ended = vit(*words, "--resume")
        assert ended.code == 3 and "18 of 20 images done" in ended.err
        assert (tmp_path / f"{name}.npy").read_bytes() == expected
        index = [json.loads(line) for line in (tmp_path / f"{name}.index.jsonl").open()]
        assert [row["path"] for row in index] == wanted
    assert "already complete" in vit(*words, "--resume").err
    shards = [f"hub-0000{n}-of-00002.npy" for n in (1, 2)]
    for n in (1, 2):
        vit("embed", "hub.parquet", *COMMON, "-o", "hub.npy", "--shard", f"{n}/2")
    assert vit("merge", *shards, "-o", "merged.npy").code == 3
    np.testing.assert_allclose(
        np.load(tmp_path / "merged.npy"), np.load(tmp_path / "files.npy"), atol=1e-6
    )


def test_what_is_wrong_with_a_table_is_told(vit: Vit, files: list[Path], tmp_path: Path) -> None:
    data = files[0].read_bytes()
    null = {"bytes": None, "path": None}
    good = write(tmp_path / "x.parquet", image=[{"bytes": data, "path": None}, null] * 6)
    rows = list(map(json.loads, vit("classify", "x.parquet", *COMMON).out.splitlines()))
    assert [row["path"] for row in rows] == [f"x.parquet/{n}" for n in range(12)]
    empty = {"type": "NotFound", "message": "the row is empty"}
    assert [row.get("error") for row in rows] == [None, empty] * 6
    assert (
        count(open_sources([str(good)], scan=Scan(frozenset(), members=frozenset((".jpg",))))) == 12
    )

    whole = good.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no table"):
        good.write_bytes(content)
        ended = vit("classify", "x.parquet", *COMMON)
        (row,) = map(json.loads, ended.out.splitlines())
        assert (row["path"], row["error"]["type"]) == ("x.parquet", "DecodeError")
        assert row["error"]["message"].startswith("damaged Parquet: ")
        assert ended.code == 3 and "cannot list x.parquet" in ended.err


def test_a_table_without_images_or_pyarrow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write(tmp_path / "x.parquet", label=[1, 2], text=["a", "b"])
    scan = Scan(frozenset(), members=frozenset((".jpg",)))
    with pytest.raises(InputError, match="has no column of images: label, text"):
        open_sources([str(table)], scan=scan)
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="Parquet needs pyarrow"):
        open_sources([str(table)], scan=scan)
