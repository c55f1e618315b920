"""Outputs in a bucket (moto's S3, on this machine), with faults on the way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vit
from tests.fixtures.photos import many_photos
from tests.fixtures.store import Way
from tests.fixtures.two_towers import two_towers
from vitcli import stores
from vitcli.errors import Interrupted, OutputError
from vitcli.runs import staging
from vitcli.runs.journal_lines import json_bytes

COMMON = ("-m", "demo", "-j", "0", "-b", "4")
NO_MODEL = ("-m", "/no/such/model", "-j", "0")


@pytest.fixture
def cache(tmp_path: Path, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own."""
    monkeypatch.setitem(clean_env, "VIT_CACHE", str(tmp_path / "cache"))
    many_photos(tmp_path / "p", 10, broken=(5,))
    return tmp_path / "cache"


def there(way: Way, prefix: str) -> dict[str, bytes]:
    """The objects below a prefix of the bucket."""
    found = way.client.list_objects_v2(Bucket="bkt", Prefix=prefix).get("Contents", [])
    names = [entry["Key"] for entry in found]
    return {
        name.removeprefix(prefix): way.client.get_object(Bucket="bkt", Key=name)["Body"].read()
        for name in names
    }


def left(cache: Path) -> list[str]:
    """The files that are not sent."""
    outputs = cache / "outputs"
    return sorted(path.name for path in outputs.rglob("*") if path.is_file())


def sent(way: Way) -> list[str]:
    return [key.removeprefix("PUT ") for key in way.asked if key.startswith("PUT ")]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("classify", "a.jsonl"),
        ("classify", "a.csv"),
        ("classify", "a.parquet"),
        ("embed", "a.npy"),
        ("embed", "a.npz"),
        ("embed", "a.safetensors"),
        ("embed", "a.jsonl"),
        ("embed", "a.parquet"),
    ],
)
def test_the_objects_are_the_files(
    vit: Vit, reached: Way, cache: Path, tmp_path: Path, command: str, name: str
) -> None:
    """Errors and a dropped connection cost a moment. The output has its name last."""
    (tmp_path / "one").mkdir()
    assert vit(command, "p", *COMMON, "-o", f"one/{name}").code == 3
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    reached.faults.update({f"PUT {name}": ["drop", "500"], "PUT a.meta.json": ["503"]})
    prefix = f"{command}/{name}/"
    ended = vit(command, "p", *COMMON, "-o", f"s3://bkt/{prefix}{name}")
    assert ended.code == 3, ended.err
    assert ended.err.splitlines()[-1].endswith(f" -> s3://bkt/{prefix}{name}")
    assert not any(reached.faults.get(f"PUT {file}") for file in files)
    found = there(reached, prefix)
    assert found.keys() == files.keys()
    for file, data in files.items():
        if not file.endswith((".journal", ".meta.json")):  # which tell of the time
            assert found[file] == data
    assert sent(reached)[0] == f"{name}.partial" and sent(reached)[-1] == name
    assert not left(cache)


def test_texts_are_sent_and_replace_images(
    vit: Vit, reached: Way, cache: Path, tmp_path: Path
) -> None:
    two_towers("clip", tmp_path / "clip")
    url = "s3://bkt/texts/a.npy"
    assert vit("embed", "p", "-m", "clip", "--pool", "joint", "-j", "0", "-o", url).code == 3
    assert ".a.npy.journal" in there(reached, "texts/")
    texts = ("embed", "--text", "a cat", "--text", "a dog", "-m", "clip", "-o")
    (tmp_path / "b").mkdir()
    assert vit(*texts, "b/a.npy").code == 0
    ended = vit(*texts, url)
    assert ended.code == 1 and f"{url} exists" in ended.err
    assert vit(*texts, url, "--overwrite").code == 0
    found = there(reached, "texts/")
    assert found.keys() == {"a.npy", "a.index.jsonl", "a.meta.json"}
    for name in ("a.npy", "a.index.jsonl"):
        assert found[name] == (tmp_path / "b" / name).read_bytes()
    assert sent(reached)[-1] == "a.npy"
    assert not left(cache)


def test_what_is_wrong_is_found_before_the_model_is_loaded(
    vit: Vit, reached: Way, cache: Path
) -> None:
    reached.client.put_object(Bucket="bkt", Key="w/index/a.index.jsonl", Body=b"{}")
    reached.client.put_object(Bucket="bkt", Key="w/out/a.npy", Body=b"...")
    reached.faults["PUT closed.npy.partial"] = ["403"] * 9
    for url, code, why in (
        ("s3://bkt/w/out/a.npy", 1, "vit: s3://bkt/w/out/a.npy exists\n  --overwrite replaces"),
        ("s3://bkt/w/index/a.npy", 1, "vit: s3://bkt/w/index/a.index.jsonl exists\n"),
        ("s3://nobody/a.npy", 1, "cannot write to s3://nobody/a.npy: there is no such bucket"),
        ("s3://bkt/closed.npy", 1, "cannot write to s3://bkt/closed.npy: access is denied (403)"),
        ("https://example.org/a.npy", 2, "nothing can be written to an address of the web"),
        ("s3://a.npy", 2, "s3://a.npy names no object\n  such as s3://bucket/folder/feats.npy"),
        ("s3://bkt/w/", 2, "s3://bkt/w/ names no object"),
        ("nothing://bkt/a.npy", 1, "nothing://bkt/a.npy: Protocol not known"),
        ("s3://bkt/a.png", 2, "the suffix of a.png is not a known format"),
    ):
        words = ("--format", "npy") if url.endswith("/") else ()
        ended = vit("embed", "p", *NO_MODEL, "-o", url, *words)
        assert (ended.code, why in ended.err) == (code, True), ended.err
    assert not left(cache)
    assert not [name for name in there(reached, "") if name.endswith(".partial")]


