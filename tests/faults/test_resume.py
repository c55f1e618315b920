"""Runs that are killed, interrupted and taken up again, as processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults.rules import DEMO, contents, environment, run
from tests.fixtures.forks import ForkServer


@pytest.fixture(scope="module")
def shard(fewer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photographs in a tar."""
    packed = tmp_path_factory.mktemp("shard") / "shard.tar"
    with tarfile.open(packed, "w") as tar:
        for path in sorted(fewer.iterdir()):
            tar.add(path, path.name)
    return packed


@pytest.fixture(scope="module")
def shards(fewer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in three tars in a folder, with what WebDataset's samples have beside an image."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(3):
        with tarfile.open(folder / f"s-{number}.tar", "w") as tar:
            for path in sorted(fewer.iterdir())[number::3]:
                tar.add(path, f"a/{path.name}")
                tar.addfile(tarfile.TarInfo(f"a/{path.stem}.cls"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "name", "workers", "inputs", "part"),
    [
        ("classify", "out.jsonl", 0, "fewer", ""),
        ("classify", "out.jsonl", 2, "shard", ""),
        ("embed", "out.npy", 0, "shard", ""),
        ("embed", "out.npy", 2, "fewer", ""),
        ("embed", "out.npy", 2, "shards", "1/2"),
    ],
)
def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(
    vits: ForkServer,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    command: str,
    name: str,
    workers: int,
    inputs: str,
    part: str,
) -> None:
    """S4, S16: some of them are killed again while they go on. `--kills 20` does it more often."""
    times = pytestconfig.getoption("kills")
    images = request.getfixturevalue(inputs)

    def args(out: Path, *more: object) -> tuple[object, ...]:
        given = (*more, *(["--shard", part] if part else []))
        return (command, images, "-m", "demo", "-b", 8, "-j", workers, "-o", out, *given)

    def written(out: Path) -> Path:
        return out.with_stem(f"{out.stem}-00001-of-00002") if part else out

    clean = tmp_path / "clean" / name
    clean.parent.mkdir()
    started = time.monotonic()
    assert vits.vit(*args(clean)).wait() == 3
    duration = time.monotonic() - started
    expected = contents(written(clean))
    chance = random.Random(f"{name}{workers}")
    for number in range(times):
        out = tmp_path / str(number) / name
        out.parent.mkdir()
        left = chance.choice((1, 1, 2))
        while left:
            child = vits.start(*args(out, *(["--resume"] if any(out.parent.iterdir()) else [])))
            time.sleep(chance.uniform(0, duration))
            child.kill()
            if child.wait() == -signal.SIGKILL:
                left -= 1
            else:  # it was quicker than the first one
                duration *= 0.8
                for path in out.parent.iterdir():
                    path.unlink()
        ended = vits.vit(*args(out, "--resume"))
        assert ended.wait() == 3, ended.err
        assert contents(written(out)) == expected, f"run {number}"
        assert not list(out.parent.glob("*.partial*"))


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
    vits: ForkServer, many: Path, some: Path, tmp_path: Path, command: str, name: str
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
    assert f"vit: {merged} is already complete" in vits.vit(*args, merged, "--resume").err

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
    assert "is not a shard" in refused(*shards[1:], one)


def test_options_that_need_a_file_or_a_resume_say_so(vits: ForkServer, some: Path) -> None:
    for args, said in (
        (("--resume",), "a pipe cannot be resumed"),
        (("--retry-failed",), "add --resume"),
        (("--shard", "1/4"), "name it with --out"),
        (("--shard", "5/4"), "give I/N with I from 1 to N"),
    ):
        ended = vits.vit("classify", some, "-m", "demo", *args)
        assert (ended.wait(), said in ended.err) == (2, True), ended.err


@pytest.mark.parametrize(("command", "name"), [("classify", "o.jsonl"), ("embed", "o.npy")])
def test_where_nothing_is_new_no_model_is_loaded(
    vits: ForkServer, fewer: Path, tmp_path: Path, command: str, name: str
) -> None:
    """S8: and torch is not even imported; the exit code is that of the finished run."""
    args = (command, fewer, "-m", "demo", "-o", tmp_path / name, "--resume")
    first = run(vits, *args, made=tmp_path / name)  # nothing to resume: from the start
    assert (first.code, "images done" in first.err) == (3, True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    script = (
        "import sys; from vitcli.cli import main; code = main(sys.argv[1:]);"
        "print('torch' in sys.modules); sys.exit(code)"
    )
    words = [sys.executable, "-c", script, *map(str, args)]
    again = subprocess.run(words, capture_output=True, text=True, env=environment())
    assert (again.returncode, again.stdout) == (3, "False\n"), again.stderr
    assert f"vit: {tmp_path / name} is already complete\n" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-k", "3"), "--top-k 5 (now 3)"),
        (("--no-exif",), "--exif True (now False)"),
        (("--decode", "fast"), "--decode exact (now fast)"),
        (("-b", "8"), "--batch-size 16 (now 8)"),
        (("--format", "csv"), "--format jsonl (now csv)"),
        (("--patch-size", "8x2"), "--patch-size none (now 8, 2)"),
    ],
)
def test_other_options_are_named_before_anything_is_loaded(
    vits: ForkServer, ten: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    """S6: the output is not touched."""
    out = tmp_path / "o.jsonl"
    args = ("classify", ten, "-m", "demo", "-j", "0", "-o", out)
    run(vits, *args)
    before = out.read_bytes(), out.stat().st_mtime_ns
    refused = run(vits, *args, "--resume", *options)
    assert refused.err == (
        f"vit: {out} was made with {said}\n"
        "  give the same model and options; --overwrite starts over\n"
    )
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before


def test_failed_rows_are_done_again_where_asked(
    vits: ForkServer, some: Path, tmp_path: Path
) -> None:
    """S9"""
    out = tmp_path / "o.jsonl"
    args = ("classify", some, *DEMO, "-j", "0", "-o", out, "--resume")
    run(vits, *args)
    [broken, *_] = [
        r["path"] for r in map(json.loads, out.read_bytes().splitlines()) if "error" in r
    ]
    stamp, good = Path(broken).stat(), next(p for p in some.iterdir() if str(p) != broken)
    data = good.read_bytes()
    Path(broken).write_bytes((data + bytes(stamp.st_size))[: stamp.st_size])
    os.utime(broken, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as if it had been out of reach
    kept = run(vits, *args)
    assert f"vit: {out} is already complete" in kept.err
    again = run(vits, *args, "--retry-failed")
    assert "of them before" in again.err
