"""`vit map`: principal components, k-means, labels, tables and the page."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vitcli
from tests.conftest import Vit
from tests.fixtures.extras import imported, needs
from vitcli.errors import InputError, UsageError, VitError
from vitcli.indexes.index import index_of
from vitcli.render.map_page import shared_lines
from vitcli.tasks.map import kmeans, pca
from vitcli.tasks.map.kmeans import Middles, assign_all, fit
from vitcli.tasks.map.number import choose_number, silhouette
from vitcli.tasks.map.rows import Rows
from vitcli.tasks.map.thumbnails import choose_rows


def quiet(rows: int) -> None: ...


def groups(count: int = 300, width: int = 24, number: int = 5) -> NDArray[np.float32]:
    """Rows around `number` middles that are far apart; the first middles have more."""
    random = np.random.default_rng(1)
    middles = 6 * np.eye(width)[:number]
    weights = np.arange(number, 0, -1) / (number * (number + 1) / 2)
    chosen = random.choice(number, count, p=weights)
    return (middles[chosen] + random.standard_normal((count, width)) * 0.3).astype(np.float32)


def write_index(folder: Path, values: NDArray[Any], paths: list[str]) -> Path:
    np.save(folder / "feats.npy", values)
    lines = [json.dumps({"row": row, "path": path}) for row, path in enumerate(paths)]
    (folder / "feats.index.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "feats.meta.json").write_text('{"model": "tiny"}')
    return folder / "feats.npy"


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("is_wide", [False, True])
def test_principal_components_are_those_of_a_singular_value_decomposition(
    metric: Any, is_wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = groups()
    if is_wide:
        monkeypatch.setattr(pca, "MAX_WIDTH", 8)
    rows = Rows(index_of(values), metric)
    read: list[int] = []
    found = pca.components(rows, 2, 0, read.append)
    assert sum(read) == pca.passes_of(rows.width) * len(values)
    if metric == "cosine":
        values = values / np.linalg.norm(values, axis=1, keepdims=True)
    centred = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(np.sum(found.axes * axes[:2].T, axis=0)) == pytest.approx(1, abs=1e-4)
    assert found.explained == pytest.approx(sizes[:2] ** 2 / np.sum(sizes**2), abs=1e-4)
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in found.axes.T)


def test_rows_that_are_all_equal_are_one_place_and_one_cluster() -> None:
    found = vitcli.map(np.ones((4, 3), np.float32), list("abcd"))
    assert found.explained == (0.0, 0.0)
    assert not found.x.any() and not found.y.any()
    assert found.clusters is not None and not found.clusters.any()
    assert found.distances == pytest.approx(0)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_nearest_middle_is_that_of_fp64_and_the_first_of_equals(metric: Any) -> None:
    values = groups()
    if metric == "cosine":
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    random = np.random.default_rng(0)
    points = values[random.choice(len(values), 8)].astype(np.float64)
    points[3] = points[1]  # the same twice
    points[5] = points[2] + 1e-9  # too close for fp32
    found = Middles(points, metric).assign(values)
    wide = values.astype(np.float64)
    if metric == "cosine":
        plain = (wide[:, None] * points[None]).sum(axis=2).argmax(axis=1)
    else:
        plain = ((wide[:, None] - points[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert not (found == 3).any()
    assert np.array_equal(found, plain)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_k_means_finds_planted_groups_the_largest_first(metric: Any) -> None:
    values = groups()
    rows = Rows(index_of(values), metric)
    middles = fit(kmeans.sample(rows, 5, 0), 5, metric, 0)
    labels, distances = assign_all(rows, middles, quiet)
    assert np.array_equal(labels, values.argmax(axis=1))  # axis 0 has the largest group
    assert (np.diff(np.bincount(labels)) <= 0).all()
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    for cluster in range(5):
        own = (unit if metric == "cosine" else values)[labels == cluster].astype(np.float64)
        middle = own.mean(axis=0)
        plain = np.linalg.norm(own - middle, axis=1)
        if metric == "cosine":
            plain = 1 - own @ (middle / np.linalg.norm(middle))
        assert distances[labels == cluster] == pytest.approx(plain, abs=1e-6)


def test_middles_do_not_depend_on_the_order_of_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    values = groups(500)
    whole = fit(values, 7, "euclidean", 3)
    monkeypatch.setattr(kmeans, "AT_ONCE", 7)
    assert np.array_equal(whole.points, fit(values, 7, "euclidean", 3).points)


def test_more_clusters_than_different_rows_are_fewer() -> None:
    values = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    found = vitcli.map(values, clusters=8)
    assert found.clusters is not None
    assert np.bincount(found.clusters).tolist() == [4, 4, 4]


def test_the_number_of_clusters_has_the_best_silhouette() -> None:
    values = groups()
    assert choose_number(values, "euclidean", 0).number == 5
    gaps = np.linalg.norm(values[:20, None] - values[None, :20], axis=2).astype(np.float64)
    labels = np.array([0] * 9 + [1] * 10 + [2])
    plain = []
    for row in range(20):
        means = [gaps[row, labels == c].sum() / (labels == c).sum() for c in range(3)]
        size = (labels == labels[row]).sum()
        own = means.pop(labels[row]) * size / max(size - 1, 1)
        plain.append(0 if size == 1 else (min(means) - own) / max(min(means), own))
    assert silhouette(gaps, labels) == pytest.approx(np.mean(plain))


def test_a_sample_is_fitted_and_all_rows_are_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "FIT_BYTES", 24 * 4 * 160)
    values = groups()
    rows = Rows(index_of(values))
    vectors = kmeans.sample(rows, 5, 0)
    assert len(vectors) == 160
    labels, _ = assign_all(rows, fit(vectors, 5, "cosine", 0), quiet)
    assert np.array_equal(labels, values.argmax(axis=1))


def test_thumbnails_are_spread_over_clusters() -> None:
    clusters = np.repeat([0, 1, 2], [80, 15, 5])
    distances = np.random.default_rng(0).random(100)
    chosen = choose_rows(clusters, distances, 100, 20, 0)
    assert len(chosen) <= 20 and (np.diff(chosen) > 0).all()
    assert set(clusters[chosen]) == {0, 1, 2}
    assert set(np.argsort(-distances)[:2]) <= set(chosen)
    assert len(choose_rows(None, None, 100, 20, 0)) == 20
    assert len(choose_rows(clusters, distances, 100, 2, 0)) == 2


def test_paths_are_shared_with_the_path_before() -> None:
    names = ["a/1.jpg", "a/12.jpg", "b<\n\\.jpg", "𝄞/x", "𝄞/\udcff"]
    before, restored = "", []
    for line in shared_lines(names):
        shared, rest = line.removesuffix("\n").split(" ", 1)
        units = before.encode("utf-16-le")[: 2 * int(shared)].decode("utf-16-le")
        before = units + json.loads(f'"{rest}"')
        restored.append(before)
    assert restored == [*names[:4], "𝄞/\ufffd"]


@pytest.mark.quick
@pytest.mark.parametrize(
    "format", ["jsonl", "csv", "tsv", pytest.param("parquet", marks=needs("parquet"))]
)
def test_a_table_has_a_row_for_every_image(vit: Vit, tmp_path: Path, format: str) -> None:
    values = groups(40)
    write_index(tmp_path, values, [f"{row % 3}/{row}.jpg" for row in range(40)])
    out = tmp_path / f"map.{format}"
    args = ("map", "feats.npy", "--clusters", "3", "--color", "folders", "-o", out.name)
    ended = vit(*args, "--sort", "distance")
    assert (ended.code, ended.out) == (0, b"")
    rows: list[dict[str, Any]]
    if format == "parquet":
        rows = imported("pyarrow.parquet", "parquet").read_table(out).to_pylist()
    elif format == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        head, *lines = out.read_text().splitlines()
        cut = "," if format == "csv" else "\t"
        rows = [dict(zip(head.split(cut), line.split(cut), strict=True)) for line in lines]
    distances = [float(row["distance"]) for row in rows]
    assert distances == sorted(distances, reverse=True)
    found = vitcli.map(values, clusters=3)
    assert found.clusters is not None
    for row in rows:
        number = int(row["row"])
        assert row["path"] == f"{number % 3}/{number}.jpg" and row["label"] == str(number % 3)
        assert int(row["cluster"]) == found.clusters[number]
        assert float(row["x"]) == pytest.approx(found.x[number], abs=1e-6)
    assert vit(*args).code == 1  # it exists
    assert vit(*args, "--overwrite").code == 0


def test_labels_come_from_an_output_of_classify(vit: Vit, tmp_path: Path) -> None:
    write_index(tmp_path, groups(4), ["./p/0.jpg", "p/1.jpg", "p/2.jpg", "p/3.jpg"])
    lines = [
        {"path": "p/0.jpg", "predictions": [{"label": "cat", "index": 0, "score": 0.9}]},
        {"path": str(tmp_path / "p/1.jpg"), "predictions": [{"label": "dog"}, {"label": "cat"}]},
        {"path": "p/2.jpg", "error": {"type": "NotFound", "message": "no such file"}},
    ]
    (tmp_path / "l.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "l.csv").write_text("path,rank,label\np/0.jpg,1,cat\np/0.jpg,2,x\np/1.jpg,1,dog\n")
    for name in ("l.jsonl", "l.csv"):
        ended = vit("map", "feats.npy", "--clusters", "none", "--color", name)
        assert ended.code == 0
        rows = [json.loads(line) for line in ended.out.splitlines()]
        assert [row["label"] for row in rows] == ["cat", "dog", None, None]
        assert rows[0]["cluster"] is None and rows[0]["distance"] is None
        assert "2 of 4 images have no label" in ended.err
    (tmp_path / "other.csv").write_text("path,label\nelsewhere.jpg,cat\n")
    assert "for none of the 4 images" in vit("map", "feats.npy", "--color", "other.csv").err
    args = ("map", "feats.npy", "--color", "l.csv", "--color-column", "class")
    assert "no column class" in vit(*args).err


@pytest.mark.quick
def test_the_page_has_thumbnails_and_says_which_are_gone(vit: Vit, tmp_path: Path) -> None:
    for row in range(3):
        Image.new("RGB", (200, 100), (row * 90, 50, 50)).save(tmp_path / f"{row}<b>.png")
    write_index(tmp_path, groups(4), [f"{row}<b>.png" for row in range(4)])
    args = ("map", "feats.npy", "-o", "map.html", "-j", "0", "--clusters", "2")
    ended = vit(*args)
    assert ended.code == 0 and "1 of 4 images have no thumbnail (NotFound 1)" in ended.err
    page = (tmp_path / "map.html").read_text()
    assert page.count('<script class="thumbnail"') == 3
    assert "<b>.png" not in page and "http" not in page.replace("http-equiv", "")
    before = (tmp_path / "map.html").read_bytes()
    assert vit(*args, "--overwrite").code == 0
    assert (tmp_path / "map.html").read_bytes() == before


def test_the_page_works_in_a_browser(tmp_path: Path) -> None:
    from tests.fixtures.browser import browser
    from vitcli.render.map_page import MapData, write_map

    clusters = np.arange(30) % 3
    places = np.random.default_rng(0).standard_normal((30, 2))
    paths = [f"a/{row}.jpg" for row in range(30)]
    data = MapData("feats", places[:, 0], places[:, 1], clusters, np.arange(30.0), paths)
    with (tmp_path / "map.html").open("wb") as file:
        write_map(file, data)
    with browser(tmp_path) as page:
        page.open(tmp_path / "map.html")
        assert page.run("paths[29]") == "a/29.jpg"
        assert page.run("rows[0]") == 29  # the oddest
        page.run("$('list').querySelector('button').click()")
        assert page.run("rows.length") == 10
        page.run("clear()")
        page.run("choose([[0, 0], [width, 0], [width, height], [0, height]])")
        assert page.run("text().split('\\n').length") == 31
        page.run("$('search').value = '/1'; $('search').oninput()")
        page.wait("rows.length === 11")
        assert page.complaints == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--clusters", "0"], "--clusters 0"),
        (["--clusters", "many"], "give a number, auto, or none"),
        (["-o", "map.png"], "end it in .html"),
        (["-o", "map.html", "--html", "other.html"], "a page already"),
        (["--sort", "distance", "--clusters", "none"], "needs clusters"),
        (["--color-column", "x"], "add --color FILE"),
        (["--method", "umap"], "pip install 'vitcli[map]'"),
        (["-o", "feats.npy", "--format", "csv", "--overwrite"], "would be overwritten"),
    ],
)
def test_mistakes_are_found(
    vit: Vit,
    tmp_path: Path,
    args: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vitcli.errors.find_spec", lambda name: None)
    write_index(tmp_path, groups(4), list("abcd"))
    ended = vit("map", "feats.npy", *args)
    assert ended.code in (1, 2) and said in ended.err


def test_numbers_that_are_not_finite_and_empty_indices_are_refused() -> None:
    values = groups(4)
    values[2, 1] = np.nan
    with pytest.raises(InputError, match="row 2"):
        vitcli.map(values)
    with pytest.raises(VitError, match="no rows"):
        vitcli.map(np.zeros((0, 4), np.float32))
    with pytest.raises(UsageError):
        vitcli.map("feats.npy", ["a"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("power", [100, 120])
def test_large_numbers_are_mapped_as_small_ones(power: int) -> None:
    values = groups(60)
    plain = vitcli.map(values, metric="euclidean", clusters=3)
    scaled = vitcli.map(values * np.float32(2.0**power), metric="euclidean", clusters=3)
    assert np.array_equal(scaled.clusters, plain.clusters)  # type: ignore[arg-type]
    assert scaled.x / 2.0**power == pytest.approx(plain.x, abs=1e-5)
    assert scaled.distances is not None and plain.distances is not None
    assert scaled.distances / 2.0**power == pytest.approx(plain.distances, abs=1e-5)
    with pytest.raises(InputError, match="a map has 6 decimals"):
        vitcli.map(values * np.float32(2.0**-power), metric="euclidean")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("odd", [[np.nan, 0], [np.inf, 0], [-np.inf, np.inf]])
def test_rows_that_are_not_finite_are_refused_without_a_warning(odd: Any, dtype: str) -> None:
    values = groups(20).astype(dtype)
    values[4, :2] = odd
    for metric in ("cosine", "euclidean"):
        with pytest.raises(InputError, match="row 4"):
            vitcli.map(values, metric=metric)
    with pytest.raises(InputError, match="row 4"):
        vitcli.dedupe(values)


def test_umap_gets_unit_rows_and_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class UMAP:
        def __init__(self, **options: Any) -> None:
            given.update(options)

        def fit_transform(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
            given["norms"] = np.linalg.norm(vectors, axis=1)
            return vectors[:, :2]

    monkeypatch.setattr("vitcli.errors.find_spec", lambda name: object())
    monkeypatch.setitem(__import__("sys").modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    found = vitcli.map(groups(8), method="umap", seed=7, clusters=2)
    assert (given["random_state"], given["n_neighbors"], given["n_jobs"]) == (7, 7, 1)
    assert given["norms"] == pytest.approx(1, abs=1e-6)
    assert found.explained is None and found.x.shape == (8,)
    with pytest.raises(InputError, match="needs 5 images"):
        vitcli.map(groups(3), method="umap", clusters=1)
