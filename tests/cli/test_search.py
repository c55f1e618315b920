"""`vit search`: rows against numpy's, each kind of query, formats, errors."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import vitcli
from tests.conftest import Vit
from tests.fixtures.extras import imported
from tests.fixtures.two_towers import two_towers
from tests.fixtures.weights import photo


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, an index of the demo model, and one of a model with words."""
    home = tmp_path_factory.mktemp("search")
    photos = home / "photos"
    photos.mkdir()
    for number in range(6):
        photo(40 + 3 * number, 30 + number).save(photos / f"{number}.png")
    two_towers("clip", home / "clip")
    from vitcli.cli import main

    def embed(model: str, out: str, *more: str) -> None:
        words = ("embed", str(photos), "-m", model, "-o", str(home / out), "-j", "0", *more)
        assert main(words) == 0

    embed("demo", "feats.npy")
    embed(str(home / "clip"), "joint.npy", "--pool", "joint", "--image-size", "64")
    texts = ("--text", "a cat", "--text", "a dog", "-m", str(home / "clip"))
    assert main(("embed", *texts, "-o", str(home / "words.npy"), "-j", "0")) == 0
    return home


def rows_of(text: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def best(home: Path, name: str, vector: np.ndarray, k: int) -> list[tuple[int, float]]:
    rows = np.load(home / name).astype(np.float64)
    scores = rows @ vector / np.linalg.norm(rows, axis=1) / np.linalg.norm(vector)
    return [(int(row), round(float(scores[row]), 6)) for row in np.argsort(-scores)[:k]]


def found(row: dict[str, object]) -> list[tuple[int, float]]:
    return [(item["row"], item["score"]) for item in row["results"]]  # type: ignore[attr-defined]


def test_images_and_rows_find_what_numpy_finds(vit: Vit, home: Path) -> None:
    query = home / "photos" / "2.png"
    ran = vit("search", home / "feats.npy", query, "--like", query, "--like", "4", "-k", "3")
    image, path, number = rows_of(ran.out)
    feats = np.load(home / "feats.npy").astype(np.float64)
    assert (image["kind"], path["kind"]) == ("image", "like")
    assert found(image) == found(path) == best(home, "feats.npy", feats[2], 3)
    assert found(image)[0] == (2, 1.0)
    assert found(number) == best(home, "feats.npy", feats[4], 3)
    assert number["query"] == str(home / "photos" / "4.png")
    ran = vit("search", home / "feats.npy", query, "-k", "2", "--not-itself")
    assert found(rows_of(ran.out)[0]) == best(home, "feats.npy", feats[2], 3)[1:]


def test_texts_are_unit_vectors_added_and_subtracted(vit: Vit, home: Path) -> None:
    words = vitcli.embed(texts=["a red car", "people"], model=str(home / "clip"))
    plus, minus = words.embeddings.astype(np.float64)
    unit = plus / np.linalg.norm(plus) - minus / np.linalg.norm(minus)
    ran = vit("search", home / "joint.npy", "--text", "a red car")
    [row] = rows_of(ran.out)
    assert row["kind"] == "text"
    np.testing.assert_allclose(
        np.array(found(row)), np.array(best(home, "joint.npy", plus, 10)), atol=2e-6
    )
    [row] = rows_of(
        vit("search", home / "joint.npy", "--text", "a red car", "--minus", "people").out
    )
    assert row["query"] == "a red car - people"
    np.testing.assert_allclose(
        np.array(found(row)), np.array(best(home, "joint.npy", unit, 10)), atol=2e-6
    )


def test_an_image_is_embedded_with_the_options_of_the_index(vit: Vit, home: Path) -> None:
    query = home / "photos" / "3.png"
    [row] = rows_of(vit("search", home / "joint.npy", query, "-k", "1").out)
    assert found(row) == [(3, 1.0)]


def test_a_failed_image_is_a_row(vit: Vit, home: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    ran = vit("search", home / "feats.npy", "broken.png", "--like", "0", "-k", "1")
    assert ran.code == 3
    broken, good = rows_of(ran.out)
    assert broken["error"]["type"] == "NotAnImage"  # type: ignore[index]
    assert found(good) == [(0, 1.0)]


def test_formats_say_the_same(vit: Vit, home: Path, tmp_path: Path) -> None:
    pq = imported("pyarrow.parquet", "parquet")
    query = ("search", home / "feats.npy", "--like", "1", "-k", "2")
    [row] = rows_of(vit(*query).out)
    lines = list(csv.DictReader(io.StringIO(vit(*query, "--format", "csv").out.decode())))
    assert [(int(line["row"]), float(line["score"])) for line in lines] == found(row)
    assert [line["rank"] for line in lines] == ["1", "2"]
    assert vit(*query, "-o", "found.parquet").code == 0
    [read] = pq.read_table(tmp_path / "found.parquet").to_pylist()
    assert found(read) == found(row)
    paths = vit(*query, "--paths-only", "-0").out.decode()
    assert paths.split("\0")[:2] == [item["path"] for item in row["results"]]  # type: ignore[attr-defined]
    assert vit(*query, "-o", "found.jsonl").code == 0
    again = vit(*query, "-o", "found.jsonl")
    assert again.code == 1 and "exists" in again.err and "--resume" not in again.err


def test_vectors_of_a_file_are_queries(vit: Vit, home: Path, tmp_path: Path) -> None:
    feats = np.load(home / "feats.npy")
    np.save(tmp_path / "q.npy", np.stack([feats[5], np.zeros_like(feats[0])]))
    ran = vit("search", home / "feats.npy", "--vectors", "q.npy", "-k", "1")
    first, second = rows_of(ran.out)
    assert (found(first), first["query"]) == ([(5, 1.0)], "0")
    assert "all zeros" in second["error"]["message"]  # type: ignore[index]


def test_rows_of_one_direction_are_ties_with_score_1() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal(301).astype(np.float32)
    paths = [f"{row}.png" for row in range(40)]
    feats = np.stack([one] * 40)
    [found] = vitcli.search(feats, paths=paths, like=7, k=40, threshold=1)
    assert [(hit.row, hit.score) for hit in found.hits] == [(row, 1.0) for row in range(40)]
    longer = feats * rng.integers(1, 9, (40, 1)).astype(np.float32)
    [found] = vitcli.search(longer, paths=paths, like=7, k=9)
    assert [hit.row for hit in found.hits] == list(range(9))


def test_many_results_are_written_a_few_at_a_time(
    home: Path, tmp_path: Path, vit: Vit, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = ("search", home / "feats.npy", "--vectors", home / "feats.npy", "-k", "3")
    whole = vit(*query).out
    monkeypatch.setattr("vitcli.tasks.search.search.MAX_FOUND", 9)
    monkeypatch.setattr("vitcli.tasks.search.search.MAX_SHOWN", 6)
    assert vit(*query).out == whole


def test_not_itself_tells_of_images_outside_the_index(vit: Vit, home: Path, tmp_path: Path) -> None:
    photo(50, 40).save(tmp_path / "other.png")
    ran = vit("search", home / "feats.npy", "other.png", "--not-itself", "-k", "1")
    assert ran.code == 0
    assert "1 of 1 images are not in" in ran.err and "other.png" in ran.err


def test_a_page_shows_the_results(vit: Vit, home: Path, tmp_path: Path) -> None:
    ran = vit("search", home / "feats.npy", "--like", "1", "-k", "2", "--html", "s.html")
    assert (ran.code, ran.out) == (0, b"")
    page = (tmp_path / "s.html").read_text()
    assert page.count('class="one"') == 1 and "/9j/" in page  # how a JPEG begins


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("{}/feats.npy",), "nothing to search for"),
        (("{}/feats.npy", "--text", "cat"), "not of the joint space"),
        (("{}/feats.npy", "--minus", "cat", "--like", "1"), "--minus has no effect"),
        (("{}/feats.npy", "--like", "none.png"), "is not in"),
        (("{}/feats.npy", "--like", "6"), "has 6 rows"),
        (("{}/feats.npy", "{}/photos/1.png", "-m", "{}/clip"), "is not the model of"),
        (("{}/feats.npy", "--vectors", "{}/joint.npy"), "numbers a row"),
        (("none.npy", "--like", "1"), "no such file"),
        (("{}/feats.npy", "--vectors", "{}/feats.npy", "--not-itself"), "--not-itself has no"),
        (("{}/words.npy", "--like", "1", "--paths-only"), "texts, which have no paths"),
        (("{}/feats.npy", "--like", "1", "-o", "{}/feats.npy", "--overwrite"), "index"),
    ],
)
def test_mistakes_are_named(vit: Vit, home: Path, words: tuple[str, ...], why: str) -> None:
    ran = vit("search", *(word.format(home) for word in words))
    assert ran.code in (1, 2)
    assert why in ran.err


