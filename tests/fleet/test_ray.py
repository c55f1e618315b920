"""`--ray`: shards on the workers of a cluster, the rows of one, whatever becomes of a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import numpy as np
import pytest

from tests.conftest import Ended, Vit
from tests.faults.rules import contents
from tests.faults.test_resume import assert_same_rows
from tests.fixtures.extras import missing, needs
from tests.fixtures.photos import many_photos
from tests.fixtures.ports import free_port
from tests.fixtures.scale import Shell, block
from tests.fixtures.store import Way
from tests.fixtures.two_towers import two_towers
from vitcli import errors
from vitcli.cli.options.parse import with_address
from vitcli.fleet import cluster
from vitcli.fleet import ray as fleet

DEMO = ("-m", "demo", "-j", "0", "-b", "8")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 of them, three broken. Not to be changed."""
    folder = tmp_path_factory.mktemp("photos")
    many_photos(folder, 300, broken=(3, 100, 299))
    return folder


@needs("ray")
@pytest.mark.slow
def test_the_rows_are_those_of_one_process(
    vit: Vit, two_workers: str, photos: Path, tmp_path: Path
) -> None:
    listed = "\n".join(str(path) for path in sorted(photos.iterdir())).encode()
    shared = ("classify", "-", *DEMO, "--ray", "--summary", "run.json", "-o", "two.jsonl")
    ended = vit(*shared, input=listed)
    assert ended.code == 3, ended.err
    assert len(ended.err.splitlines()) == 4  # the failures, and the summary
    assert "297 of 300 images done, 3 failed in " in ended.err
    report = json.loads((tmp_path / "run.json").read_bytes())
    assert (report["done"], report["failed"], report["exit_code"]) == (297, 3, 3)
    assert report["failures"] == {"NotAnImage": 2, "DecodeError": 1}
    assert vit("classify", photos, *DEMO, "-o", "one.jsonl").code == 3
    assert_same_rows(tmp_path / "two.jsonl", tmp_path / "one.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir() if "two" in p.name) == [
        ".two.jsonl.journal",
        "two.jsonl",
    ]
    again = vit(*shared, input=listed)
    assert again.code == 1 and "two.jsonl exists" in again.err
    before = contents(tmp_path / "two.jsonl")
    assert "is already complete" in vit(*shared, "--resume", input=listed).err
    assert contents(tmp_path / "two.jsonl") == before


@needs("ray")
def test_a_cluster_finds_what_one_process_finds(
    vit: Vit, two_workers: str, photos: Path, tmp_path: Path
) -> None:
    assert vit("embed", photos, *DEMO, "-o", "x.npy").code == 3
    query = ("search", "x.npy", "--like", "0", "--like", "5", "-k", "20")
    alone, shared = vit(*query), vit(*query, "--ray")
    assert (shared.code, shared.out) == (0, alone.out) and alone.out
    nan = np.load(tmp_path / "x.npy")
    nan[3, 1] = np.nan
    np.save(tmp_path / "x.npy", nan)
    assert "row 3 of" in vit(*query, "--ray").err


@needs("ray")
@pytest.mark.slow
def test_classes_in_words_are_the_same_on_every_worker(
    vit: Vit, two_workers: str, photos: Path, tmp_path: Path
) -> None:
    two_towers("clip", tmp_path / "clip")
    listed = "\n".join(str(path) for path in sorted(photos.iterdir())[4:40]).encode()
    args = ("classify", "-", "-m", tmp_path / "clip", "--classes", "cat, dog", "-j", "0")
    shared = vit(*args, "--ray", "-o", "two.jsonl", input=listed)
    assert shared.code == 0, shared.err
    assert vit(*args, "-o", "one.jsonl", input=listed).code == 0
    assert_same_rows(tmp_path / "two.jsonl", tmp_path / "one.jsonl")


