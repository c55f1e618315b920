"""Several processes, threads and workers at once: nobody waits for ever, the rows are the same."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import FEWER
from tests.faults.rules import DEMO, contents, ended, environment, run, until_gone, vit
from tests.faults.test_resume import assert_same_rows
from tests.fixtures.extras import needs
from tests.fixtures.forks import ForkServer, wait_for

SCRIPT = """
import torch, vitcli
torch.set_num_threads(2)
torch.randn(300, 300) @ torch.randn(300, 300)  # its threads are there before the workers are
rows = vitcli.classify({photos!r}, model="demo", top_k=1, workers={workers})
print(*(f"{{row.ref.path}} {{row.predictions[0].label}}" for row in rows), sep="\\n")
"""


@pytest.mark.parametrize(("command", "name"), [("classify", "o.jsonl"), ("embed", "o.npy")])
def test_no_byte_depends_on_the_number_of_workers(
    vits: ForkServer, fewer: Path, tmp_path: Path, command: str, name: str
) -> None:
    """K1: broken images and all. That workers overtake each other is seen to in tests/images."""
    made = []
    for workers in ("0", "1", "2", "8"):
        out = tmp_path / workers / name
        out.parent.mkdir()
        assert run(vits, command, fewer, "-m", "demo", "-j", workers, "-o", out, made=out).code == 3
        made.append(contents(out))
    assert made[1:] == made[:1] * 3


@pytest.mark.parametrize(("command", "name"), [("classify", "o.jsonl"), ("embed", "o.npy")])
def test_another_batch_size_gives_the_same_rows(
    vits: ForkServer, fewer: Path, tmp_path: Path, command: str, name: str
) -> None:
    """K1: numbers within 1e-6."""
    outs = []
    for size in ("1", "7", "32"):
        outs.append(tmp_path / size / name)
        outs[-1].parent.mkdir()
        assert (
            run(vits, command, fewer, "-m", "demo", "-j", "0", "-b", size, "-o", outs[-1]).code == 3
        )
    assert_same_rows(outs[0], outs[1])
    assert_same_rows(outs[0], outs[2])


def test_shards_may_run_at_once_into_one_folder(
    vits: ForkServer, fewer: Path, tmp_path: Path
) -> None:
    """K2: under torchrun, which tells each process its rank."""
    args = ("classify", fewer, "-m", "demo", "-j", "0")
    shards = [
        vits.start(*args, "-o", tmp_path / "o.jsonl", "--shard", f"{i}/4") for i in range(1, 5)
    ]
    assert {ended(shard).code for shard in shards} <= {0, 3}  # one may hold no broken image
    names = sorted(tmp_path.glob("o-*.jsonl"))
    assert len(names) == 4
    assert run(vits, "merge", *names, "-o", tmp_path / "merged.jsonl").code == 3
    assert run(vits, *args, "-o", tmp_path / "one.jsonl").code == 3
    assert_same_rows(tmp_path / "merged.jsonl", tmp_path / "one.jsonl")


def test_the_shards_of_different_runs_are_not_merged(
    vits: ForkServer, ten: Path, tmp_path: Path
) -> None:
    """K2: of other models it is the same as of other options."""
    for number, top in (("1/2", "3"), ("2/2", "4")):
        args = ("-m", "demo", "-j", "0", "-k", top, "-o", tmp_path / "o.jsonl", "--shard", number)
        assert run(vits, "classify", ten, *args).code == 0
    shards = sorted(tmp_path.glob("o-*.jsonl"))
    refused = run(
        vits, "merge", *shards, "-o", tmp_path / "merged.jsonl", made=tmp_path / "merged.jsonl"
    )
    assert refused.code == 1
    assert refused.err == (
        f"vit: {shards[1]} is of another run than {shards[0]}, which was made with "
        "--top-k 3 (now 4)\n"
    )


def test_the_second_of_two_processes_with_one_output_hears_of_the_first(
    vits: ForkServer, fewer: Path, tmp_path: Path
) -> None:
    """O8: whatever it was told to do with it; the first is not disturbed."""
    out = tmp_path / "out.jsonl"
    args = ("classify", fewer, "-m", "demo", "-j", "2", "-b", "1", "-o", out)
    first = vits.start(*args)
    wait_for(tmp_path / "out.jsonl.partial", 500)
    os.killpg(first.pid, signal.SIGSTOP)  # it is still at it, however long this takes
    for more in ((), ("--resume",), ("--overwrite",)):
        second = run(vits, *args, *more)
        assert second.code == 1
        assert re.fullmatch(
            rf"vit: {out} is being written by process {first.pid} on \S+ \(since \d\d:\d\d\)\n"
            r"  wait for it to end, or write to another file\n",
            second.err,
        )
    os.killpg(first.pid, signal.SIGCONT)
    assert ended(first, made=out).code == 3
    assert len(out.read_bytes().splitlines()) == FEWER


@needs("onnx")
def test_two_processes_share_the_machine_and_the_cache(
    vits: ForkServer, ten: Path, tmp_path: Path
) -> None:
    """K3: both finish, with the same rows; so do two that export one model for an engine."""
    args = ("classify", ten, *DEMO, "-j", "2", "--engine", "onnx")
    both = [vits.start(*args), vits.start(*args)]
    one, other = map(ended, both)
    assert (one.code, other.code) == (0, 0)
    assert one.out == other.out
    assert len(one.rows) == 10


@pytest.mark.parametrize("threads", ["1", "16"])
def test_the_number_of_threads_changes_nothing(
    vits: ForkServer, ten: Path, tmp_path: Path, threads: str
) -> None:
    """K4"""
    env = environment(OMP_NUM_THREADS=threads)
    found = vit("classify", ten, *DEMO, "-j", "2", cwd=tmp_path, env=env)
    assert found.out == run(vits, "classify", ten, *DEMO, "-j", "0").out


@pytest.mark.parametrize("how", ["module", "stdin", "frozen"])
def test_workers_start_from_any_program_whose_threads_are_running(
    ten: Path, tmp_path: Path, how: str
) -> None:
    """K4: the program itself is not run again in its workers."""
    script = SCRIPT.format(photos=str(ten), workers=2)
    path = tmp_path / "program.py"
    path.write_text(script)
    words = {"module": ["-m", "program"], "stdin": ["-"], "frozen": ["-c", FROZEN, path]}[how]
    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
        text=True,
        start_new_session=True,
    )
    out, err = process.communicate(script if how == "stdin" else None, timeout=300)
    assert (process.returncode, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == [str(p) for p in sorted(ten.iterdir())]
    assert until_gone(process.pid) == []


# What is left of a program that was frozen into one file: no source that could be imported.
FROZEN = """
import sys, types
source = open(sys.argv[1]).read()
main = sys.modules["__main__"]
main.__file__ = "/nowhere/program"
main.__spec__ = None
exec(compile(source, "/nowhere/program", "exec"), main.__dict__)
"""


@pytest.mark.slow
def test_twenty_starts_do_not_block(vits: ForkServer, ten: Path) -> None:
    """K4: with workers, each of them from a process whose torch has been imported."""
    for start in range(20):
        found = run(vits, "classify", ten, *DEMO, "-j", str(1 + start % 3))
        assert (found.code, len(found.rows)) == (0, 10)
