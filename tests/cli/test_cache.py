"""`vit cache`: what it lists and clears, what a run uses, and what is never touched."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vit
from vitcli.cache import hold, trusted_folders
from vitcli.runs.lock import LOCK, Lock
from vitcli.tasks.cache.entries import KINDS

KEY, OTHER = "a" * 32, "b" * 32
STAGE = "bkt-out-a.npy-0123abcd"


def write(path: Path, data: bytes = b"x", days: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    for entry in (path, path.parent):
        os.utime(entry, (time.time() - days * 86400,) * 2)
    return path


@pytest.fixture
def cache(tmp_path: Path, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two exports, of which one is old; vectors, features, rates, a hash; an output that was not
    sent; and what is not vitcli's."""
    folder = tmp_path / "cache"
    monkeypatch.setitem(clean_env, "VIT_CACHE", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    about = {"engine": "onnx", "quantize": "'int8'", "model": "org/name", "versions": "x"}
    write(folder / "engines" / KEY / "about.json", json.dumps(about).encode())
    write(folder / "engines" / OTHER / "model.onnx", bytes(1000), days=40)
    write(folder / "features" / f"{KEY}.npz", bytes(50), days=10)
    write(folder / "rates" / f"{KEY[:16]}-bf16.json", bytes(20))
    write(folder / "hashes" / (2 * KEY), bytes(64))
    write(folder / "outputs" / STAGE / "a.npy", bytes(7))
    (folder / "texts").mkdir()
    with sqlite3.connect(folder / "texts" / "vectors.sqlite") as base:
        base.execute("CREATE TABLE vectors (key TEXT PRIMARY KEY, vector BLOB)")
        rows = ((str(n), bytes(4000)) for n in range(20))
        base.executemany("INSERT INTO vectors VALUES (?, ?)", rows)
    base.close()
    write(folder / "outputs" / "mine.csv")  # VIT_CACHE may be a folder of the user's
    write(folder / "features" / "README")
    write(folder / "thesis.tex")
    return folder


def read(vit: Vit, *args: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The record of a run, and the outcome of each entry."""
    ended = vit("cache", *args, "--json")
    assert ended.code == 0, ended.err
    record = json.loads(ended.out)
    return record, {f"{e['kind']}/{e['name']}": e.get("outcome") for e in record["entries"]}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_list_has_each_entry_with_its_size_and_age(vit: Vit, cache: Path) -> None:
    before = files(cache)
    record, found = read(vit)
    assert record["folder"] == str(cache) and "freed" not in record
    assert record["bytes"] == sum(entry["bytes"] for entry in record["entries"])
    assert [*found] == [
        f"exports/{OTHER}",
        f"exports/{KEY}",
        "texts/vectors.sqlite",
        f"features/{KEY}.npz",
        f"rates/{KEY[:16]}-bf16.json",
        f"hashes/{2 * KEY}",
        f"outputs/{STAGE}",
    ]
    by_name = {f"{e['kind']}/{e['name']}": e for e in record["entries"]}
    assert by_name[f"exports/{KEY}"]["about"] == "onnx, int8, org/name"
    assert by_name["texts/vectors.sqlite"]["about"] == "20 vectors"
    assert by_name[f"outputs/{STAGE}"]["about"] == "complete, not sent"
    assert (by_name[f"exports/{OTHER}"]["bytes"], by_name[f"exports/{OTHER}"]["files"]) == (1000, 1)
    age = time.time() - time.mktime(
        time.strptime(by_name[f"exports/{OTHER}"]["used"] + "UTC", "%Y-%m-%dT%H:%M:%SZ%Z")
    )
    assert age + time.timezone == pytest.approx(40 * 86400, abs=60)
    assert files(cache) - {"texts/lock"} == before
    ended = vit("cache", "--older-than", "30d")
    head, [kind, name, *_] = (line.split("\t") for line in ended.out.decode().splitlines())
    assert head == ["kind", "name", "bytes", "files", "used", "about"]
    assert (kind, name) == ("exports", OTHER)


def test_all_is_all_but_outputs(vit: Vit, cache: Path) -> None:
    dry, would = read(vit, "--clear", "all", "--dry-run")
    assert {*would.values()} == {"would be removed"} and f"exports/{KEY}" in would
    assert dry["freed"] > 80_000 and (cache / "engines" / KEY).exists()
    ended = vit("cache", "--clear", "all")
    assert (ended.code, len(ended.out.decode().splitlines())) == (0, 7)
    assert "1 output not sent yet: --clear outputs" in ended.err
    assert "6 entries, " in ended.err and f"removed from {cache}" in ended.err
    assert not any((cache / "engines").iterdir())
    assert files(cache) == {
        f"outputs/{STAGE}/a.npy",
        "outputs/mine.csv",
        "features/README",
        "thesis.tex",
        "texts/lock",
        "texts/vectors.sqlite",
    }
    with sqlite3.connect(cache / "texts" / "vectors.sqlite") as base:
        assert base.execute("SELECT name FROM sqlite_master").fetchall() == []
    base.close()
    assert read(vit, "--clear", "outputs")[1] == {f"outputs/{STAGE}": "removed"}
    assert (cache / "outputs" / "mine.csv").exists()


def test_a_single_entry_and_an_age(vit: Vit, cache: Path) -> None:
    assert read(vit, "--clear", "exports", "--older-than", "30d")[1] == {
        f"exports/{OTHER}": "removed"
    }
    assert read(vit, "--clear", f"features/{KEY}.npz", "--older-than", "2w")[1] == {}
    assert read(vit, "--clear", f"outputs/{STAGE}", "--clear", f"features/{KEY}.npz")[1] == {
        f"outputs/{STAGE}": "removed",
        f"features/{KEY}.npz": "removed",
    }
    ended = vit("cache", "--clear", f"exports/{OTHER}")
    assert ended.code == 1 and f"the cache has no exports/{OTHER}" in ended.err


def test_what_a_run_uses_stays(vit: Vit, cache: Path) -> None:
    """An export by a lock on its folder, an output by its own, texts by the lock of the store."""
    assert hold(cache / "engines" / OTHER)
    assert read(vit, "--older-than", "1h")[1] == {f"features/{KEY}.npz": None}  # it is used now
    lock = Lock(cache / "outputs" / STAGE / LOCK, "s3://bkt/out/a.npy")
    partial = write(cache / "features" / f"{KEY}.npz.1.partial")
    with (cache / "texts" / "lock").open("wb") as texts:
        fcntl.flock(texts, fcntl.LOCK_EX)
        words = ("--clear", "all", "--clear", "outputs")
        for dry in ((), ("--dry-run",)):
            used = {name for name, said in read(vit, *words, *dry)[1].items() if said == "in use"}
            assert used == {
                f"exports/{OTHER}",
                f"features/{partial.name}",
                f"outputs/{STAGE}",
                "texts/vectors.sqlite",
            }
    ended = vit("cache", "--clear", "outputs")
    assert ended.code == 0 and f"is being written by process {os.getpid()}" in ended.err
    lock.release()
    assert read(vit, "--clear", "outputs")[1] == {f"outputs/{STAGE}": "removed"}


def test_no_link_is_followed(vit: Vit, cache: Path, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine" / "x.npy").parent
    (cache / "engines" / ("c" * 32)).symlink_to(mine)
    (cache / "engines" / KEY / "more").symlink_to(mine)
    (cache / "features" / f"{OTHER}.npz").symlink_to(mine / "x.npy")
    (cache / "outputs" / STAGE / LOCK).symlink_to(mine / "lock")
    (cache / "texts" / "lock").symlink_to(mine / "lock")
    record, _ = read(vit)
    assert {e["about"] for e in record["entries"] if e["name"].startswith("c" * 32)} == {"a link"}
    ended = vit("cache", "--clear", "all", "--clear", "outputs", "--json")
    assert ended.code == 3  # the two locks
    failed = [e["kind"] for e in json.loads(ended.out)["entries"] if e["outcome"] == "failed"]
    assert failed == ["texts", "outputs"]
    assert files(mine) == {"x.npy"} and not any((cache / "engines").iterdir())
    (cache / "engines").rmdir()
    write(mine / KEY / "model")
    (cache / "engines").symlink_to(mine)
    ended = vit("cache", "--clear", "exports")
    assert (ended.code, len(ended.out.splitlines())) == (0, 1)
    assert "engines is a link, which is not followed" in ended.err
    assert (mine / KEY / "model").exists()


def test_a_damaged_database_is_removed(vit: Vit, cache: Path) -> None:
    (cache / "texts" / "vectors.sqlite").write_bytes(b"no database " * 100)
    assert read(vit, "--clear", "texts")[0]["freed"] == 1200
    assert not (cache / "texts" / "vectors.sqlite").exists()


def test_an_empty_cache_and_mistakes(vit: Vit, cache: Path, tmp_path: Path) -> None:
    for args, said in (
        (
            ("--clear", "models"),
            "--clear models is nothing that can be cleared\n"
            "  give exports, texts, features, rates, hashes, outputs, all",
        ),
        (("--clear", "exports/.."), "--clear exports/.."),
        (("--clear", "exports/"), "--clear exports/"),
        (
            ("--older-than", "3"),
            "--older-than 3 is not an age\n  give a number with s, m, h, d or w",
        ),
        (("--dry-run",), "--dry-run needs --clear"),
    ):
        ended = vit("cache", *args)
        assert ended.code == 2 and said in ended.err and not ended.out
    cache.rename(tmp_path / "gone")
    record, found = read(vit, "--clear", "all")
    assert (record["bytes"], record["freed"], found) == (0, 0, {})


def test_a_user_without_a_home_folder_names_the_cache(
    vit: Vit, cache: Path, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container may run as a number that no table of users has."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delitem(clean_env, "XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert vit("cache").code == 0
    assert [*trusted_folders("engines")] == [cache / "engines"]
    monkeypatch.setitem(clean_env, "VIT_CACHE", "")
    ended = vit("cache")
    assert [*trusted_folders("engines")] == []
    assert (ended.code, ended.err) == (
        1,
        "vit: there is no folder for the cache: this user has no home folder\n"
        "  VIT_CACHE names a folder for it, HF_HOME one for models of the hub\n",
    )
    found = json.loads(vit("info", "--env", "--json").out)
    assert found["cache"] == {"folder": None, "bytes": dict.fromkeys(KINDS, 0), "free": None}
    assert found["notes"] == ["; ".join(line.strip() for line in ended.err[5:].splitlines())]
    assert vit("info", "--env").code == 0
