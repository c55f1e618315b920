"""`--devices`: a process for each, the rows of one, whatever becomes of a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vitcli
from tests.conftest import Vit
from tests.faults.rules import contents, environment
from tests.faults.test_resume import assert_same_rows
from tests.fixtures.forks import ForkServer
from tests.fixtures.photos import many_photos
from tests.fixtures.ports import free_port
from vitcli.errors import UsageError
from vitcli.fleet.coordinate import TRIES

DEMO = ("-m", "demo", "-j", "0", "-b", "8")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 of them, three broken. Not to be changed."""
    folder = tmp_path_factory.mktemp("photos")
    many_photos(folder, 300, broken=(3, 100, 299))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("list_on_stdin", [("-",), ("--files-from", "-")], ids=" ".join)
def test_two_devices_give_the_rows_of_one(
    vit: Vit,
    photos: Path,
    tmp_path: Path,
    list_on_stdin: tuple[str, ...],
    request: pytest.FixtureRequest,
) -> None:
    """The children are interpreters of their own in one case, and forks in the other."""
    if len(list_on_stdin) > 1:
        request.getfixturevalue("warm")
    listed = "\n".join(str(path) for path in sorted(photos.iterdir())).encode()
    two = (
        *list_on_stdin,
        *DEMO,
        "--devices",
        "cpu,cpu",
        "--summary",
        "run.json",
        "-o",
        "two.jsonl",
    )
    ended = vit("classify", *two, input=listed)
    assert ended.code == 3, ended.err
    assert "297 of 300 images done, 3 failed" in ended.err
    assert "NotAnImage" in ended.err and "DecodeError" in ended.err
    report = json.loads((tmp_path / "run.json").read_bytes())
    assert (report["done"], report["failed"], report["exit_code"]) == (297, 3, 3)
    assert vit("classify", photos, *DEMO, "-o", "one.jsonl").code == 3
    assert_same_rows(tmp_path / "two.jsonl", tmp_path / "one.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir() if "two" in p.name) == [
        ".two.jsonl.journal",
        "two.jsonl",
    ]
    before = contents(tmp_path / "two.jsonl")
    assert vit("classify", *two, input=listed).code == 1
    assert contents(tmp_path / "two.jsonl") == before


@pytest.mark.slow
def test_what_a_process_has_done_is_kept(
    vit: Vit, vits: ForkServer, photos: Path, tmp_path: Path
) -> None:
    """An interruption is for all. One that is killed is replaced, and named when it was killed too
    often and the others have ended."""
    words = ("embed", str(photos), *DEMO, "-b", "1", "-o", "two.npy", "--devices", "cpu,cpu")
    journal = tmp_path / "two-00001-of-00002.npy.partial.journal"

    def struck(kills: int, *more: str) -> tuple[int, str]:
        done = journal.stat().st_size if journal.exists() else 0
        run = vits.start(*words, *more, cwd=tmp_path)
        while not journal.exists() or journal.stat().st_size < done + 2000:  # the first is at work
            assert is_alive(run.pid), run.err
            time.sleep(0.01)
        if not kills:
            run.kill(signal.SIGINT)
        killed: set[int] = set()
        while len(killed) < kills:
            assert is_alive(run.pid), run.err
            pid = holder(journal.with_suffix(".lock"))
            if pid is not None and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            time.sleep(0.01)
        code = run.wait()
        assert "Traceback" not in run.err
        return code, run.err

    code, said = struck(0)
    assert code == -signal.SIGINT
    assert said.startswith("vit: interrupted after ") and "continue with: vit embed" in said
    assert not (tmp_path / "two.npy").exists()
    code, said = struck(TRIES, "--resume")
    assert code == 1 and not (tmp_path / "two.npy").exists()
    assert f"shard 1/2 was lost {TRIES} times" in said
    assert "the process on cpu has failed: it was killed by signal 9" in said
    assert "repeat with --resume" in said
    assert (tmp_path / "two-00002-of-00002.npy").exists()

    other = vit(*words[:-1], "cpu,cpu,cpu", "--resume")
    assert other.code == 1 and "another number of devices" in other.err
    code, said = struck(1, "--resume")
    assert code == 3 and "of them before" in said
    assert "was killed by signal 9" in said and "; shard 1/2 is resumed by another" in said
    assert vit("embed", photos, *DEMO, "-b", "1", "-o", "one.npy").code == 3
    assert_same_rows(tmp_path / "two.npy", tmp_path / "one.npy")