def test_an_interrupted_run_goes_on_here(vit: Vit, reached: Way, cache: Path) -> None:
    """And another machine is told who has begun it."""
    words = ("embed", "p", *COMMON, "-o", "s3://bkt/i/a.npy")
    assert vit(*words[:-1], "one.npy").code == 3
    assert vit(*words, "--max-errors", "0").code == 1
    assert "a.npy.partial" in left(cache) and there(reached, "i/").keys() == {"a.npy.partial"}
    ended = vit(*words)
    assert "holds 8 images of an interrupted run\n  --resume continues it" in ended.err
    ended = vit(*words, "--resume")
    assert ended.code == 3 and "9 of 10 images done, 1 failed, 8 of them before" in ended.err
    assert there(reached, "i/")["a.npy"] == (cache.parent / "one.npy").read_bytes()
    assert not left(cache)


def test_another_machine_is_told_who_has_begun_it(
    vit: Vit, reached: Way, cache: Path, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("embed", "p", *COMMON, "-o", "s3://bkt/m/a.npy")
    assert vit(*words, "--max-errors", "0").code == 1
    monkeypatch.setitem(clean_env, "VIT_CACHE", str(cache.parent / "other"))
    assert "vit: s3://bkt/m/a.npy was begun by process " in (ended := vit(*words)).err
    assert ended.code == 1
    ended = vit(*words, "--resume")
    assert "what it has done is not here" in ended.err and "9 of 10 images done" in ended.err
    assert ended.code == 3 and "a.npy.partial" not in there(reached, "m/")


def test_what_could_not_be_sent_is_whole_and_sent_later(
    vit: Vit, reached: Way, cache: Path
) -> None:
    words = ("embed", "p", *COMMON, "-o", "s3://bkt/f/a.npy")
    reached.faults["PUT a.npy"] = ["500"] * 999
    ended = vit(*words)
    assert ended.code == 1
    assert "vit: cannot send a.npy to s3://bkt/f: " in ended.err
    assert f"the output is whole in {cache}/outputs/bkt-f-a.npy-" in ended.err
    assert left(cache) == [".a.npy.journal", "a.index.jsonl", "a.meta.json", "a.npy"]
    assert "a.npy" not in there(reached, "f/")
    reached.faults.clear()
    assert " is whole, and was not sent to s3://bkt/f\n  --resume sends it" in vit(*words).err
    ended = vit(*words, "--resume")
    assert ended.code == 3 and "s3://bkt/f/a.npy is already complete" in ended.err
    assert vit(*words[:-1], "one.npy").code == 3
    assert there(reached, "f/")["a.npy"] == (cache.parent / "one.npy").read_bytes()
    assert not left(cache)


def test_a_finished_output_is_brought_up_to_date(
    vit: Vit, reached: Way, cache: Path, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another machine. Where nothing is new, nothing is sent; where the run does not come to
    its end, the bucket is as it was, and nothing stays here."""
    words = ("embed", "p", *COMMON, "-o", "s3://bkt/u/a.npy", "--resume")
    assert vit(*words).code == 3
    before = there(reached, "u/")
    monkeypatch.setitem(clean_env, "VIT_CACHE", str(cache.parent / "other"))
    reached.asked.clear()
    ended = vit(*words)
    assert ended.code == 3 and "s3://bkt/u/a.npy is already complete" in ended.err
    assert sent(reached) == ["a.npy.partial"] and there(reached, "u/") == before
    ended = vit(*words, "--l2")
    assert ended.code == 1 and "was made with --l2 False (now True)" in ended.err
    assert there(reached, "u/") == before and not left(cache.parent / "other")
    (cache.parent / "p" / "img-00000.jpg").unlink()
    many_photos(cache.parent / "q", 2)
    ended = vit("embed", "p", "q", *words[2:])
    assert "10 of 11 images done, 1 failed, 9 of them before" in ended.err
    assert vit("embed", "p", "q", *COMMON, "-o", "one.npy").code == 3
    assert there(reached, "u/")["a.npy"] == (cache.parent / "one.npy").read_bytes()
    assert not left(cache.parent / "other")


def test_what_is_newer_in_the_bucket_is_not_replaced_by_what_was_not_sent(
    vit: Vit, reached: Way, cache: Path
) -> None:
    words = ("embed", "p", *COMMON, "-o", "s3://bkt/n/a.npy")
    reached.faults["PUT a.npy"] = ["500"] * 999
    assert vit(*words).code == 1
    reached.faults.clear()
    local = next(cache.glob("outputs/*/a.npy"))
    (cache.parent / "n").mkdir()
    assert vit("embed", "p", *COMMON, "-o", "n/a.npy").code == 3
    for file in (cache.parent / "n").iterdir():
        reached.client.put_object(Bucket="bkt", Key=f"n/{file.name}", Body=file.read_bytes())
    os.utime(local, (1, 1))
    reached.asked.clear()
    assert "s3://bkt/n/a.npy is already complete" in vit(*words, "--resume").err
    assert sent(reached) == ["a.npy.partial"] and not left(cache)


def test_shards_of_a_bucket_are_merged_into_it(vit: Vit, reached: Way, cache: Path) -> None:
    for number in "12":
        words = ("-o", "s3://bkt/s/a.npy", "--shard", f"{number}/2")
        assert vit("embed", "p", *COMMON, *words).code in (0, 3)
    ended = vit("merge", "s3://bkt/s/a-*-of-00002.npy", "-o", "s3://bkt/s/a.npy")
    assert ended.code == 3 and ended.err.endswith("-> s3://bkt/s/a.npy\n"), ended.err
    assert vit("embed", "p", *COMMON, "-o", "one.npy").code == 3
    rows = [
        [json.loads(line)["path"] for line in data.splitlines()]
        for data in (
            there(reached, "s/")["a.index.jsonl"],
            (cache.parent / "one.index.jsonl").read_bytes(),
        )
    ]
    assert rows[0] == rows[1] and not left(cache)
    for words, why in (
        (("s3://bkt/s/a-00001-of-00002.npy", "-o", "b.npy"), "shard 2/2 is missing"),
        (("s3://bkt/s/b-*.npy", "-o", "b.npy"), "no object matches s3://bkt/s/b-*.npy"),
        (("s3://bkt/s/none.npy", "-o", "b.npy"), "s3://bkt/s/none.npy has no record of its run"),
        (("s3://bkt/s/a-*.npy", "-o", "s3://bkt/s/a.npy"), "s3://bkt/s/a.npy exists"),
    ):
        assert why in (ended := vit("merge", *words)).err and ended.code == 1, ended.err


def test_who_is_interrupted_while_sending_goes_on_with_it(
    vit: Vit, reached: Way, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(file: Path, url: str) -> None:
        raise Interrupted(signal.SIGTERM)

    words = ("embed", "p", *COMMON, "-o", "s3://bkt/g/a.npy")
    with monkeypatch.context() as patched:
        patched.setattr(stores, "put", put)
        ended = vit(*words)
    said = (
        "interrupted after all images, on their way to s3://bkt/g/a.npy; continue with: vit embed"
    )
    assert ended.code == 143 and said in ended.err
    assert vit(*words, "--resume").code == 3
    assert "a.npy" in there(reached, "g/") and not left(cache)


def test_one_process_at_a_time_writes_an_object(
    vit: Vit, reached: Way, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "s3://bkt/l/a.npy"
    words = ("embed", "p", *COMMON, "-o", url)
    monkeypatch.setenv("VIT_CACHE", str(cache))
    with staging.staged(stores.Url(url), overwrite=False, note=lambda text: None):
        for more in ((), ("--resume",), ("--overwrite",)):
            ended = vit(*words, *more)
            assert ended.code == 1
            assert f"vit: {url} is being written by process {os.getpid()} on " in ended.err
    assert vit(*words).code == 3


@pytest.mark.slow
def test_several_devices_write_to_a_bucket(vit_process: Vit, reached: Way, cache: Path) -> None:
    words = ("embed", "p", *COMMON, "--devices", "cpu,cpu")
    ended = vit_process(*words, "-o", "s3://bkt/d/a.npy")
    assert ended.code == 3 and ended.err.endswith("-> s3://bkt/d/a.npy\n"), ended.err
    expected = {".a.npy.journal", "a.index.jsonl", "a.meta.json", "a.npy"}
    assert there(reached, "d/").keys() == expected and not left(cache)
    ended = vit_process(*words, "-o", "s3://bkt/e/a.npy", "--shard", "1/1")
    assert {name for name in there(reached, "e/") if name.endswith(".npy")} == {
        "a-00001-of-00002.npy",
        "a-00002-of-00002.npy",
    }, ended.err
    assert not left(cache)


def test_a_journal_names_no_file_of_another_folder(reached: Way, tmp_path: Path) -> None:
    """It comes out of a bucket, and is not ours to trust."""
    names: list[Any] = [["a.partial", name, 1] for name in ("../evil", "/tmp/evil", "a.npy")]
    journal = json_bytes({"fingerprint": {}}) + json_bytes({"finished": names})
    reached.client.put_object(Bucket="bkt", Key="j/.a.npy.journal", Body=journal)
    reached.client.put_object(Bucket="bkt", Key="evil", Body=b"!")
    with pytest.raises(OutputError, match=r"cannot read s3://bkt/j/a.npy: no such object"):
        staging._fetched("s3://bkt/j/a.npy", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".a.npy.journal"]
