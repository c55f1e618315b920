"""Exact search: the rows and scores of a plain numpy program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vitcli.errors import InputError, UsageError
from vitcli.indexes import search
from vitcli.indexes.index import Index, index_of
from vitcli.indexes.parts import RawPart
from vitcli.indexes.search import nearest

Array = NDArray[np.floating]


def plain(rows: Array, queries: Array, metric: str) -> tuple[NDArray[np.int64], Array]:
    """All rows, best first, ties by row, and their scores in fp64."""
    x, q = rows.astype(np.float64), queries.astype(np.float64)
    scores = (q[:, None, :] * x[None]).sum(-1)
    if metric == "cosine":
        size = np.sqrt((x**2).sum(1))
        scores = np.where(size > 0, scores / np.where(size > 0, size, 1), 0)
        scores /= np.sqrt((q**2).sum(1))[:, None]
    order = np.argsort(-scores, axis=1, kind="stable")
    return order, np.take_along_axis(scores, order, 1)


def some(count: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, width), np.float32)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize(("count", "width", "k", "queries"), [(1, 3, 5, 2), (900, 48, 7, 20)])
def test_the_nearest_rows_are_those_of_numpy(
    metric: search.Metric,
    count: int,
    width: int,
    k: int,
    queries: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, rows_each in {"MANY_BYTES": 64, "FEW_BYTES": 64, "PIECE_BYTES": 10}.items():
        monkeypatch.setattr(search, name, 4 * width * rows_each)  # many blocks and pieces
    monkeypatch.setattr(search, "QUERIES", 12)  # 12 are many, and the other 8 are few
    rows, asked = some(count, width), some(queries, width, 1)
    rows[count // 2 :] = rows[: count - count // 2].copy()  # each row twice: ties
    order, scores = plain(rows, asked, metric)
    for number, found in enumerate(nearest(index_of(rows), asked, k, metric=metric)):
        assert found.rows.tolist() == order[number, :k].tolist()
        np.testing.assert_allclose(found.scores, scores[number, :k], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_lengths_that_fp32_cannot_square_do_not_hide_a_row(metric: search.Metric) -> None:
    rows, asked = some(300, 16), some(2, 16, 1)
    rows[7], rows[8], rows[9] = 0, asked[0] * 1e-30, asked[0] * 1e25
    order, scores = plain(rows, asked, metric)
    for number, found in enumerate(nearest(index_of(rows), asked, 300, metric=metric)):
        assert sorted(found.rows.tolist()) == list(range(300))
        np.testing.assert_allclose(
            found.scores, scores[number], rtol=1e-11, atol=1e-12 if metric == "cosine" else 1e-30
        )
    assert set(nearest(index_of(rows), asked, 2)[0].rows.tolist()) == {8, 9}
    del order


def test_equal_rows_come_in_their_order_wherever_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FEW_BYTES", 4 * 24 * 37)
    rows = np.repeat(some(1, 24), 500, axis=0)
    [found] = nearest(index_of(rows), some(1, 24, 1), 40)
    assert found.rows.tolist() == list(range(40))
    assert len(set(found.scores.tolist())) == 1


def test_halves_and_doubles_are_compared_as_they_are_stored() -> None:
    rows, asked = some(200, 16).astype(np.float16), some(1, 16, 1)
    order, scores = plain(rows, asked, "cosine")
    [found] = nearest(index_of(rows), asked, 9)
    assert found.rows.tolist() == order[0, :9].tolist()
    np.testing.assert_allclose(found.scores, scores[0, :9], rtol=1e-12, atol=1e-12)


def test_a_threshold_leaves_out_what_is_below() -> None:
    rows, asked = some(400, 16), some(1, 16, 1)
    order, scores = plain(rows, asked, "cosine")
    [found] = nearest(index_of(rows), asked, 400, threshold=0.2)
    assert found.rows.tolist() == order[0, scores[0] >= 0.2].tolist()


def test_what_has_no_score_is_refused() -> None:
    rows = some(10, 4)
    with pytest.raises(UsageError, match="all zeros"):
        nearest(index_of(rows), np.zeros((1, 4)), 3)
    with pytest.raises(UsageError, match="5 numbers"):
        nearest(index_of(rows), np.ones((1, 5)), 3)
    rows[3, 2] = np.nan
    with pytest.raises(InputError, match="row 3 of the array holds NaN"):
        nearest(index_of(rows), np.ones((1, 4)), 3)


@pytest.mark.parametrize("shift", [0, 1])  # where the array begins in the file
def test_rows_of_a_file_are_those_of_the_array(tmp_path: Path, shift: int) -> None:
    rows, asked = some(5000, 48), some(3, 48, 1)
    file = tmp_path / "rows"
    file.write_bytes(b"x" * shift + rows.tobytes())
    with file.open("r+b") as handle:
        part = RawPart("rows", handle, shift, rows.shape, rows.dtype)
        assert (part.view(10, 4990) is None) == bool(shift)
        found = nearest(Index((part,), index_of(rows).named), asked, 4)
        handle.truncate(rows.nbytes // 2)
        with pytest.raises(InputError, match="rows has been cut off"):
            nearest(Index((part,), index_of(rows).named), asked, 4)
    for one, other in zip(found, nearest(index_of(rows), asked, 4), strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        assert one.scores.tobytes() == other.scores.tobytes()