def test_python_gets_hits(home: Path) -> None:
    feats = np.load(home / "feats.npy")
    paths = [f"{row}.png" for row in range(6)]
    [one, two] = vitcli.search(feats, paths=paths, like=["2.png", 4], k=2)
    assert (one.query, one.kind, one.hits[0].path) == ("2.png", "like", "2.png")
    assert [(hit.row, round(hit.score, 6)) for hit in two.hits] == best(
        home, "feats.npy", feats[4].astype(np.float64), 2
    )
    [found] = vitcli.search(home / "feats.npy", vectors=feats[:1], k=1)
    assert found.hits[0].row == 0


def test_a_number_is_a_row_and_a_text_a_path_first() -> None:
    paths = ["2", "1", "0"]
    for like, row in ((0, 0), (np.array(2), 2), ("2", 0), (np.array([1]), 1)):
        [found] = vitcli.search(np.eye(3, dtype=np.float32), paths=paths, like=like, k=1)
        assert found.hits[0].row == row


def test_lines_of_vectors_are_queries(vit: Vit, home: Path, tmp_path: Path) -> None:
    rows = np.load(home / "feats.npy").tolist()
    lines = ({"path": f"{number}.jpg", "embedding": row} for number, row in enumerate(rows))
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = vit("search", home / "feats.npy", "--vectors", "q.jsonl", "-k", "1")
    assert [found(row)[0][0] for row in rows_of(ran.out)] == list(range(6)), ran.err
