"""Parquet as a list of images: bytes as data sets on the hub have them, or paths."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Vit
from tests.fixtures.extras import imported
from tests.fixtures.photos import many_photos
from vitcli import errors
from vitcli.errors import InputError
from vitcli.images import tables
from vitcli.images.members import StreamedMember, UnreadableMember
from vitcli.images.scan import Scan
from vitcli.images.sources import count, open_sources

pa, pq = imported("pyarrow", "parquet"), imported("pyarrow.parquet", "parquet")
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
    structs[5] = {"bytes": None, "path": f"files/{files[5].name}"}
    write(tmp_path / "hub.parquet", label=list(range(20)), image=structs)
    write(tmp_path / "raw.parquet", jpg=data, path=["?"] * 20)
    write(tmp_path / "list.parquet", path=[f"files/{path.name}" for path in files])
    assert vit("embed", "files", *COMMON, "-o", "files.npy").code == 3
    expected = (tmp_path / "files.npy").read_bytes()
    paths = {
        "hub": [
            f"hub.parquet/{p.name}" if n != 5 else f"files/{p.name}" for n, p in enumerate(files)
        ],
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


def test_a_path_without_end_names_no_file(files: list[Path], tmp_path: Path) -> None:
    data, long = files[0].read_bytes(), "x" * 5000
    named = [{"bytes": None, "path": long}, {"bytes": data, "path": long}]
    (first, fault, _), (second, member, _) = tables.iter_rows(
        str(write(tmp_path / "x.parquet", image=named))
    )
    assert [first, second] == [f"{tmp_path}/x.parquet/{n}" for n in (0, 1)]
    assert isinstance(fault, UnreadableMember) and "5,000" in fault.why
    assert isinstance(member, StreamedMember) and member.data == data


def test_a_table_without_images_or_pyarrow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write(tmp_path / "x.parquet", label=[1, 2], text=["a", "b"])
    scan = Scan(frozenset(), members=frozenset((".jpg",)))
    with pytest.raises(InputError, match="has no column of images: label, text"):
        open_sources([str(table)], scan=scan)
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="Parquet needs pyarrow"):
        open_sources([str(table)], scan=scan)


def test_what_lies_outside_the_folder_of_a_table_is_not_opened(
    vit: Vit, files: list[Path], tmp_path: Path
) -> None:
    """Absolute paths, links and URLs; relative paths are below the table, wherever we are."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in.jpg").write_bytes(files[0].read_bytes())
    (tmp_path / "data" / "link.jpg").symlink_to(files[0])
    (tmp_path / "secret.txt").write_text("TOPSECRET-token")
    names = [
        *("in.jpg", "./in.jpg", str(tmp_path / "data" / "in.jpg"), "link.jpg", "../secret.txt"),
        *(str(tmp_path / "secret.txt"), "/proc/self/environ", "local:///etc/passwd"),
        *("http://127.0.0.1:1/latest", "zip://x::/etc/passwd"),
    ]
    table = write(
        tmp_path / "data" / "x.parquet", image=[{"bytes": None, "path": n} for n in names]
    )
    found = list(tables.iter_rows(str(table)))
    assert found[0] == (str(tmp_path / "data" / "in.jpg"), None, None)
    assert found[1].member is None
    for name, image in zip(names[2:], found[2:], strict=True):
        why = tables.ABSOLUTE if name.startswith("/") else tables.OUTSIDE
        assert isinstance(image.member, UnreadableMember)
        assert (image.member.type, image.member.why) == ("Unreadable", why)
    allowed = list(tables.iter_rows(str(table), allow_outside=True))
    assert all(image.member is None for image in allowed)
    write(
        tmp_path / "data" / "x.parquet", path=["in.jpg", "link.jpg", str(tmp_path / "secret.txt")]
    )
    ended = vit("classify", "data/x.parquet", "-m", "demo", "-j", "0")
    rows = list(map(json.loads, ended.out.splitlines()))
    assert ended.code == 3 and b"TOPSECRET" not in ended.out
    assert rows[0]["path"] == "data/in.jpg" and ["error" in row for row in rows] == [0, 1, 1]
    ended = vit("classify", "data/x.parquet", "-m", "demo", "-j", "0", "--allow-outside")
    rows = list(map(json.loads, ended.out.splitlines()))
    assert ["error" in row for row in rows] == [0, 0, 1]


