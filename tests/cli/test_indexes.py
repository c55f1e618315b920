"""Indexes that the commands read: shards, odd metas, Python's arguments."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitcli
from tests.conftest import Vit
from tests.fixtures.extras import needs
from tests.fixtures.weights import photo
from vitcli.errors import UsageError, VitError
from vitcli.indexes.index import index_of
from vitcli.jobs.job import ModelOptions
from vitcli.tasks.embed import described_options
from vitcli.tasks.search.queries import OPTIONS, model_options

ROWS = np.random.RandomState(0).standard_normal((6, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and an index of them with smaller patches of a smaller image than the model's."""
    home = tmp_path_factory.mktemp("indexes")
    (home / "photos").mkdir()
    for number in range(3):
        photo(40 + 3 * number, 30 + number).save(home / "photos" / f"{number}.png")
    from vitcli.cli import main

    odd = ("--patch-size", "4", "--image-size", "24x32", "--no-exif", "--decode", "fast")
    odd += ("--num-heads", "2", "--layout", "hf-vit", "--drop", "classifier.*")
    words = ("embed", str(home / "photos"), "-m", "demo", "-o", str(home / "x.npy"), "-j", "0")
    assert main((*words, *odd)) == 0
    return home


def test_a_query_is_embedded_by_all_options_of_the_model(vit: Vit, home: Path) -> None:
    meta = json.loads((home / "x.meta.json").read_text())
    assert len(meta["model_options"]) == 7
    ran = vit("search", home / "x.npy", home / "photos" / "1.png", "-k", "1", "-j", "0")
    [hit] = json.loads(ran.out)["results"]
    assert (hit["row"], hit["score"]) == (1, 1.0)


def test_every_option_of_a_model_comes_back_from_a_meta() -> None:
    given = ModelOptions(
        layout="hf-vit",
        image_size=(24, 32),
        patch_size=(4, 8),
        max_patches=9,
        preprocess="hf",
        num_heads=2,
        drop=("a", "b"),
        exif=False,
        decode="fast",
    )
    meta = json.loads(json.dumps(described_options(given)))
    assert set(meta["model_options"]) == set(OPTIONS)
    assert model_options(replace(index_of(ROWS), meta=meta)) == given


