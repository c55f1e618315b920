"""Search, dedupe and map: what they refuse to replace or to understand, and what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

import vitcli
from tests.conftest import Vit
from tests.fixtures.extras import Lazy
from vitcli.errors import UsageError
from vitcli.tasks.dedupe.find import Options
from vitcli.tasks.map.map import MapJob
from vitcli.tasks.search.queries import Asked
from vitcli.tasks.search.search import SearchJob

pa, pq = Lazy("pyarrow", "parquet"), Lazy("pyarrow.parquet", "parquet")


def index_lines(names: list[str]) -> str:
    rows = ({"row": row, "path": name} for row, name in enumerate(names))
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two shards, the second without rows; two Parquet files; images, one of them in an archive."""
    (tmp_path / "p").mkdir()
    for name in ("p/a.png", "p/b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "p/a.png", "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "p/b.png")
    names = ["p/a.png", "./link.png", "z.zip/a.png"]
    for shard, count in ((1, 3), (2, 0)):
        np.save(tmp_path / f"g{shard}.npy", np.eye(3, 4, dtype=np.float32)[:count])
        (tmp_path / f"g{shard}.index.jsonl").write_text(index_lines(names[:count]))
        (tmp_path / f"g{shard}.meta.json").write_text('{"kind": "image"}')
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(12, np.float32)), 4)
    for name in ("q1", "q2"):
        table = pa.table({"path": pa.array(names), "embedding": vectors})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    (tmp_path / "soft.jsonl").symlink_to(tmp_path / "g2.index.jsonl")
    (tmp_path / "hard.jsonl").hardlink_to(tmp_path / "g1.meta.json")
    (tmp_path / "folder").symlink_to(tmp_path / "p")
    return tmp_path