@pytest.mark.slow
def test_no_process_outlives_the_one_that_shares(
    vits: ForkServer, photos: Path, tmp_path: Path
) -> None:
    words = ("embed", str(photos), *DEMO, "-b", "1", "-o", "two.npy", "--devices", "cpu,cpu")
    words += ("--image-size", "160")  # so that no process ends before the other has begun
    run = vits.start(*words, cwd=tmp_path)
    journals = [tmp_path / f"two-0000{n}-of-00002.npy.partial.journal" for n in (1, 2)]
    while not all(j.exists() and j.stat().st_size > 1000 for j in journals):
        assert is_alive(run.pid), run.err
        time.sleep(0.005)
    pids = [json.loads(j.with_suffix(".lock").read_bytes())["pid"] for j in journals]
    run.kill()
    run.wait()
    deadline = time.monotonic() + 8  # they speak every ten seconds, which would end them, too
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert all(journal.exists() for journal in journals)  # they have not come to their end


def holder(lock: Path) -> int | None:
    """The process that writes an output."""
    try:
        return int(json.loads(lock.read_bytes())["pid"])
    except (OSError, ValueError):
        return None


def is_alive(pid: int) -> bool:
    """A zombie is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_mistakes_are_told_before_anything_starts(vit: Vit, photos: Path, tmp_path: Path) -> None:
    for devices, code, said in (
        ("cpu,cpu", 2, "each device writes a shard, which is a file"),
        ("all", 1, "there is no CUDA device here"),
        (",", 2, "give all, or numbers"),
    ):
        ended = vit("classify", photos, *DEMO, "--devices", devices)
        assert (ended.code, said in ended.err) == (code, True), ended.err
    assert vit("classify", photos, *DEMO, "-q", "--devices", "cpu").code == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_python_gets_the_rows_of_one_process(photos: Path) -> None:
    paths = [str(path) for path in sorted(photos.iterdir())[:20]]
    one = vitcli.embed(paths, model="demo", workers=0, batch_size=1)
    two = vitcli.embed(paths, model="demo", workers=0, batch_size=1, devices=["cpu", "cpu"])
    assert two.embeddings.tobytes() == one.embeddings.tobytes() and two.paths == one.paths
    assert two.failures == one.failures and len(two.failures) == 1
    assert two.meta.keys() == one.meta.keys() and two.meta["images"] == one.meta["images"] == 19
    model = vitcli.load("demo")
    with pytest.raises(UsageError, match="and demo is loaded here"):
        vitcli.classify(paths, model=model, devices=["cpu", "cpu"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "suffix", "by"),
    [("embed", ".npy", "torchrun"), ("classify", ".jsonl", "its environment")],
)
def test_torchrun_gives_each_process_its_shard(
    vit: Vit, vits: ForkServer, tmp_path: Path, command: str, suffix: str, by: str
) -> None:
    """Of good images: it takes exit code 3 for a failure, and ends the others. It tells a process
    its rank in the environment, and nothing else."""
    photos = tmp_path / "good"
    many_photos(photos, 40)
    words = (command, str(photos), *DEMO, "-o", f"two{suffix}")
    if by == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        torchrun += ["--master-port", str(free_port()), "-m", "vitcli", *words]
        subprocess.run(torchrun, cwd=tmp_path, env=environment(), capture_output=True, timeout=120)
    else:
        ranks = [{"RANK": n, "LOCAL_RANK": n, "WORLD_SIZE": "2"} for n in "01"]
        runs = [vits.start(*words, cwd=tmp_path, env={**vits.env, **rank}) for rank in ranks]
        assert [run.wait() for run in runs] == [0, 0]
    shards = [f"two-0000{n}-of-00002{suffix}" for n in (1, 2)]
    assert vit("merge", *shards, "-o", f"two{suffix}").code == 0
    assert vit(command, photos, *DEMO, "-o", f"one{suffix}").code == 0
    assert_same_rows(tmp_path / f"two{suffix}", tmp_path / f"one{suffix}")
