"""Which files an index is made of: patterns, odd names, shards; and what a server says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.fixtures.extras import imported, needs
from vitcli import stores
from vitcli.errors import InputError
from vitcli.indexes.files import beside, open_if_there, suffix_of
from vitcli.indexes.index import open_index
from vitcli.indexes.specs import files_of


def save(file: str, rows: int = 1) -> None:
    """An index of some rows."""
    np.save(file, np.eye(4, dtype=np.float32)[:rows])
    lines = (f'{{"row":{row},"path":"{row}"}}\n' for row in range(rows))
    Path(beside(file, ".index.jsonl")).write_text("".join(lines))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("there", "specs", "missing"),
    [
        ("13", ["x-*.npy"], "1 of 3 shards is missing: x-00002-of-00003.npy"),
        ("2", ["x-*.npy"], "2 of 3 shards are missing: x-00001-of-00003.npy, x-00003-of-00003"),
        ("123", ["x-00001-of-00003.npy", "x-00003-of-00003.npy"], "missing: x-00002"),
        ("123", ["x-{00001..00002}-of-00003.npy"], "missing: x-00003"),
        ("12", ["./x-*.npy"], r"missing: \./x-00003"),
    ],
)
def test_a_missing_shard_is_named(there: str, specs: list[str], missing: str) -> None:
    for number in there:
        save(f"x-0000{number}-of-00003.npy")
    with pytest.raises(InputError, match=missing):
        open_index(specs)


def test_a_shard_that_is_named_alone_is_read_alone() -> None:
    for number in "123":
        save(f"x-0000{number}-of-00003.npy")
    notes: list[str] = []
    assert open_index(["x-00002-of-00003.npy"], notes.append).count == 1
    assert notes == ["x-00002-of-00003.npy is one of 3 shards, and the only one that is read"]
    assert open_index(["x-*.npy"], notes.append).count == 3
    assert open_index(["x-*.npy", "./x-00001-of-00003.npy"], notes.append).count == 3
    assert len(notes) == 1


def test_an_unfinished_shard_is_told() -> None:
    save("x-00001-of-00002.npy")
    Path("x-00002-of-00002.npy.partial").touch()
    with pytest.raises(InputError) as caught:
        open_index(["x-*.npy"])
    assert "--resume" in str(caught.value.hint)


@pytest.mark.parametrize("other", ["x.npy", "x-00001-of-00001.npy"])
def test_the_same_images_are_not_taken_twice(other: str) -> None:
    for name in ("x-00001-of-00002.npy", "x-00002-of-00002.npy", other):
        save(name)
    with pytest.raises(InputError, match="have the same images"):
        files_of(["x*.npy"])


def test_shards_that_count_from_0_are_a_set() -> None:
    for number in "01":
        save(f"x-0000{number}-of-00002.npy")
    assert len(files_of(["x-*.npy"])) == 2


@pytest.mark.parametrize("name", ["a?b", "a*b", "a[1]b", "a{1,2}b", "a#b", "a%20b", "a?b=c&d", "?"])
def test_odd_names_are_names(name: str) -> None:
    save(f"{name}.npy", 2)
    assert open_index([f"{name}.npy"]).row_of("1") == 1
    Path(f"in {name}").mkdir()
    save(f"in {name}/x.npy")
    assert files_of([f"in {name}/*.npy"]) == [f"in {name}/x.npy"]


def test_the_query_of_a_url_is_no_part_of_its_name() -> None:
    assert suffix_of("https://host/x.NPY?token=a.b") == ".npy"
    assert beside("https://host/x.npy?t=1", ".meta.json") == "https://host/x.meta.json?t=1"
    assert beside("a?b.npy", ".meta.json") == "a?b.meta.json"


def test_a_name_with_nul_is_an_error() -> None:
    with pytest.raises(InputError, match="NUL"):
        open_index(["a\0.npy"])


@needs("remote")
@pytest.mark.parametrize("name", ["x.npy", "x-*.npy"])
def test_a_refused_connection_is_not_a_missing_file(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "WAIT", 0)
    with pytest.raises(InputError, match="Cannot connect"):
        open_index([f"http://127.0.0.1:1/{name}"])


def test_an_error_of_the_server_is_not_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    aiohttp = imported("aiohttp", "remote")

    monkeypatch.setattr(stores, "WAIT", 0)

    def failing(cause: Exception) -> None:
        def fail() -> None:
            raise FileNotFoundError("x") from cause  # as fsspec does

        stores.tried(fail)

    def answer(status: int) -> Exception:
        request = SimpleNamespace(real_url="u")
        return aiohttp.ClientResponseError(request, (), status=status)  # type: ignore[arg-type]

    for cause, kind in (
        (answer(404), FileNotFoundError),
        (answer(403), PermissionError),
        (KeyError("NoSuchKey"), FileNotFoundError),
    ):
        with pytest.raises(kind):
            failing(cause)
    for cause in (answer(500), aiohttp.ServerDisconnectedError(), TimeoutError()):
        with pytest.raises(OSError, match="after 5 tries") as caught:
            failing(cause)
        assert not isinstance(caught.value, FileNotFoundError)


def test_a_file_that_is_not_there_is_none() -> None:
    assert open_if_there("none.npy") is None