@needs("ray")
@pytest.mark.slow
def test_the_shard_of_a_worker_that_is_killed_goes_on_in_another(
    vit: Vit, two_workers: str, photos: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        """Whoever has written some rows, in the middle of its shard."""
        while not killed:
            for journal in tmp_path.glob("two-*.partial.journal"):
                lock = journal.with_suffix(".lock")
                try:
                    if journal.stat().st_size > 2000:
                        killed.append(json.loads(lock.read_bytes())["pid"])
                        os.kill(killed[0], signal.SIGKILL)
                        return
                except (OSError, ValueError):  # it has just been done
                    continue
            time.sleep(0.005)

    killer = Thread(target=kill_one, daemon=True)
    killer.start()
    ended = vit("embed", photos, *DEMO, "-b", "1", "--ray", "-o", "two.npy")
    killer.join(10)
    assert killed and (ended.code, ended.out) == (3, b""), ended.err
    assert "a worker of the Ray cluster was lost; shard " in ended.err
    assert " is resumed by another" in ended.err
    assert "of them before" not in ended.err
    assert vit("embed", photos, *DEMO, "-b", "1", "-o", "one.npy").code == 3
    assert_same_rows(tmp_path / "two.npy", tmp_path / "one.npy")


@needs("ray")
@pytest.mark.slow
def test_what_was_done_before_an_end_is_taken_up(
    vit: Vit, two_workers: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many shards as before, also where the cluster is another by now."""
    shared = ("classify", photos, *DEMO, "--ray", "-o", "two.jsonl")
    stopped = vit(*shared, "--on-error", "stop")
    assert stopped.code == 1 and "images failed, and none is allowed" in stopped.err
    [*begun] = tmp_path.glob("two-*-of-00008.jsonl*")
    assert begun and not (tmp_path / "two.jsonl").exists()
    has_one_processor(monkeypatch)
    ended = vit(*shared, "--resume")
    assert ended.code == 3 and "of them before" in ended.err
    assert vit("classify", photos, *DEMO, "-o", "one.jsonl").code == 3
    assert_same_rows(tmp_path / "two.jsonl", tmp_path / "one.jsonl")


@needs("ray")
@pytest.mark.slow
def test_a_cluster_that_others_have_started_stays(
    vit: Vit, vit_process: Vit, clean_env: dict[str, str], tmp_path: Path
) -> None:
    """It wants a token, as `ray start` does where there is one: so does a run before it."""
    photos = tmp_path / "photos"
    many_photos(photos, 40, broken=(3,))
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    once = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # a second between the tries to connect
    env = {**cluster.QUIET, **once, "RAY_AUTH_TOKEN_PATH": str(token)}
    address = f"127.0.0.1:{free_port()}"
    with TemporaryDirectory(prefix="ray") as folder:  # short: it holds sockets
        start = ["-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "1"]
        start += ["--port", address.partition(":")[2], "--temp-dir", folder]
        start += ["--include-dashboard=false", "--no-monitor"]
        with (tmp_path / "said").open("wb") as said:
            head = subprocess.Popen(
                [sys.executable, *start], env={**clean_env, **env}, stdout=said, stderr=said
            )
        try:
            run = ("classify", photos, *DEMO, "-o")
            deadline = time.monotonic() + 60
            while b"runtime started" not in (tmp_path / "said").read_bytes():
                assert head.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            ended = vit_process(*run, "ray-x.jsonl", "--ray", address, env=env)
            assert ended.code == 3 and head.poll() is None, ended.err
            assert "39 of 40 images done, 1 failed" in ended.err
            assert vit(*run, "x.jsonl").code == 3
            assert_same_rows(tmp_path / "ray-x.jsonl", tmp_path / "x.jsonl")
            wrong = {**env, "RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "f" * 64}
            refused = vit_process("embed", photos, "-o", "y.npy", "--ray", address, env=wrong)
            assert_one_line(refused, f"no Ray cluster at {address}: it ")
        finally:
            head.terminate()
            head.wait(30)


@needs("ray")
@pytest.mark.slow
def test_what_is_waited_for_is_said(
    vit: Vit, two_workers: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    class Other:
        def is_there(self) -> bool:
            return True

    describe = fleet._Actors._describe_wait

    def describe_then_leave(workers: fleet._Actors) -> str:
        text = describe(workers)
        ray.kill(other)
        return text

    monkeypatch.setattr(fleet._Actors, "_describe_wait", describe_then_leave)
    monkeypatch.setattr(fleet, "SECONDS_TO_START", 0.2)
    monkeypatch.setattr(fleet, "MOST_SHARDS", 1)  # one worker is enough
    other = ray.remote(Other).options(num_cpus=2).remote()
    assert ray.get(other.is_there.remote(), timeout=60)
    ended = vit("classify", photos, *DEMO, "--ray", "-o", "x.csv")
    assert ended.code == 3
    wanted = "waiting for a processor on the Ray cluster, which has 0 of 2 CPUs free"
    assert wanted in ended.err


@needs("ray")
@pytest.mark.slow
def test_a_cluster_of_its_own_is_silent_and_ends_with_the_run(
    vit: Vit, vit_process: Vit, tmp_path: Path
) -> None:
    examples = Path(__file__).parents[2] / "examples"
    env = {"RAY_ADDRESS": "local", "RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}
    ended = vit_process("classify", examples, "-m", "demo", "--ray", "-o", "out.csv", env=env)
    assert ended.code == 0, ended.err
    assert len(ended.err.splitlines()) == 1 and ended.err.startswith("vit: 10 images in ")
    missing = vit("classify", examples, "--ray", "127.0.0.1:1", "-o", "x.csv")
    assert_one_line(missing, "no Ray cluster at 127.0.0.1:1")


@needs("ray")
@pytest.mark.slow
def test_the_merged_output_goes_into_a_bucket(
    vit: Vit,
    two_workers: str,
    reached: Way,
    clean_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Once, and nothing of the shards with it. What is whole is found there again."""
    has_one_processor(monkeypatch)
    many_photos(tmp_path / "p", 10, broken=(5,))
    run = ("embed", "p", *DEMO, "-o")
    monkeypatch.setitem(clean_env, "VIT_CACHE", str(tmp_path / "cache"))
    shared = (*run, "s3://bkt/ray/one.npy", "--ray")
    ended = vit(*shared)
    assert ended.code == 3 and ended.err.endswith("-> s3://bkt/ray/one.npy\n"), ended.err
    assert vit(*run, "one.npy").code == 3
    found = reached.client.list_objects_v2(Bucket="bkt", Prefix="ray/")["Contents"]
    names = {entry["Key"].removeprefix("ray/") for entry in found}
    assert names == {".one.npy.journal", "one.index.jsonl", "one.meta.json", "one.npy"}
    (tmp_path / "got").mkdir()
    for name in names:
        reached.client.download_file("bkt", f"ray/{name}", str(tmp_path / "got" / name))
    assert_same_rows(tmp_path / "got" / "one.npy", tmp_path / "one.npy")
    assert not [path for path in (tmp_path / "cache" / "outputs").rglob("*") if path.is_file()]
    reached.asked.clear()
    again = vit(*shared, "--resume")
    assert again.code == 3 and "one.npy is already complete" in again.err
    sent = [key for key in reached.asked if key.startswith("PUT ")]
    assert sent == ["PUT one.npy.partial"]


@needs("ray")
@pytest.mark.slow
def test_the_commands_of_docs_scale_do_their_work(shell: Shell, two_workers: str) -> None:
    """As those of other schedulers do in tests/test_scale.py. The cluster wants its token: a run
    that is not told so tries without one for 20 seconds."""
    env = {"RAY_ADDRESS": two_workers, "RAY_AUTH_MODE": "token"}
    said = shell(block("# Ray: on any node"), **env)
    assert said.startswith("vit: 10 images in ") and len(said.splitlines()) == 1
    shell.check("ray.npy")
    shell(block("# Ray: one run for each part"), **env)
    parts, one = np.load(shell.folder / "ray-000.npy"), np.load(shell.folder / "one.npy")
    np.testing.assert_allclose(parts, one[:4], atol=1e-6)


def test_mistakes_are_told_before_anything_starts(
    vit: Vit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = Path(__file__).parents[2] / "examples"
    run = ("classify", examples, "-m", "demo", "--ray")
    for more, code, said in (
        (("--devices", "cpu,cpu"), 2, "--devices is for one machine"),
        (("-o", "x.jsonl", "--device", "cuda:1"), 2, "Ray assigns the devices"),
        (("-o", "x.jsonl", "--html", "x.html"), 2, "a page is made of all images"),
        (("-o", "x.parquet"), 2, "Parquet files are not merged"),
        ((), 2, "each worker writes a shard, which is a file"),
    ):
        ended = vit(*run, *more)
        if not missing("ray") or "--devices" in more:
            assert (ended.code, said in ended.err) == (code, True), ended.err
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    ended = vit(*run, "-o", "x.jsonl")
    assert_one_line(ended, "vit: --ray needs ray: pip install 'vitcli[ray]'")
    assert not list(tmp_path.iterdir())


def has_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker does all shards."""
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})


def assert_one_line(ended: Ended, said: str) -> None:
    assert (ended.code, said in ended.err.splitlines()[0]) == (1, True), ended.err


@pytest.mark.parametrize(
    ("words", "understood"),
    [
        ("a --ray", "a --ray auto"),
        ("--ray a -o x", "--ray auto a -o x"),
        ("--ray head:6379 a", "--ray head:6379 a"),
        ("--ray ray://head:10001 a", "--ray ray://head:10001 a"),
        ("a -- --ray b", "a -- --ray b"),
    ],
)
def test_an_address_is_told_from_an_input(words: str, understood: str) -> None:
    assert with_address(words.split()) == understood.split()