COMMANDS = {
    "search": ("--like", "0", "--format", "jsonl"),
    "dedupe": ("--kind", "near", "--threshold", "0.9", "--format", "jsonl"),
    "map": ("--clusters", "none", "--format", "jsonl", "--thumbnails", "0"),
}
PLACES = [
    *("g1.index.jsonl", "g2.npy", "g2.meta.json", "soft.jsonl", "hard.jsonl", "p/../g1.npy"),
    *("p/a.png", "p/b.png", "folder/a.png", "link.png", "z.zip"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_is_neither_the_index_nor_an_image(vit: Vit, home: Path, command: str) -> None:
    before = {path: path.read_bytes() for path in home.glob("**/*") if path.is_file()}
    places = [str(home / "g1.npy"), *PLACES]
    for number, place in enumerate(places if command == "dedupe" else places[::4]):
        option = ("-o", "--html")[number % 2]
        ended = vit(command, "g{1,2}.npy", *COMMANDS[command], "--overwrite", option, place)
        is_page = option == "-o" or not place.endswith(".png")  # --html takes no name of an image
        code, why = (1, "would be overwritten") if is_page else (2, "is not the name of a page")
        assert (ended.code, why in ended.err) == (code, True), (place, ended.err)
    ended = vit(command, "q*.parquet", *COMMANDS[command], "--overwrite", "-o", "q1.parquet")
    assert "would be overwritten" in ended.err
    assert {path: path.read_bytes() for path in home.glob("**/*") if path.is_file()} == before
    for _ in range(2):  # a new file, and one of an earlier run
        ended = vit(command, "g*.npy", *COMMANDS[command], "--overwrite", "-o", "p/new.jsonl")
        assert ended.code == 0, ended.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_summary_is_not_a_file_of_the_run(vit: Vit, home: Path, command: str) -> None:
    for place in ("g2.index.jsonl", "soft.jsonl", "out.jsonl"):
        words = (*COMMANDS[command], "-o", "out.jsonl", "--summary", place)
        ended = vit(command, "g*.npy", *words)
        assert ended.code == 1 and "cannot write the summary" in ended.err, ended.err
    assert (home / "g2.index.jsonl").read_bytes() == b""
    assert not (home / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("command", "counts"),
    [("search", (0, 1, "queries", 1)), ("dedupe", (3, 3, "rows", 3)), ("map", (3, 3, "rows", 3))],
)
def test_a_summary_counts_rows_and_queries(
    vit: Vit, home: Path, command: str, counts: tuple[int, int, str, int]
) -> None:
    words = (*COMMANDS[command], "-o", "out.jsonl", "--summary", "sum.json", "--log-json")
    ended = vit(command, "g1.npy", *words)
    images, done, unit, number = counts
    logged = json.loads(ended.err.splitlines()[-1])
    for report in (json.loads((home / "sum.json").read_text()), logged):
        assert (report["images"], report["done"], report["failed"]) == (images, done, 0)
        assert report[unit] == number


@pytest.mark.parametrize("command", COMMANDS)
def test_the_bar_does_not_speak_of_a_model(
    vit: Vit, home: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Bar:
        def __init__(self, description: str) -> None:
            told.append(description)

        def count(self, description: str, done: int, total: int) -> None:
            told.append(description)

        tell = begin = __init__
        show = print = expect = stop = lambda self, *args: None

    monkeypatch.setattr("vitcli.bar.Bar", Bar)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert vit(command, "g1.npy", *COMMANDS[command], "-o", "out.jsonl").code == 0
    assert told[0] == "reading the index"
    assert "loading the model" not in told


def test_numbers_of_things_are_named(vit: Vit, home: Path) -> None:
    dedupe = ("dedupe", "g1.npy", "--kind", "near", "--overwrite", "-o", "out.jsonl")
    np.save(home / "g1.npy", np.ones((3, 4), np.float32))
    assert "1 group; 2 images not kept: 2 near" in vit(*dedupe).err
    assert "one cluster: there are too few different rows" in vit("map", "g1.npy").err
    assert "1 cluster, not 3:" in vit("map", "g1.npy", "--clusters", "3").err
    np.save(home / "g1.npy", np.eye(3, dtype=np.float32)[[0, 0, 1]])
    assert "1 group; 1 image not kept: 1 near" in vit(*dedupe, "--threshold", "0.9").err
    said = "2 clusters: of the numbers tried, from 2 to 2, this one has the best silhouette"
    assert said in vit("map", "g1.npy").err


ROWS = np.eye(3, 4, dtype=np.float32)


def search_job(**given: Any) -> SearchJob:
    return SearchJob(index=("feats.npy",), asked=Asked(like=("0",)), **given)


def map_job(**given: Any) -> MapJob:
    return MapJob(index=("feats.npy",), **given)


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("job", "given", "said"),
    [
        (search_job, {"metric": "l2"}, "cosine, dot"),
        (search_job, {"threshold": NAN}, "a cosine from -1 to 1"),
        (search_job, {"threshold": 1.5}, "a cosine from -1 to 1"),
        (search_job, {"threshold": INFINITY, "metric": "dot"}, "a number"),
        (search_job, {"threshold": "0.5"}, "a cosine"),
        (search_job, {"k": 2.5}, "a number from 1"),
        (search_job, {"k": True}, "a number from 1"),
        (Options, {"linkage": "foo"}, "star, complete, single"),
        (Options, {"linkage": None}, "star, complete, single"),
        (Options, {"keep": "foo"}, "largest, first, oldest, newest"),
        (Options, {"keep": ""}, "largest, first, oldest, newest"),
        (Options, {"kinds": ("zzz",)}, "bytes, pixels, near"),
        (Options, {"kinds": ()}, "bytes, pixels, near"),
        (Options, {"kinds": ("near", 3)}, "bytes, pixels, near"),
        (Options, {"threshold": NAN}, "a cosine from 0 to 1"),
        (Options, {"threshold": -0.1}, "a cosine from 0 to 1"),
        (Options, {"threshold": "high"}, "a cosine from 0 to 1"),
        (map_job, {"metric": "l2"}, "cosine, euclidean"),
        (map_job, {"method": "tsne"}, "pca, umap"),
        (map_job, {"clusters": "foo"}, "a number from 1, auto, or none"),
        (map_job, {"clusters": 2.5}, "a number from 1, auto, or none"),
        (map_job, {"clusters": 0}, "a number from 1, auto, or none"),
        (map_job, {"clusters": None}, "a number from 1, auto, or none"),
        (map_job, {"sort": "zzz"}, "index, distance"),
        (map_job, {"seed": -1}, "a whole number from 0"),
    ],
)
def test_unknown_words_and_numbers_are_refused(
    job: Callable[..., object], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as error:
        job(**given)
    assert said in str(error.value)


@pytest.mark.parametrize("kind", ["zzz", "", " , ", [], ["near", "zzz"]])
def test_unknown_kinds_are_refused(kind: Any) -> None:
    with pytest.raises(UsageError, match="choose from bytes, pixels, near"):
        vitcli.dedupe(ROWS, kind=kind)


def test_numbers_of_numpy_are_numbers() -> None:
    two: Any = np.int64(2)
    half: Any = np.float32(0.5)
    assert len(vitcli.search(ROWS, like=0, k=two)[0].hits) == 2
    assert len(vitcli.search(ROWS, like=0, threshold=half)[0].hits) == 1
    assert vitcli.dedupe(ROWS, threshold=half) == []
    clusters = vitcli.map(ROWS, clusters=two).clusters
    assert clusters is not None and clusters.max() == 1
