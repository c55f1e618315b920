"""Approximate search: scores that are exact, and a graph that follows the files of the index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import Vit
from tests.fixtures.extras import imported
from vitcli.errors import InputError, OutputError
from vitcli.indexes.approximate import propose, read_stamp
from vitcli.indexes.index import open_index
from vitcli.indexes.search import nearest
from vitcli.indexes.specs import files_of


def write(folder: Path, name: str, count: int) -> None:
    """The first rows of one random matrix, among them a row of zeros, with their names."""
    rows = np.random.default_rng(0).standard_normal((count, 16), np.float32)
    rows[3] = 0
    np.save(folder / f"{name}.npy", rows)
    lines = [json.dumps({"row": row, "path": f"{name}/{row}.png"}) for row in range(count)]
    (folder / f"{name}.index.jsonl").write_text("\n".join(lines) + "\n")


def test_a_missing_package_and_a_dot_product_are_told(
    vit: Vit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a", 50)
    monkeypatch.setattr("vitcli.errors.find_spec", lambda name: None)
    query = ("search", "a.npy", "--like", "1", "--approximate")
    ran = vit(*query)
    assert ran.code == 2 and "pip install 'vitcli[index]'" in ran.err
    ran = vit(*query, "--metric", "dot")
    assert ran.code == 2 and "compares cosines" in ran.err


def test_scores_are_exact_and_the_graph_follows_the_index(
    vit: Vit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usearch = imported("usearch.index", "index")
    write(tmp_path, "a", 400)
    write(tmp_path, "b", 300)
    files = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    queries = np.random.default_rng(1).standard_normal((9, 16))
    done: list[str] = []

    def check(*more: str) -> None:
        """Nearly all rows of exact search, with its very scores; and what was done for it."""
        index = open_index(files)
        done.clear()
        ours = propose(index, queries, 10, step=lambda what, *_: done.append(what.split()[1]))
        hits = 0
        for one, true in zip(ours, nearest(index, queries, index.count), strict=True):
            scores = dict(zip(true.rows.tolist(), true.scores.tolist(), strict=True))
            assert one.scores.tolist() == [scores[row] for row in one.rows.tolist()]
            assert one.scores.tolist() == sorted(one.scores, reverse=True)
            hits += len(set(one.rows.tolist()) & set(true.rows[:10].tolist()))
        assert hits >= 81  # of 90
        assert done == list(more)

    check("added", "added")
    check()
    write(tmp_path, "a", 450)
    check("compared", "added")
    stamp = read_stamp(tmp_path / "a.usearch")
    assert stamp is not None and stamp.count == 450
    shutil.copy(tmp_path / "a.npy", tmp_path / "c.npy")
    (tmp_path / "c.npy").replace(tmp_path / "a.npy")
    check("compared")
    rows = np.load(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", rows[::-1])
    check("compared", "added")
    write(tmp_path, "a", 100)
    check("added")
    ran = vit("search", files[0], "--index", files[1], "--like", "305", "-k", "3", "--approximate")
    [row] = [json.loads(line) for line in ran.out.splitlines()]
    assert row["results"][0] == {"path": "b/205.png", "score": 1.0, "row": 305}
    assert "approximate" in ran.err
    ran = vit("search", files[0], "--like", "1", "--approximate", "--ray")
    assert ran.code == 2 and "exclude each other" in ran.err
    rows = np.load(tmp_path / "b.npy")
    np.savez_compressed(tmp_path / "b.npz", embeddings=rows)
    files[1] = str(tmp_path / "b.npz")
    assert [Path(file).name for file in files_of([str(tmp_path / "b*")])] == ["b.npy", "b.npz"]
    made = (tmp_path / "b.usearch").stat()
    check("compared")
    assert (tmp_path / "b.usearch").stat() == made
    with monkeypatch.context() as broken, pytest.raises(InputError, match=r"a\.usearch is damaged"):
        broken.setattr(usearch.Index, "search", lambda *_: SimpleNamespace(keys=np.array([999])))
        propose(open_index(files), queries, 10)
    (tmp_path / "a.usearch").write_bytes(b"mine")
    with pytest.raises(OutputError, match="is not what"):
        propose(open_index(files), queries, 10)
    assert (tmp_path / "a.usearch").read_bytes() == b"mine"
    assert not list(tmp_path.glob("*.partial"))
