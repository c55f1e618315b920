"""Runs that are killed, interrupted and taken up again, as processes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.nursery import Nursery, nursery
from tests.fixtures.photos import many_photos

COUNT = 500
BROKEN = range(0, COUNT, 67)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 small photographs, 8 of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    many_photos(folder, COUNT, broken=BROKEN)
    return folder


@pytest.fixture(scope="module")
def vits(tmp_path_factory: pytest.TempPathFactory, clean_env: dict[str, str]) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("vits"), clean_env) as opened:
        yield opened


def contents(out: Path) -> dict[str, bytes]:
    """Output, index, and meta without its times."""
    found = {}
    for path in out.parent.glob(f"{out.stem}.*"):
        data = path.read_bytes()
        if path.name.endswith(".meta.json"):
            meta = json.loads(data)
            data = json.dumps({k: v for k, v in meta.items() if k != "seconds"}).encode()
        found[path.name] = data
    return found


def wait_for(path: Path, size: int = 1) -> None:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size >= size):
        assert time.monotonic() < deadline, f"{path} does not grow"
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "name", "workers", "times"),
    [
        ("classify", "out.jsonl", 0, 5),
        ("classify", "out.jsonl", 2, 5),
        ("embed", "out.npy", 0, 5),
        ("embed", "out.npy", 2, 5),
    ],
)
def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(
    vits: Nursery, many: Path, tmp_path: Path, command: str, name: str, workers: int, times: int
) -> None:
    def args(out: Path, *more: object) -> tuple[object, ...]:
        return (command, many, "-m", "demo", "-b", 8, "-j", workers, "-o", out, *more)

    clean = tmp_path / "clean" / name
    clean.parent.mkdir()
    started = time.monotonic()
    assert vits.vit(*args(clean)).wait() == 3
    duration = time.monotonic() - started
    expected = contents(clean)
    chance = random.Random(f"{name}{workers}")
    killed = 0
    for number in range(times):
        out = tmp_path / str(number) / name
        out.parent.mkdir()
        more: tuple[object, ...] = ()
        for _ in range(chance.choice((1, 1, 2))):
            child = vits.start(*args(out, *more))
            time.sleep(chance.uniform(0, duration))
            child.kill()
            killed += child.wait() == -signal.SIGKILL
            more = ("--resume",)
        ended = vits.vit(*args(out, "--resume"))
        assert ended.wait() == 3, ended.err
        assert contents(out) == expected, f"run {number}"
        assert not list(out.parent.glob("*.partial*"))
    assert killed > times / 2


def start_slow(vits: Nursery, many: Path, out: Path) -> object:
    """A run of one image at a time, which is on its way."""
    child = vits.start("classify", many, "-m", "demo", "-b", 1, "-j", 0, "-o", out)
    wait_for(out.with_name(out.name + ".partial"), 500)
    return child


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_says_how_to_continue(
    vits: Nursery, many: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out.jsonl"
    child = start_slow(vits, many, out)
    child.kill(number)
    assert child.wait() in (code, -number)
    partial = tmp_path / "out.jsonl.partial"
    rows = [json.loads(line) for line in partial.read_bytes().splitlines()]
    assert child.err == (
        f"vit: interrupted after {len(rows)} of 500 images; continue with: vit classify {many} "
        f"-m demo -b 1 -j 0 -o {out} --resume\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        "out.jsonl.partial",
        "out.jsonl.partial.journal",
    }


@pytest.fixture
def some(many: Path, tmp_path: Path) -> Path:
    """120 of the photographs, in a folder that may be changed."""
    folder = tmp_path / "some"
    folder.mkdir()
    for path in sorted(many.iterdir())[::4][:120]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def assert_same_rows(one: Path, other: Path) -> None:
    """Paths, failures and labels in order; numbers within 1e-6."""
    if one.suffix == ".npy":
        np.testing.assert_allclose(np.load(one), np.load(other), atol=1e-6)
        indexes = [path.with_name(path.stem + ".index.jsonl").read_bytes() for path in (one, other)]
        assert indexes[0] == indexes[1]
        return
    rows = [list(map(json.loads, path.read_bytes().splitlines())) for path in (one, other)]
    for a, b in zip(*rows, strict=True):
        scores = [[p.pop("score") for p in row.get("predictions", ())] for row in (a, b)]
        assert scores[0] == pytest.approx(scores[1], abs=2e-6)
        assert a == b


@pytest.mark.parametrize(("command", "name"), [("classify", "out.jsonl"), ("embed", "out.npy")])
def test_shards_merge_into_one_run_and_again_when_images_come(
    vits: Nursery, many: Path, some: Path, tmp_path: Path, command: str, name: str
) -> None:
    args = (command, some, "-m", "demo", "-j", 0, "-o")
    shards = [
        tmp_path / f"{Path(name).stem}-0000{i}-of-00004{Path(name).suffix}" for i in range(1, 5)
    ]
    for number in range(1, 5):
        assert vits.vit(*args, tmp_path / name, "--shard", f"{number}/4").wait() in (0, 3)
    assert all(path.exists() for path in shards)
    one, merged = tmp_path / f"one-{name}", tmp_path / f"merged-{name}"
    assert vits.vit(*args, one).wait() == 3
    ended = vits.vit("merge", *reversed(shards), "-o", merged)
    assert ended.wait() == 3, ended.err
    assert_same_rows(merged, one)
    assert vits.vit(*args, merged, "--resume").err.startswith(f"vit: {merged} is already complete")

    for path in sorted(many.iterdir())[1::4][:100]:
        (some / path.name).write_bytes(path.read_bytes())
    for number in range(1, 5):
        more = vits.vit(*args, tmp_path / name, "--shard", f"{number}/4", "--resume")
        assert "of them before" in more.err
    assert vits.vit(*args, one, "--overwrite").wait() == 3
    assert vits.vit("merge", *shards, "-o", merged).wait() == 1
    assert vits.vit("merge", *shards, "-o", merged, "--overwrite").wait() == 3
    assert_same_rows(merged, one)

    def refused(*given: Path) -> str:
        ended = vits.vit("merge", *given, "-o", tmp_path / f"no-{name}")
        assert ended.wait() == 1
        return ended.err

    assert "shard 2/4 is missing" in refused(shards[0], *shards[2:])
    assert "shard 1/4 is given twice" in refused(*shards, shards[0])
    assert "is no shard" in refused(*shards[1:], one)


def test_options_that_need_a_file_or_a_resume_say_so(vits: Nursery, some: Path) -> None:
    for args, said in (
        (("--resume",), "a pipe cannot be resumed"),
        (("--retry-failed",), "add --resume"),
        (("--shard", "1/4"), "name it with --out"),
        (("--shard", "5/4"), "give I/N with I from 1 to N"),
    ):
        ended = vits.vit("classify", some, "-m", "demo", *args)
        assert (ended.wait(), said in ended.err) == (2, True), ended.err


def test_a_second_signal_stops_at_once_and_what_is_written_stays(
    vits: Nursery, many: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    child = start_slow(vits, many, out)
    child.kill(signal.SIGINT)
    child.kill(signal.SIGINT)  # in the same instant: it is one signal
    assert child.wait() == -signal.SIGINT
    assert "continue with" in child.err
    assert (
        vits.vit("classify", many, "-m", "demo", "-b", 1, "-j", 0, "-o", out, "--resume").wait()
        == 3
    )
    assert len(out.read_bytes().splitlines()) == COUNT


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("command", "name"), [("classify", "out.jsonl"), ("embed", "out.npy")])
def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room(
    vits: Nursery, many: Path, tmp_path: Path, small_disk: Path, command: str, name: str
) -> None:
    args = (command, many, "-m", "demo", "-j", 0, "-o")
    (tmp_path / "clean").mkdir()
    assert vits.vit(*args, tmp_path / "clean" / name).wait() == 3
    full = vits.vit(*args, small_disk / name)
    assert full.wait() == 1
    first, hint = full.err.splitlines()
    assert re.fullmatch(
        rf"vit: cannot write to {small_disk}/\S+: No space left on device "
        r"\(\d+ of 500 images done\)",
        first,
    )
    assert hint == "  free space, then repeat with --resume"
    assert not (small_disk / name).exists()
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert vits.vit(*args, small_disk / name, "--resume").wait() == 3
    assert contents(small_disk / name) == contents(tmp_path / "clean" / name)