@pytest.mark.parametrize(
    "fields",
    [
        {"pool": "zzz"},
        {"engine": "zzz"},
        {"dtype": "fp64"},
        {"quantize": "int1"},
        {"model": None},
        {"pool": None},
        {"norm": None},
        {"model_options": {"zzz": 1}},
        {"model_options": {"image_size": [0, 3]}},
        {"model_options": {"decode": "zzz"}},
    ],
)
def test_a_meta_that_names_no_way_to_embed_is_refused(
    vit: Vit, home: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    for name in ("x.npy", "x.index.jsonl"):
        shutil.copy(home / name, tmp_path)
    meta = {**json.loads((home / "x.meta.json").read_text()), **fields}
    meta = {name: value for name, value in meta.items() if value is not None}
    (tmp_path / "x.meta.json").write_text(json.dumps(meta))
    ran = vit("search", "x.npy", home / "photos" / "1.png")
    assert ran.code == 1 and "the meta file of x.npy" in ran.err
    assert vit("search", "x.npy", "--like", "1").code == 0


PARQUET = pytest.param("e.parquet", marks=needs("parquet"))


@pytest.mark.parametrize("name", ["a.npy", "b.npz", "c.SAFETENSORS", "d.jsonl", PARQUET])
def test_an_index_is_no_query(vit: Vit, tmp_path: Path, name: str) -> None:
    for file in ("a.npy", name):
        (tmp_path / file).touch()
    (tmp_path / name).with_suffix(".meta.json").touch()
    ran = vit("search", "x.npy", name, "--like", "1")
    assert ran.code == 2 and "is an index" in ran.err and "--index" in ran.err


@pytest.mark.parametrize("command", ["search", "dedupe", "map"])
def test_a_missing_shard_is_an_error_of_each_command(
    vit: Vit, home: Path, tmp_path: Path, command: str
) -> None:
    for number in (1, 3):
        for end in ("npy", "index.jsonl", "meta.json"):
            shutil.copy(home / f"x.{end}", tmp_path / f"x-0000{number}-of-00003.{end}")
    more = ("--like", "1") if command == "search" else ("--kind", "near")
    more = more if command != "map" else ()
    ran = vit(command, "x-*.npy", *more)
    assert ran.code == 1 and "x-00002-of-00003.npy" in ran.err
    ran = vit(command, "x-00003-of-00003.npy", *more)
    assert ran.code == 0 and "one of 3 shards" in ran.err
    with pytest.warns(UserWarning, match="one of 3 shards"):
        vitcli.search(tmp_path / "x-00001-of-00003.npy", like=0)


def test_python_takes_what_is_clear() -> None:
    [array] = vitcli.search(ROWS, like=np.int64(3), k=np.int8(2))  # type: ignore[arg-type]
    assert vitcli.search(ROWS.tolist(), like=[3], k=2)[0].query == array.query == "3"
    paths = [Path(f"{row}.png") for row in range(6)]
    [found] = vitcli.search(ROWS, like=Path("3.png"), paths=paths)
    assert found.hits[0].path == "3.png"
    assert vitcli.map(ROWS.tolist(), clusters=np.int64(2)).x.shape == (6,)  # type: ignore[arg-type]
    assert vitcli.dedupe(ROWS.tolist()) == []


@pytest.mark.parametrize(
    ("call", "args"),
    [
        (vitcli.search, {"k": 2.5}),
        (vitcli.search, {"k": 0}),
        (vitcli.search, {"like": 1.5}),
        (vitcli.search, {"like": True}),
        (vitcli.search, {"threshold": "high"}),
        (vitcli.search, {"metric": "zzz"}),
        (vitcli.search, {"workers": 1.5}),
        (vitcli.search, {"texts": 3}),
        (vitcli.search, {"queries": 3}),
        (vitcli.search, {"queries": "a.png", "model": "demo"}),
        (vitcli.search, {"vectors": ROWS[:, :3]}),
        (vitcli.search, {"vectors": ROWS[None]}),
        (vitcli.search, {"vectors": [[1.0], [1.0, 2.0]]}),
        (vitcli.search, {"vectors": np.ones((1, 4), int)}),
        (vitcli.search, {"vectors": np.full((1, 4), 1e300)}),
        (vitcli.search, {"paths": ["a"]}),
        (vitcli.search, {"index": [[1.0], [1.0, 2.0]]}),
        (vitcli.search, {"index": []}),
        (vitcli.search, {"index": 3}),
        (vitcli.search, {"index": ["a", 1]}),
        (vitcli.dedupe, {"like_pairs": ["ab", "cd"]}),
        (vitcli.dedupe, {"like_pairs": [("0",)]}),
        (vitcli.dedupe, {"like_pairs": 3}),
        (vitcli.dedupe, {"linkage": "zzz"}),
        (vitcli.dedupe, {"keep": "zzz"}),
        (vitcli.dedupe, {"kind": 3}),
        (vitcli.map, {"seed": -1}),
        (vitcli.map, {"clusters": 2.5}),
        (vitcli.map, {"clusters": "3"}),
        (vitcli.map, {"method": "zzz"}),
        (vitcli.map, {"color": 3}),
        (vitcli.map, {"color_column": "x"}),
    ],
)
def test_python_refuses_what_is_not(call: Any, args: dict[str, Any]) -> None:
    start = {"like": 0} if call is vitcli.search and "vectors" not in args else {}
    with pytest.raises(VitError) as caught:
        call(**{"index": ROWS, **start, **args})
    assert "\n" not in caught.value.message
    assert isinstance(caught.value, UsageError) or caught.value.hint or args.keys() == {"vectors"}