ODD_SCHEMAS: dict[str, Any] = {
    "lists": pa.array([[b"x"]]),
    "nulls": pa.nulls(1),
    "a list of structs": pa.array([[{"bytes": b"x"}]]),
    "bytes that are text": pa.array([{"bytes": "x", "path": "a.jpg"}]),
    "a path that is a number": pa.array([{"bytes": None, "path": 7}]),
    "large bytes": pa.array([b"x"], pa.large_binary()),
    "views of bytes": pa.array([b"x"], pa.binary_view()),
    "bytes of one length": pa.array([b"xyz"], pa.binary(3)),
    "a dictionary of paths": pa.array(["none.jpg"]).dictionary_encode(),
    "a dictionary of bytes": pa.array([b"x"]).dictionary_encode(),
    "views of paths": pa.array(["none.jpg"], pa.string_view()),
    "a struct without bytes": pa.array([{"data": b"x"}]),
    "a null struct": pa.array([None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
}


@pytest.mark.parametrize("name", ODD_SCHEMAS)
def test_an_odd_schema_is_told_in_words(name: str, vit: Vit, tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", image=ODD_SCHEMAS[name])
    ended = vit("classify", "x.parquet", "-m", "demo", "-j", "0")
    assert ended.code in (1, 3) and "images" in ended.err, ended.err


def test_two_columns_of_one_name_and_no_rows_are_told_in_words(vit: Vit, tmp_path: Path) -> None:
    both = pa.Table.from_arrays([pa.array([b"x"]), pa.array([b"y"])], ["image", "image"])
    pq.write_table(both, tmp_path / "x.parquet")
    assert vit("classify", "x.parquet", "-m", "demo", "-j", "0").code in (1, 3)
    write(tmp_path / "x.parquet", image=pa.array([], pa.binary()))
    ended = vit("classify", "x.parquet", "-m", "demo", "-j", "0")
    assert ended.code == 1 and "no images in x.parquet" in ended.err


def test_large_rows_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_BATCH_BYTES", 3000)
    table = write(tmp_path / "x.parquet", image=[bytes([n]) * 1000 for n in range(6)])
    sizes = [batch.num_rows for batch in tables._parts(pq.ParquetFile(table), "image")]
    assert sum(sizes) == 6 and max(sizes) <= 3
    found = [image.member for image in tables.iter_rows(str(table), max_bytes=999)]
    assert [m.type for m in found if isinstance(m, UnreadableMember)] == ["TooLarge"] * 6
    assert [m.held for _, m, _ in tables.iter_rows(str(table)) if m] == [1000] * 6


def test_a_group_that_unpacks_to_much_more_than_it_is_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_GROUP_BYTES", 150_000)
    table = write(tmp_path / "x.parquet", image=[bytes(100_000), bytes([1]) * 100_000] * 6)
    found = list(tables.iter_rows(str(table)))
    assert [path.removeprefix(str(table)) for path, *_ in found] == [f"/{n}" for n in range(12)]
    assert {m.type for _, m, _ in found if isinstance(m, UnreadableMember)} == {"TooLarge"}
    noise = [os.urandom(20_000) for _ in range(12)]
    table = write(tmp_path / "y.parquet", image=noise)
    assert [
        m.data for _, m, _ in tables.iter_rows(str(table)) if isinstance(m, StreamedMember)
    ] == noise


def test_a_table_that_is_rewritten_while_it_is_read_ends_in_words(tmp_path: Path) -> None:
    table = write(tmp_path / "x.parquet", image=[b"x"] * 12)
    rows = tables.iter_rows(str(table))
    first = next(rows).member
    whole = table.read_bytes()
    table.write_bytes(whole + b"more")
    rest = list(rows)
    last = rest[-1].member
    assert first and len(rest) == 6 and isinstance(last, UnreadableMember)
    assert "changed since it was listed" in last.why
    assert first.version and first.version[2] == len(whole)
